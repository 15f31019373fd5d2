#!/usr/bin/env python3
"""Prints the oldest and the newest Python of this machine that the wheel supports, one path a line; with --all, each.

Looks at the programs python3.9 and later in PATH, at those that pyenv has installed, and at the one that runs this.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

OLDEST, NEWEST = 9, 30
PROBE = 'import ensurepip, sys, venv; print("%d.%d.%d" % sys.version_info[:3], getattr(sys, "_is_gil_enabled", bool)())'


def candidates():
    for minor in range(OLDEST, NEWEST):
        found = shutil.which(f'python3.{minor}')
        if found:
            yield found
    pyenv = Path(os.environ.get('PYENV_ROOT') or Path.home() / '.pyenv')
    for path in sorted(pyenv.glob('versions/3.*/bin/python3')):
        yield str(path)
    yield sys.executable


def version_of(path):
    """Returns the version of a Python that runs and has venv, pip and a GIL; otherwise None."""
    try:
        run = subprocess.run([path, '-c', PROBE], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.match(r'3\.(\d+)\.(\d+) (True|False)$', run.stdout.strip())
    # Without sys._is_gil_enabled there is a lock; `bool()` is False then.
    if run.returncode != 0 or not match or int(match[1]) < OLDEST:
        return None
    if int(match[1]) >= 13 and match[3] == 'False':
        return None
    return int(match[1]), int(match[2])


def main():
    found = {}
    for path in candidates():
        version = version_of(path)
        if version:
            found.setdefault(version, path)
    if not found:
        sys.exit(f'no Python 3.{OLDEST} or later with venv and pip was found')
    versions = sorted(found)
    chosen = versions if '--all' in sys.argv[1:] else sorted({versions[0], versions[-1]})
    for version in chosen:
        print(found[version])


if __name__ == '__main__':
    main()
