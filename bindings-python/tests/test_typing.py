"""The types: the stubs say what there is, and the examples pass `mypy --strict`."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
EXAMPLES = FOLDER.parents[1] / 'examples' / 'python'

pytestmark = pytest.mark.skipif(importlib.util.find_spec('mypy') is None, reason='mypy is not made for this Python')


def run(*command, cwd):
    # The installed modules are imported, not those of the source folder.
    done = subprocess.run(
        [sys.executable, '-m', *map(str, command)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, 'PYTHONWARNINGS': ''},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize('module', ['busrt', 'busrt_async'])
def test_stubtest(tmp_path, module):
    run('mypy.stubtest', module, '--allowlist', FOLDER / 'stubtest-allowlist', '--ignore-unused-allowlist', cwd=tmp_path)


@pytest.mark.parametrize('version', ['3.10', '3.13'])
def test_the_examples_with_mypy_strict(tmp_path, version):
    run(
        'mypy',
        '--strict',
        '--python-version',
        version,
        '--cache-dir',
        tmp_path,
        *sorted(EXAMPLES.glob('*.py')),
        *sorted(FOLDER.glob('typed_*.py')),
        cwd=tmp_path,
    )
