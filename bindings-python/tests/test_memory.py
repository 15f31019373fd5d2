"""A little of everything under valgrind: nothing uses memory that was freed or not set. Only with BUSRT_TESTS=full, as it
takes a minute; `tools/memcheck` runs it by hand."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from running import IS_FULL, run

TOOLS = Path(__file__).parents[1] / 'tools'


def test_the_smoke_test():
    assert run((TOOLS / 'smoke.py').read_text(), 2) == 'done\n'


@pytest.mark.skipif(not IS_FULL, reason='BUSRT_TESTS has no `full`')
@pytest.mark.skipif(shutil.which('valgrind') is None, reason='there is no valgrind')
def test_under_valgrind():
    done = subprocess.run([TOOLS / 'memcheck', sys.executable], capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'done' in done.stdout
