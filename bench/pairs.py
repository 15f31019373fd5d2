"""Pairs of runs: a second build of ours and this one, alternating and close together in time."""

from __future__ import annotations

import re
import statistics
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from load import generate
from peers import Failure, Peer, Server
from scenarios import BASE, OURS, ROWS, Row, Scenario, select

DEFAULT_ROWS = "p2p4,p2p1,p2p_1k,p2p_64k,fan100,fan1000,ping_p50,ack1,ack64,subs100k"
DEFAULT_PAIRS = 20
# Minimum upper quartile of the ratios of a row.
BAR = 0.97
BARS = {"fan1000": 0.90}


@dataclass
class Pairs:
    """The figures of one row, pair by pair."""

    row: Row
    base: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def ratios(self) -> list[float]:
        """Returns the ratio of ours to base in each pair, inverted where necessary so that more than 1 is better."""
        pairs = [(base, ours) for base, ours in zip(self.base, self.ours) if base > 0 and ours > 0]
        return [ours / base if self.row.more_is_better else base / ours for base, ours in pairs]

    def quartiles(self) -> tuple[float, float, float] | None:
        """Returns lower quartile, median and upper quartile of the ratios; None if there are none."""
        ratios = self.ratios()
        if not ratios:
            return None
        if len(ratios) == 1:
            return ratios[0], ratios[0], ratios[0]
        lower, median, upper = statistics.quantiles(ratios, n=4, method="inclusive")
        return lower, median, upper

    @property
    def bar(self) -> float:
        return BARS.get(self.row.name, BAR)

    @property
    def verdict(self) -> str:
        """Returns `ok`, `LOW`, or `FAILED` if too few pairs succeeded for meaningful quartiles."""
        quartiles = self.quartiles()
        if quartiles is None or len(self.failures) * 2 >= len(self.base) + len(self.failures):
            return "FAILED"
        return "ok" if quartiles[2] >= self.bar else "LOW"

    def raw(self) -> dict:
        quartiles = self.quartiles()
        return {
            "unit": self.row.unit,
            "more_is_better": self.row.more_is_better,
            "base": self.base,
            "ours": self.ours,
            "ratios": self.ratios(),
            "quartiles": list(quartiles) if quartiles else None,
            "bar": self.bar,
            "failures": self.failures,
            "verdict": self.verdict,
        }


def choose(names: str | None) -> tuple[list[Row], tuple[Scenario, ...]]:
    """Returns the rows to compare, and the scenarios that produce them."""
    scenarios = select(names or DEFAULT_ROWS)
    wanted = {name.strip() for name in (names or DEFAULT_ROWS).split(",")}
    rows = [row for row in ROWS if row.name in wanted]
    for row in rows:
        if row.unit == "lost":
            raise ValueError(f"{row.name} has no ratio")
    return rows, scenarios


def resized(args: str, figures: dict[str, str], seconds: float) -> str:
    """The scenario's arguments with as many messages as take that long, given the figures of a short run.

    Arguments without a number of messages, or figures without a duration, are left as they are.
    """
    found = re.search(r"\bn=(\d+)", args)
    if not found:
        return args
    count = int(found[1])
    if "secs" in figures:
        took = float(figures["secs"])
    elif "mean_us" in figures:
        took = float(figures["mean_us"]) * count / 1e6
    else:
        return args
    # A scenario divides its messages among pairs: the number is rounded so that all of them divide it.
    wanted = max(count * seconds / max(took, 0.001), 100)
    return args[: found.start(1)] + str(round(wanted / 100) * 100) + args[found.end(1) :]


def run_once(scenario: Scenario, peer: Peer, args: str) -> dict[str, str]:
    """Returns the figures of one run against a broker that is started for it."""
    with tempfile.TemporaryDirectory(prefix="busrt-bench-") as directory:
        with Server(peer, Path(directory), scenario.tcp, scenario.options) as server:
            return generate(scenario, peer, server, args)


def calibrate(scenario: Scenario, base: Peer, seconds: float) -> str:
    """Returns arguments with which a run on the base build takes about `seconds`."""
    if scenario.cli:
        return scenario.quick
    # All arguments except the number of messages are those of a full run.
    short = re.search(r"\bn=\d+", scenario.quick)
    args = re.sub(r"\bn=\d+", short[0], scenario.args) if short else scenario.args
    # Twice, because a short run predicts a long one badly.
    for _ in range(2):
        args = resized(args, run_once(scenario, base, args), seconds)
    return args


def measure(
    rows: list[Row], scenarios: tuple[Scenario, ...], base: Peer, ours: Peer, count: int, seconds: float
) -> list[Pairs]:
    """`count` pairs of each scenario; all scenarios in turn, so that a slow minute of the machine meets every row."""
    results = {row.name: Pairs(row) for row in rows}
    sizes: dict[Scenario, str] = {}
    for scenario in scenarios:
        sizes[scenario] = calibrate(scenario, base, seconds)
    for number in range(count):
        # The order is ABBA, so that neither build always runs after the other.
        order = [base, ours] if number % 2 == 0 else [ours, base]
        for scenario in scenarios:
            what = f"pair {number + 1} of {count}: {sizes[scenario].split(' pid')[0]}"
            print(what, end=" ... ", file=sys.stderr, flush=True)
            wanted = [row for row in scenario.rows if row.name in results]
            try:
                figures = {peer.name: run_once(scenario, peer, sizes[scenario]) for peer in order}
                pair = [(row, *(float(figures[peer][row.key]) for peer in (BASE, OURS))) for row in wanted]
            except (Failure, KeyError, ValueError) as e:
                reason = str(e) if isinstance(e, Failure) else "no figure"
                for row in wanted:
                    results[row.name].failures.append(reason)
                print(f"FAILED: {reason}", file=sys.stderr, flush=True)
                continue
            told = []
            for row, base_value, our_value in pair:
                results[row.name].base.append(base_value)
                results[row.name].ours.append(our_value)
                told.append(f"{row.name} {base_value:g} to {our_value:g}")
            print(", ".join(told), file=sys.stderr, flush=True)
    return list(results.values())
