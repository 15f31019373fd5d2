"""The brokers that are measured: finds, starts and stops them."""

from __future__ import annotations

import getpass
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Optional

from scenarios import BASE, FLOOR, MOSQUITTO, NATS, OURS, REDIS, REFERENCE

REFERENCE_VERSION = "0.5.6"
START_TIMEOUT = 15.0  # seconds until a broker must accept connections
STOP_TIMEOUT = 5.0  # seconds until a broker that was told to end is killed, by default


class Failure(Exception):
    """The reason why a measurement gave no figures, as a text for the table."""


@dataclass(frozen=True)
class Peer:
    """A broker that can be started."""

    name: str  # its name in `scenarios`
    title: str  # the heading of its column
    version: str
    protocol: str  # its protocol's name in the load generator
    has_unix: bool
    # Maps the directory for sockets and files, the UNIX socket and the port to a command line.
    command: Callable[[Path, Path, int], list]
    client: Optional[Path] = None  # its command line client, if that is not in the broker's directory


def _busrtd(program: Path) -> Callable[[Path, Path, int], list]:
    # Load generator clients do not ping: the timeout must be long enough for the silent clients of every scenario.
    return lambda _, unix, port: [program, "-B", unix, "-B", f"127.0.0.1:{port}", "-w", "2", "-t", "60"]


def with_defaults(name: str, program: Path) -> Peer:
    """Returns a build of ours with the default options."""
    return Peer(name, name, "", "busrt", True, lambda _, unix, __: [program, "-B", unix])


def _nats(program: str) -> Callable[[Path, Path, int], list]:
    return lambda _, __, port: [program, "-a", "127.0.0.1", "-p", str(port)]


def _redis(program: str) -> Callable[[Path, Path, int], list]:
    # Nothing is stored, slow subscribers are not disconnected, and there is room for the silent clients of p2p4idle.
    return lambda directory, unix, port: [
        program, "--dir", directory, "--bind", "127.0.0.1", "--port", str(port), "--unixsocket", unix,
        "--save", "", "--appendonly", "no", "--client-output-buffer-limit", "pubsub 0 0 0",
        "--maxclients", "12000",
    ]  # fmt: skip


def _mosquitto(program: str) -> Callable[[Path, Path, int], list]:
    def command(directory: Path, unix: Path, port: int) -> list:
        # No bounds that would drop anything, and no log line for each of thousands of clients.
        config = directory / "mosquitto.conf"
        config.write_text(
            f"listener {port} 127.0.0.1\nlistener 0 {unix}\nallow_anonymous true\n"
            "max_queued_messages 0\nmax_inflight_messages 0\nset_tcp_nodelay true\n"
            f"log_type error\nlog_type warning\nuser {getpass.getuser()}\n"
        )
        return [program, "-c", config]

    return command


def find_reference(root: Path) -> tuple[Optional[Path], str]:
    """The reference broker's program, or None and why there is none.

    Only an optimized one will do. The one that the tests install is not: they care for what it does, not how fast.
    """
    hint = f"the reference broker is missing: `make bench-reference` installs {REFERENCE_VERSION}, or set REF_BUSRTD"
    given = os.environ.get("REF_BUSRTD")
    if given:
        candidates = [Path(given)]
    else:
        candidates = [root / "target/bench/reference/bin/busrtd", root / "tests/.reference/bin/busrtd"]
    for path in candidates:
        if not path.is_file():
            continue
        # Cargo leaves debug information out of optimized programs only.
        if ".debug_info" not in _elf_sections(path.read_bytes()):
            return path.resolve(), ""
        hint = f"the reference broker at hand is a debug build, which must not be measured: {hint}"
    return None, hint


def find_base() -> Optional[Path]:
    """Returns the second build of ours that BASE_BUSRTD names; None if it is not set."""
    given = os.environ.get("BASE_BUSRTD")
    if not given:
        return None
    path = Path(given)
    if not path.is_file():
        raise Failure("BASE_BUSRTD names no file")
    return path.resolve()


def base_peer(program: Path) -> Peer:
    """Returns the second build of ours; BASE_BUSRT names its command line client, BASE_VERSION its version."""
    version = os.environ.get("BASE_VERSION") or _version(str(program), "--version")
    client = os.environ.get("BASE_BUSRT")
    return Peer(BASE, "base", version, "busrt", True, _busrtd(program), Path(client).resolve() if client else None)


def our_peer(program: Path, version: str) -> Peer:
    return Peer(OURS, "busrt", version, "busrt", True, _busrtd(program))


def _elf_sections(image: bytes) -> set[str]:
    """Returns the names of the sections of a 64-bit little-endian ELF file; none for any other file."""
    if image[:6] != b"\x7fELF\x02\x01":
        return set()
    (table,) = struct.unpack_from("<Q", image, 0x28)
    size, count, names_at = struct.unpack_from("<HHH", image, 0x3A)
    headers = [struct.unpack_from("<I20xQQ", image, table + i * size) for i in range(count)]
    if not headers:
        return set()
    _, start, length = headers[names_at]
    names = image[start : start + length]
    return {names[name : names.index(b"\0", name)].decode() for name, _, __ in headers}


def _version(*command: str) -> str:
    # mosquitto -h prints its version and exits with code 3.
    text = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False).stdout
    found = re.search(r"\d+\.\d+\.\d+", text)
    return found[0] if found else "of unknown version"


def _reference_version(program: Path) -> str:
    # It has no option to print its version, but contains the paths of its sources.
    found = re.search(rb"/busrt-(\d+\.\d+\.\d+)/src/", program.read_bytes())
    return found[1].decode() if found else "of unknown version"


def discover(root: Path, our_version: str) -> tuple[list[Peer], list[str]]:
    """Returns every peer that is installed, and a notice for each that is not."""
    peers = [our_peer(root / "target/release/busrtd", our_version)]
    notices = []
    base = find_base()
    if base:
        peers.append(base_peer(base))
    reference, missing = find_reference(root)
    if reference:
        version = _reference_version(reference)
        peers.append(Peer(REFERENCE, "reference", version, "busrt", True, _busrtd(reference)))
    else:
        notices.append(missing)
    path = os.environ.get("PATH", os.defpath) + os.pathsep + "/usr/sbin"
    for name, title, program, option, protocol, has_unix, command in (
        (NATS, "NATS (TCP)", "nats-server", "--version", "nats", False, _nats),
        (REDIS, "Redis", "redis-server", "--version", "redis", True, _redis),
        (MOSQUITTO, "mosquitto", "mosquitto", "-h", "mqtt", True, _mosquitto),
    ):
        found = shutil.which(program, path=path)
        if found:
            peers.append(Peer(name, title, _version(found, option), protocol, has_unix, command(found)))
        else:
            notices.append(f"{program} is not installed and left out")
    relay = root / "target/bench/release/rawrelay"
    peers.append(Peer(FLOOR, "floor", "rawrelay", "busrt", True, lambda _, unix, __: [relay, unix]))
    return peers, notices


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """A peer that runs while its `with` block is active."""

    def __init__(
        self,
        peer: Peer,
        directory: Path,
        tcp: bool = False,
        options: tuple[str, ...] = (),
        stop_timeout: float = STOP_TIMEOUT,
    ):
        self.peer = peer
        self.stop_timeout = stop_timeout
        self.options = options
        self.directory = directory
        self.over_tcp = tcp or not peer.has_unix
        self.process: Optional[subprocess.Popen] = None
        self.program = Path()
        self.address = ""

    def __enter__(self) -> "Server":
        try:
            # Another program may take the port before the broker does.
            for attempt in range(3):
                if self._start():
                    return self
                print(f"did not start (attempt {attempt + 1}): {self._log()}", file=sys.stderr, flush=True)
                self._stop()
            raise Failure("did not start")
        except BaseException:
            self._stop()
            raise

    def __exit__(self, *_) -> None:
        self._stop()

    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def _start(self) -> bool:
        unix, port = self.directory / "bus.sock", _free_port()
        unix.unlink(missing_ok=True)
        self.address = f"127.0.0.1:{port}" if self.over_tcp else str(unix)
        command = [str(part) for part in [*self.peer.command(self.directory, unix, port), *self.options]]
        self.program = Path(command[0])
        with open(self.directory / "log", "wb") as log:
            # The process has its own session, so that Ctrl-C reaches only this program, which then stops the broker
            # in order.
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        family, address = (
            (socket.AF_INET, ("127.0.0.1", port)) if self.over_tcp else (socket.AF_UNIX, str(unix))
        )
        until = time.monotonic() + START_TIMEOUT
        while time.monotonic() < until and self.is_alive():
            with socket.socket(family) as s:
                s.settimeout(START_TIMEOUT)
                try:
                    s.connect(address)
                    # The check of a peer that greets is completed: rawrelay fails if a client closes before the
                    # greeting.
                    if self.peer.protocol in ("busrt", "nats"):
                        s.recv(4096)
                except OSError:
                    time.sleep(0.02)
                    continue
            time.sleep(0.2)  # until its start is complete, since its memory is measured from here
            return self.is_alive()
        return False

    def _stop(self) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(self.stop_timeout)
        except BaseException as e:
            process.kill()
            process.wait()
            if not isinstance(e, subprocess.TimeoutExpired):
                raise

    def _log(self) -> str:
        lines = (self.directory / "log").read_text(errors="replace").splitlines()
        return " | ".join(lines[-3:])
