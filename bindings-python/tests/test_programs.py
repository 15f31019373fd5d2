"""Programs written for the packages `busrt` and `busrt-async` of PyPI run unchanged on ours and print the same, each with
a peer of either implementation. PYPI_PYTHON is a Python that has the packages of PyPI."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / 'programs'
PYTHONS = {'ours': sys.executable, 'PyPI': os.environ.get('PYPI_PYTHON')}
PAIRS = {'listener': 'sender', 'rpc_handler': 'rpc_caller'}

pytestmark = pytest.mark.skipif(not PYTHONS['PyPI'], reason='PYPI_PYTHON is not set')


def start(implementation, program, *args):
    return subprocess.Popen(
        [PYTHONS[implementation], FOLDER / f'{program}.py', *args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def both(path, name, waiting, waiting_on, acting, acting_on):
    """Runs two programs, and returns what each has printed."""
    with start(waiting_on, waiting, path, name + '.w') as server:
        lines = ''
        while 'ready' not in lines:
            line = server.stdout.readline()
            assert line, server.stderr.read()
            lines += line
        with start(acting_on, acting, path, name + '.a', name + '.w') as client:
            acted, errors = client.communicate(timeout=60)
            assert client.returncode == 0, errors
        rest, errors = server.communicate(timeout=60)
        assert server.returncode == 0, errors
    return (lines + rest).splitlines(), acted


@pytest.mark.parametrize('kind', ['sync', 'asyncio'])
@pytest.mark.parametrize('waiting', PAIRS)
def test_programs_print_the_same(path, name, waiting, kind):
    suffix = '_async' if kind == 'asyncio' else ''
    waiting, acting = waiting + suffix, PAIRS[waiting] + suffix
    reference = both(path, name, waiting, 'PyPI', acting, 'PyPI')
    assert len(reference[0]) >= 8 and len(reference[1].splitlines()) >= 10
    for waiting_on, acting_on in (('ours', 'ours'), ('ours', 'PyPI'), ('PyPI', 'ours')):
        printed = both(path, name, waiting, waiting_on, acting, acting_on)
        assert printed == reference, (waiting_on, acting_on)
