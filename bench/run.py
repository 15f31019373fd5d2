#!/usr/bin/env python3
"""Measures our broker side by side with its peers: `make bench`, or bench/run.py --help.

Builds what is needed, runs every scenario of bench/scenarios.py on every peer that is installed, several times
over and in turn, and prints the medians. A complete run also writes docs/performance.md and
docs/performance.svg; any other writes to target/bench/ instead, where all samples are too.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NoReturn

import chart
import machine
import report
from peers import Failure, Peer, Server, discover
from results import Results
from scenarios import REFERENCE, ROWS, SCENARIOS, Scenario, absence, runs_on, select

ROOT = Path(__file__).resolve().parent.parent
LOADGEN = ROOT / "target/bench/release/loadgen"
FULL_RUNS = 5


def build() -> None:
    cargo = os.environ.get("CARGO", "cargo")
    for target, arguments in (
        ("target", ["-p", "busrt", "--features", "server,cli", "--bins"]),
        ("target/bench", ["--locked", "--manifest-path", "bench/loadgen/Cargo.toml"]),
    ):
        environment = {**os.environ, "CARGO_TARGET_DIR": str(ROOT / target)}
        subprocess.run([cargo, "build", "--release", *arguments], cwd=ROOT, env=environment, check=True)


def why_failed(code: int | None, output: str, errors: str, timeout: int) -> str:
    """What became of a load generator that gave no figures, in words fit for the table."""
    for pattern, words in (
        (r"receiver \d+ was disconnected", "a receiver was disconnected"),
        (r"subscriber \d+ was disconnected", "a subscriber was disconnected"),
        (r"closed the connection on a write", "a sender was disconnected"),
        (r"a nack", "a message was refused"),
        (r"handshake read|greeting|registration|CONNACK", "a client was not let in"),
    ):
        if re.search(pattern, errors + output):
            return words
    return f"not done within {timeout} s" if code is None else f"the load ended with {code}"


def stages(output: str) -> dict[str, str]:
    """Operations a second by stage, of the table that `busrt benchmark` prints, ours or the reference's."""
    lines = [re.sub(r"\x1b\[[0-9;]*m|[│|┆]", " ", line).split() for line in output.splitlines()]
    # Ours: STAGE OPS SECONDS OPS/S and the times; the reference's: stage iters secs msecs iters/s.
    rates = {}
    for line in lines:
        if len(line) >= 5 and re.fullmatch(r"(send|rpc)[a-z0-9.+]+", line[0]):
            rates[line[0]] = re.sub(r"\D", "", line[4] if len(line) == 5 else line[3])
    return rates


def generate(scenario: Scenario, peer: Peer, server: Server, quick: bool) -> dict[str, str]:
    """One run of the load generator: its figures by their names."""
    arguments = (scenario.quick if quick else scenario.args).format(pid=server.process.pid).split()
    if scenario.cli:
        command = [server.program.with_name("busrt"), server.address, *arguments]
    else:
        command = [LOADGEN, peer.protocol, server.address, *arguments]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    code: int | None = None
    try:
        output, errors = process.communicate(timeout=scenario.timeout)
        code = process.returncode
    except subprocess.TimeoutExpired:
        process.kill()
        output, errors = process.communicate()
    except BaseException:
        process.kill()
        process.communicate()
        raise
    if errors:
        sys.stderr.write(f"\n{errors}")
    if not server.is_alive():
        raise Failure("the broker ended")
    if code != 0:
        raise Failure(why_failed(code, output, errors, scenario.timeout))
    if scenario.cli:
        return stages(output)
    figures = dict(re.findall(r"(\w+)=(\S+)", output))
    if "the sender was disconnected" in output:
        figures["sender_disconnected"] = "true"
    return figures


def measure(scenarios: tuple[Scenario, ...], peers: list[Peer], runs: int, quick: bool) -> Results:
    results = Results()
    total = runs * sum(runs_on(scenario, peer.name) for scenario in scenarios for peer in peers)
    done = 0
    for run in range(runs):
        for scenario in scenarios:
            # Peers take turns, close together in time, and none is always the one after a certain other.
            turn = run % len(peers)
            for peer in peers[turn:] + peers[:turn]:
                if not runs_on(scenario, peer.name):
                    continue
                done += 1
                work = (scenario.quick if quick else scenario.args).split(" pid")[0]
                what = f"[{done}/{total}] run {run + 1}: {work}{' over TCP' * scenario.tcp}, {peer.title}"
                print(what, end=" ... ", file=sys.stderr, flush=True)
                rows = [row for row in scenario.rows if absence(scenario, row, peer.name) is None]
                # A broker of its own for each: nobody inherits what the one before left behind.
                with tempfile.TemporaryDirectory(prefix="busrt-bench-") as directory:
                    try:
                        with Server(peer, Path(directory), scenario.tcp, scenario.options) as server:
                            figures = generate(scenario, peer, server, quick)
                            told = [results.add(row, peer.name, figures) for row in rows]
                            print(", ".join(told), file=sys.stderr, flush=True)
                    except Failure as failure:
                        for row in rows:
                            results.fail(row, peer.name, str(failure))
                        print(f"FAILED: {failure}", file=sys.stderr, flush=True)
    return results


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measures our broker side by side with its peers.")
    parser.add_argument("--runs", type=int, help=f"times each scenario is run ({FULL_RUNS}; 1 with --quick)")
    names = ", ".join(row.name for row in ROWS)
    parser.add_argument("--scenarios", metavar="NAME,...", help=f"only these: {names}")
    parser.add_argument("--quick", action="store_true", help="a tenth of the work, once: does it all run?")
    arguments = parser.parse_args()
    arguments.runs = arguments.runs if arguments.runs is not None else 1 if arguments.quick else FULL_RUNS
    if arguments.runs < 1:
        parser.error("--runs must be at least 1")
    try:
        arguments.selected = select(arguments.scenarios)
    except ValueError as e:
        parser.error(str(e))
    return arguments


def end(number: int, _frame: object) -> NoReturn:
    # The first signal unwinds, which stops what runs; more of them must not get in the way of that.
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    print("\nInterrupted: everything is stopped, nothing is written.", file=sys.stderr)
    sys.exit(128 + number)


def main() -> int:
    arguments = parse_arguments()
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, end)
    # Thousands of clients: the brokers inherit this.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    load = os.getloadavg()[0]  # before the build adds to it
    build()
    peers, notices = discover(ROOT, machine.our_version(ROOT))
    for notice in notices:
        print(f"Notice: {notice}", file=sys.stderr)

    results = measure(arguments.selected, peers, arguments.runs, arguments.quick)

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
    scratch = ROOT / "target/bench"
    (scratch / "samples.json").write_text(json.dumps({"facts": facts, "samples": results.raw()}, indent=1) + "\n")
    into = scratch if shortcomings else ROOT / "docs"
    into.mkdir(exist_ok=True)
    (into / "performance.md").write_text(report.page(table, peers, notices, facts, shortcomings))
    (into / "performance.svg").write_text(chart.draw(table))
    if shortcomings:
        print(f"Not for docs/ ({', '.join(shortcomings)}).", end=" ")
    print(f"Written: {into.relative_to(ROOT)}/performance.md and performance.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
