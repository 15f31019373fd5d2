"""Runs the load generator, or a command line client, once against a running broker."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from peers import Failure, Peer, Server
from scenarios import Scenario

LOADGEN = Path(__file__).resolve().parent.parent / "target/bench/release/loadgen"


def why_failed(code: int | None, output: str, errors: str, timeout: int) -> str:
    """Returns the reason why a load generator gave no figures, as a text for the table."""
    for pattern, words in (
        (r"receiver \d+ was disconnected", "a receiver was disconnected"),
        (r"subscriber \d+ was disconnected", "a subscriber was disconnected"),
        (r"closed the connection on a write", "a sender was disconnected"),
        (r"a nack", "a message was refused"),
        (r"handshake read|greeting|registration|CONNACK", "a client was refused"),
    ):
        if re.search(pattern, errors + output):
            return words
    return f"not complete within {timeout} s" if code is None else f"the load ended with {code}"


def stages(output: str) -> dict[str, str]:
    """Returns operations per second by stage, from the table of `busrt benchmark` (ours or the reference's)."""
    lines = [re.sub(r"\x1b\[[0-9;]*m|[│|┆]", " ", line).split() for line in output.splitlines()]
    # Ours: STAGE OPS SECONDS OPS/S and the times; the reference's: stage iters secs msecs iters/s.
    rates = {}
    for line in lines:
        if len(line) >= 5 and re.fullmatch(r"(send|rpc)[a-z0-9.+]+", line[0]):
            rates[line[0]] = re.sub(r"\D", "", line[4] if len(line) == 5 else line[3])
    return rates


def generate(scenario: Scenario, peer: Peer, server: Server, args: str) -> dict[str, str]:
    """Runs once with these arguments and returns the figures by name."""
    arguments = args.format(pid=server.process.pid).split()
    if scenario.cli:
        client = peer.client or server.program.with_name("busrt")
        if not client.is_file():
            raise Failure("its command line client is missing")
        command = [client, server.address, *arguments]
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
