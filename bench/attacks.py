"""Attacks: the effect on a probe of clients that ask the broker for as much work as possible."""

from __future__ import annotations

import json
import select
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from load import LOADGEN
from peers import Failure, Peer, Server
from scenarios import BASE, OURS

ALONE = "alone"
# The maximum for the probe during an attack may exceed that of the probe alone by this much (medians).
BAR_MS = 20.0
SECONDS, QUICK_SECONDS = 1.5, 0.7  # duration of an attack
LEAD, TAIL = 0.2, 0.3  # time that the probe runs before and after the attack
PREPARATION_TIMEOUT = 60.0  # seconds
PATIENCE = 5.0  # seconds that the probe waits for its last answers
ATTACK_END_TIMEOUT = 10.0  # seconds, after the probe has ended
QUICK_SCALE = 10


@dataclass(frozen=True)
class Attack:
    """One kind of attack, with its name in the load generator."""

    name: str
    meaning: str


ATTACKS = (
    Attack("filters", r"20 `client.list` in one write of about 1 KB, each with a filter such as `\w{200}`, repeated"),
    Attack("heavy_filters", r"45 `client.list` in one write of about 2.7 KB, filters such as `(\w{50}){50}`, repeated"),
    Attack("subscribe_1m", "a million topics in one SUBSCRIBE frame, then all in one UNSUBSCRIBE frame, repeated"),
    Attack("subscribe_masks", "the same with 100,000 masks of 16 levels, half of them wildcards"),
    Attack("exclude_1m", "the same with a million exclusions"),
    Attack("leave_1m", "four clients with a million subscriptions each disconnect, one after another"),
    Attack("leave_family", "two primaries with 6,000 and 3,000 secondaries disconnect, one after another"),
    Attack("resubscribe", "a client subscribes to 1,100 masks and unsubscribes, repeated; another holds 300,000"),
    Attack("masks_512_levels", "2,000 masks of 512 levels in one frame, then unsubscribed, repeated"),
    Attack("mask_deep", "masks of 16,000 levels and publications to topics as deep; a broker may refuse both"),
    Attack("masks_all", "one client holds all 2^18 masks `{a|+}/{a|+}/…`; bursts of publications to `a/a/…`"),
    Attack("burst_1000", "bursts of 500 publications to 1,000 subscribers, all of which read"),
    Attack("burst_stuck", "bursts of 3,000 publications to 300 subscribers, of which 30 do not read"),
    Attack("storm", "two clients connect, register and disconnect continuously; 500 subscribe to `.broker/info`"),
    Attack("broadcast_names", "bursts of 10 broadcasts to `?.?.?.*`, which reaches 3,000 names of 60 parts each"),
    Attack("large_frames", "a client sends itself frames of 16 MiB"),
    Attack("unread_acks", "four clients send acknowledged publications continuously and never read"),
    Attack("flood_unread", "two clients flood one that does not read with small frames, not acknowledged"),
    Attack("flood_self", "a client floods itself with small frames and reads slowly"),
)  # fmt: skip


@dataclass
class Figures:
    """The measurements of the probe, run by run, in milliseconds."""

    p50: list[float] = field(default_factory=list)
    p999: list[float] = field(default_factory=list)
    maximum: list[float] = field(default_factory=list)
    own: list[float] = field(default_factory=list)  # maximum lateness of the probe itself
    rounds: list[int] = field(default_factory=list)  # rounds that the attack completed
    cut: list[int] = field(default_factory=list)  # connections of the attack that the broker closed or refused
    failures: list[str] = field(default_factory=list)

    def add(self, probe: dict, attack: dict) -> None:
        self.p50.append(probe["p50_us"] / 1000)
        self.p999.append(probe["p999_us"] / 1000)
        self.maximum.append(probe["max_us"] / 1000)
        self.own.append(probe["own_max_us"] / 1000)
        self.rounds.append(attack.get("rounds", 0))
        self.cut.append(attack.get("cut", 0))

    @property
    def failed(self) -> bool:
        """Returns whether a run gave no figures: a broker that does not answer the probe is not an outlier."""
        return bool(self.failures) or not self.maximum

    def medians(self) -> tuple[float, float, float]:
        """Returns p50, p99.9 and the maximum; NaN if there are none."""
        p50, p999, maximum = (
            statistics.median(values) if values else float("nan") for values in (self.p50, self.p999, self.maximum)
        )
        return p50, p999, maximum


@dataclass
class AttackResult:
    """One kind of attack: the probe alone, during the attack, and during the attack on the base build."""

    attack: Attack
    by: dict[str, Figures] = field(default_factory=dict)

    def get(self, who: str) -> Figures:
        return self.by.setdefault(who, Figures())

    @property
    def above(self) -> float:
        """Returns by how many milliseconds the median of the maxima exceeds that of the probe alone."""
        return self.get(OURS).medians()[2] - self.get(ALONE).medians()[2]

    @property
    def holds(self) -> bool:
        return not self.get(OURS).failed and not self.get(ALONE).failed and self.above <= BAR_MS


def raw(results: list[AttackResult]) -> dict:
    """Returns all figures, for a file."""
    return {
        result.attack.name: {"holds": result.holds, "by": {who: asdict(figures) for who, figures in result.by.items()}}
        for result in results
    }


def choose(names: str | None) -> tuple[Attack, ...]:
    """Returns the kinds with these names, separated by commas; all kinds for None."""
    if names is None:
        return ATTACKS
    wanted = {name.strip() for name in names.split(",") if name.strip()}
    unknown = wanted - {attack.name for attack in ATTACKS}
    if unknown or not wanted:
        known = ", ".join(attack.name for attack in ATTACKS)
        raise ValueError(f"no such attack: {', '.join(sorted(unknown))}; there are {known}")
    return tuple(attack for attack in ATTACKS if attack.name in wanted)


def measure(attacks: tuple[Attack, ...], ours: Peer, base: Peer | None, runs: int, quick: bool) -> list[AttackResult]:
    """Measures every kind `runs` times; the base build, which is only shown for comparison, half as often."""
    results = [AttackResult(attack) for attack in attacks]
    for run in range(runs):
        for number, result in enumerate(results):
            what = f"run {run + 1} of {runs}, attack {number + 1} of {len(results)}: {result.attack.name}"
            print(what, end=" ... ", file=sys.stderr, flush=True)
            told = []
            for who, peer in ((ALONE, ours), (OURS, ours), (BASE, base)):
                if peer is None or (who == BASE and run >= (runs + 1) // 2):
                    continue
                figures = result.get(who)
                try:
                    figures.add(*_run_once(peer, None if who == ALONE else result.attack, quick))
                    told.append(f"{who} {figures.maximum[-1]:.1f} ms")
                except Failure as failure:
                    figures.failures.append(str(failure))
                    told.append(f"{who} FAILED: {failure}")
            print(", ".join(told), file=sys.stderr, flush=True)
    return results


def _run_once(peer: Peer, attack: Attack | None, quick: bool) -> tuple[dict, dict]:
    """Returns the figures of the probe and of the attack, on a broker that is started for them."""
    seconds = QUICK_SECONDS if quick else SECONDS
    with tempfile.TemporaryDirectory(prefix="busrt-bench-") as directory:
        # The broker is killed afterwards: its shutdown is not measured here.
        with Server(peer, Path(directory), stop_timeout=0) as server:
            try:
                return _probe(server, attack, seconds, quick)
            except Failure:
                if not server.is_alive():
                    raise Failure("the broker ended") from None
                raise


def _probe(server: Server, attack: Attack | None, seconds: float, quick: bool) -> tuple[dict, dict]:
    attacker = _prepare(server, attack, seconds, quick) if attack else None
    probe = None
    try:
        duration = LEAD + seconds + TAIL
        probe = _start("probe", "--address", server.address, "--seconds", str(duration), "--patience", str(PATIENCE))
        time.sleep(LEAD)
        if attacker:
            _tell(attacker, "go\n")
        figures = _figures(probe, "the probe", duration + PATIENCE + 10)
        done = _figures(attacker, "the attack", ATTACK_END_TIMEOUT) if attacker else {}
    finally:
        for process in (probe, attacker):
            if process:
                _end(process)
    if figures["closed"]:
        raise Failure("the probe was disconnected")
    return figures, done


def _prepare(server: Server, attack: Attack, seconds: float, quick: bool) -> subprocess.Popen:
    """Starts an attacker, which then waits for the command to begin."""
    scale = QUICK_SCALE if quick else 1
    attacker = _start(
        "attack", attack.name, "--address", server.address, "--seconds", str(seconds), "--scale", str(scale)
    )
    try:
        readable, _, _ = select.select([attacker.stdout], [], [], PREPARATION_TIMEOUT)
        if not readable:
            raise Failure(f"not prepared within {PREPARATION_TIMEOUT:.0f} s")
        if attacker.stdout.readline() != "ready\n":
            raise Failure("the attack could not be prepared")
    except BaseException:
        _end(attacker)
        raise
    return attacker


def _start(*arguments: str) -> subprocess.Popen:
    # Errors go to the terminal. The process has its own session, because the kernel first divides the cores among
    # sessions.
    return subprocess.Popen(
        [LOADGEN, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
    )


def _tell(process: subprocess.Popen, line: str) -> None:
    try:
        process.stdin.write(line)
        process.stdin.flush()
    except OSError:
        raise Failure("the attack ended before it began") from None


def _figures(process: subprocess.Popen, name: str, timeout: float) -> dict:
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        raise Failure(f"{name} did not end in time: is the machine busy?") from None
    if process.returncode != 0:
        raise Failure(f"{name} ended with {process.returncode}")
    return json.loads(output)


def _end(process: subprocess.Popen) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream:
            try:
                stream.close()
            except OSError:
                pass
