"""Describes the machine for a page of figures, without names of hosts or users and without paths."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
from pathlib import Path


def _run(root: Path, *command: str) -> str:
    try:
        return subprocess.run(command, cwd=root, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def our_version(root: Path) -> str:
    """The crate's version, and the commit if this is a repository."""
    found = re.search(r'^version = "(.*)"', (root / "Cargo.toml").read_text(), re.MULTILINE)
    version = found[1] if found else "of unknown version"
    commit = _run(root, "git", "rev-parse", "--short", "HEAD")
    if not commit:
        return version
    changed = _run(root, "git", "status", "--porcelain", "--", "core", "Cargo.toml", "Cargo.lock")
    return f"{version} ({commit}{' with changes' if changed else ''})"


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return " ".join(found[1].split()) if found else platform.machine()


def wake_up_cost(root: Path) -> str:
    """Returns the time until a thread on a sleeping core runs: the median, in microseconds."""
    output = _run(root, str(root / "target/bench/release/loadgen"), "wakeup")
    found = re.search(r"p50_us=([\d.]+)", output)
    return f"{found[1]} us" if found else "unknown"


def describe(root: Path, load: float, runs: int) -> dict[str, str]:
    """Returns the facts, in the order of the page."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:
        cores = os.cpu_count() or 1
    return {
        "Date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "Processor": _processor(),
        "Cores": str(cores),
        "Kernel": f"{platform.system()} {platform.release()}",
        "Compiler": " ".join(_run(root, os.environ.get("RUSTC", "rustc"), "--version").split()[:2]) or "unknown",
        "Waking a sleeping core": wake_up_cost(root),
        "Load average before": f"{load:.1f}",
        "Runs": str(runs),
    }
