#!/usr/bin/env python3
"""Measures our broker in comparison with its peers: `make bench`, or bench/run.py --help.

Builds what is needed, runs every scenario of bench/scenarios.py on every peer that is installed, several times
over and in turn, and prints the medians. A complete run also writes docs/performance.md and
docs/performance.svg; any other writes to target/bench/ instead, where all samples are too.

BASE_BUSRTD names a second build of ours, which is then measured as well. With --pairs only the two builds are
compared, in pairs of runs. With --attack only the section "under attack" is measured.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import attacks
import chart
import machine
import pairs
import report
from load import generate
from peers import Failure, Peer, Server, base_peer, discover, find_base, our_peer, with_defaults
from results import Results
from scenarios import BASE, OURS, REFERENCE, ROWS, SCENARIOS, Scenario, absence, runs_on, select

ROOT = Path(__file__).resolve().parent.parent
FULL_RUNS = 5


def build(ours: bool) -> None:
    """Builds the load generator, and the broker unless --ours names a program."""
    cargo = os.environ.get("CARGO", "cargo")
    builds = [("target/bench", ["--locked", "--manifest-path", "bench/loadgen/Cargo.toml"])]
    if ours:
        builds.append(("target", ["-p", "busrt", "--features", "server,cli", "--bins"]))
    for target, arguments in builds:
        environment = {**os.environ, "CARGO_TARGET_DIR": str(ROOT / target)}
        subprocess.run([cargo, "build", "--release", *arguments], cwd=ROOT, env=environment, check=True)


def measure(scenarios: tuple[Scenario, ...], peers: list[Peer], runs: int, quick: bool) -> Results:
    results = Results()
    total = runs * sum(runs_on(scenario, peer.name) for scenario in scenarios for peer in peers)
    done = 0
    for run in range(runs):
        for scenario in scenarios:
            # The peers alternate, close together in time, and their order changes with every run.
            turn = run % len(peers)
            for peer in peers[turn:] + peers[:turn]:
                if not runs_on(scenario, peer.name):
                    continue
                done += 1
                work = (scenario.quick if quick else scenario.args).split(" pid")[0]
                what = f"[{done}/{total}] run {run + 1}: {work}{' over TCP' * scenario.tcp}, {peer.title}"
                print(what, end=" ... ", file=sys.stderr, flush=True)
                rows = [row for row in scenario.rows if absence(scenario, row, peer.name) is None]
                # Each run has its own broker, so that no state of an earlier run remains.
                with tempfile.TemporaryDirectory(prefix="busrt-bench-") as directory:
                    try:
                        with Server(peer, Path(directory), scenario.tcp, scenario.options) as server:
                            figures = generate(scenario, peer, server, scenario.quick if quick else scenario.args)
                            told = [results.add(row, peer.name, figures) for row in rows]
                            print(", ".join(told), file=sys.stderr, flush=True)
                    except Failure as failure:
                        for row in rows:
                            results.fail(row, peer.name, str(failure))
                        print(f"FAILED: {failure}", file=sys.stderr, flush=True)
    return results


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Measures our broker beside its peers and a second build of ours, and under attack.",
        epilog="BASE_BUSRTD names the second build, BASE_BUSRT its command line client if that is in another directory, "
        "BASE_VERSION its version for the page.",
    )
    parser.add_argument("--runs", type=int, help=f"number of runs of each scenario ({FULL_RUNS}; 1 with --quick)")
    names = ", ".join(row.name for row in ROWS)
    parser.add_argument("--scenarios", metavar="NAME,...", help=f"measure only these, and no attacks: {names}")
    parser.add_argument("--quick", action="store_true", help="a tenth of the work, once, to check that everything runs")
    parser.add_argument(
        "--pairs", metavar="N", type=int, nargs="?", const=pairs.DEFAULT_PAIRS,
        help=f"compare with the build that BASE_BUSRTD names, in N pairs of runs ({pairs.DEFAULT_PAIRS})",
    )  # fmt: skip
    parser.add_argument("--rows", metavar="NAME,...", help=f"rows for --pairs ({pairs.DEFAULT_ROWS})")
    parser.add_argument(
        "--busy", metavar="N", type=int, default=0, help="with --pairs: N busy programs run beside it (0)"
    )
    parser.add_argument("--seconds", type=float, default=1.0, help="approximate duration of a run of --pairs (1.0)")
    parser.add_argument("--ours", metavar="FILE", type=Path, help="busrtd to measure instead of target/release/busrtd")
    kinds = ", ".join(attack.name for attack in attacks.ATTACKS)
    parser.add_argument(
        "--attack", metavar="NAME,...", nargs="?", const="",
        help=f"measure only the effect of attacks on other clients, of all attacks or some of these: {kinds}",
    )  # fmt: skip
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures of --pairs or --attack here")
    arguments = parser.parse_args()
    arguments.runs = arguments.runs if arguments.runs is not None else 1 if arguments.quick else FULL_RUNS
    if arguments.runs < 1 or (arguments.pairs is not None and arguments.pairs < 1):
        parser.error("--runs and --pairs must be at least 1")
    if arguments.seconds <= 0:
        parser.error("--seconds must be more than 0")
    if arguments.pairs is not None and arguments.attack is not None:
        parser.error("--pairs and --attack are measured one after another")
    if arguments.busy < 0 or (arguments.busy and arguments.pairs is None):
        parser.error("--busy is a number of programs beside --pairs")
    if (arguments.ours or arguments.json) and arguments.pairs is None and arguments.attack is None:
        parser.error("--ours and --json belong to --pairs and --attack")
    if arguments.ours and not arguments.ours.is_file():
        parser.error("--ours names no file")
    try:
        arguments.selected = select(arguments.scenarios)
        arguments.attacks = attacks.choose(arguments.attack or None)
        arguments.pair_rows = pairs.choose(arguments.rows)
    except ValueError as e:
        parser.error(str(e))
    return arguments


def compare(arguments: argparse.Namespace) -> int:
    """Runs --pairs. Returns 0 if no row is below its bar."""
    program = find_base()
    if program is None:
        raise Failure("BASE_BUSRTD must name the build to compare with")
    rows, scenarios = arguments.pair_rows
    ours = our_peer(our_program(arguments), "")
    with busy_programs(arguments.busy):
        results = pairs.measure(rows, scenarios, base_peer(program), ours, arguments.pairs, arguments.seconds)
    print(f"\n{report.pairs_text(results)}")
    beside = f", with {arguments.busy} busy programs" if arguments.busy else ""
    print(f"Waking a sleeping core takes {machine.wake_up_cost(ROOT)}{beside}.")
    write_json(arguments.json, {result.row.name: result.raw() for result in results})
    return 0 if all(result.verdict == "ok" for result in results) else 1


@contextlib.contextmanager
def busy_programs(count: int) -> Iterator[None]:
    """Runs programs that always use a core, while the context lasts."""
    programs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def attack(arguments: argparse.Namespace) -> int:
    """Runs --attack. Returns 0 if every kind is within the bar."""
    results = measure_attacks(arguments)
    print(f"\n{report.attacks_text(results)}")
    write_json(arguments.json, attacks.raw(results))
    return 0 if all(result.holds for result in results) else 1


def measure_attacks(arguments: argparse.Namespace) -> list[attacks.AttackResult]:
    program = find_base()
    base = with_defaults(BASE, program) if program else None
    build = with_defaults(OURS, our_program(arguments))
    return attacks.measure(arguments.attacks, build, base, arguments.runs, arguments.quick)


def our_program(arguments: argparse.Namespace) -> Path:
    return arguments.ours.resolve() if arguments.ours else ROOT / "target/release/busrtd"


def write_json(path: Path | None, figures: dict) -> None:
    if path:
        path.write_text(json.dumps(figures, indent=1) + "\n")


def end(number: int, _frame: object) -> NoReturn:
    # The first signal raises an exception, which stops everything that runs; further signals must not interrupt that.
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    print("\nInterrupted: everything is stopped, nothing is written.", file=sys.stderr)
    sys.exit(128 + number)


def main() -> int:
    arguments = parse_arguments()
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, end)
    # The brokers inherit this limit, for thousands of clients.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    load = os.getloadavg()[0]  # before the build adds to it
    build(ours=arguments.ours is None)
    try:
        if arguments.pairs is not None:
            return compare(arguments)
        if arguments.attack is not None:
            return attack(arguments)
        return measure_all(arguments, load)
    except Failure as failure:
        print(f"Error: {failure}", file=sys.stderr)
        return 2


def measure_all(arguments: argparse.Namespace, load: float) -> int:
    """Measures everything that the page shows, or the selected scenarios."""
    peers, notices = discover(ROOT, machine.our_version(ROOT))
    for notice in notices:
        print(f"Notice: {notice}", file=sys.stderr)

    results = measure(arguments.selected, peers, arguments.runs, arguments.quick)
    attacked = measure_attacks(arguments) if arguments.scenarios is None else []

    shortcomings = [
        words
        for words, applies in (
            ("--quick", arguments.quick),
            ("not every scenario", arguments.selected != SCENARIOS),
            (f"fewer than {FULL_RUNS} runs", arguments.runs < FULL_RUNS),
            ("no reference broker to compare with", all(peer.name != REFERENCE for peer in peers)),
        )
        if applies
    ]
    facts = machine.describe(ROOT, load, arguments.runs)
    table = report.Table(results, arguments.selected, peers)
    print(f"\n{table.text()}\n")
    if attacked:
        print(f"{report.attacks_text(attacked)}\n")
    scratch = ROOT / "target/bench"
    samples = {"facts": facts, "samples": results.raw(), "attacks": attacks.raw(attacked)}
    (scratch / "samples.json").write_text(json.dumps(samples, indent=1) + "\n")
    into = scratch if shortcomings else ROOT / "docs"
    into.mkdir(exist_ok=True)
    (into / "performance.md").write_text(report.page(table, attacked, peers, notices, facts, shortcomings))
    (into / "performance.svg").write_text(chart.draw(table))
    if shortcomings:
        print(f"Not for docs/ ({', '.join(shortcomings)}).", end=" ")
    print(f"Written: {into.relative_to(ROOT)}/performance.md and performance.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
