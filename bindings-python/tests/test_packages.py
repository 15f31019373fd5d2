"""The packages: what is in the wheel, and that the source distribution and the folder install with pip in an empty
environment. Only with BUSRT_TESTS=packages, as `make test` has it for one Python: it takes a minute or two."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from running import ASKED_FOR

ROOT = Path(__file__).parents[2]
BINDING = ROOT / 'bindings-python'
TIMEOUT = 900

pytestmark = pytest.mark.skipif('packages' not in ASKED_FOR, reason='BUSRT_TESTS has no `packages`')

# The build is not optimized, like that of `make test-wheel`, and uses the same folder, where most is built already.
ENVIRONMENT = {
    **{key: value for key, value in os.environ.items() if not key.startswith(('PYTHON', 'VIRTUAL'))},
    'CARGO_TARGET_DIR': str(ROOT / 'target'),
    'MATURIN_PEP517_ARGS': '--profile dev',
}
SMOKE = """
import asyncio, busrt, busrt_async, os, sys
assert busrt.__version__ == busrt_async.__version__ == sys.argv[1]
assert os.path.dirname(busrt.__file__).startswith(sys.prefix)
with busrt.Broker() as broker:
    address = broker.listen('127.0.0.1:0')
    with busrt.connect(address, 'one') as client:
        client.send_message('one', 'x')
        assert next(iter(client)).payload == b'x'
    async def main():
        async with busrt_async.connect(address, 'two') as client:
            await client.send_message('two', 'x')
    asyncio.run(main())
print('works')
"""


def run(*command):
    done = subprocess.run(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope='module')
def version():
    return re.search(r'^version = "(.*)"', (ROOT / 'Cargo.toml').read_text(), re.MULTILINE)[1]


@pytest.fixture(scope='module')
def sdist(tmp_path_factory):
    folder = tmp_path_factory.mktemp('sdist')
    run(sysconfig.get_path('scripts') + '/maturin', 'sdist', '--manifest-path', BINDING / 'Cargo.toml', '--out', folder)
    (file,) = folder.iterdir()
    return file


def test_the_wheel_has_both_modules_and_their_types(version):
    (wheel,) = (ROOT / 'target' / 'wheels-test').glob('*.whl')
    assert re.fullmatch(rf'busrt-{re.escape(version)}-cp39-abi3-(manylinux|linux|macosx)\w*\.whl', wheel.name)
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = archive.read(f'busrt-{version}.dist-info/METADATA').decode()
    for module in ('busrt', 'busrt_async'):
        files = ('__init__.py', 'client.py', 'rpc.py', 'py.typed', '__init__.pyi', 'client.pyi', 'rpc.pyi')
        assert {f'{module}/{file}' for file in files} <= names
    assert 'busrt/_busrt.abi3.so' in names
    assert not any(name.startswith(('tests/', 'benches/', 'busrt/tests')) for name in names)
    assert f'Version: {version}\n' in metadata and 'Requires-Python: >=3.9\n' in metadata
    assert 'import busrt_async' in metadata


def test_the_source_distribution_has_what_it_needs_and_no_more(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.split('/', 1)[1] for name in archive.getnames()}
    assert {'PKG-INFO', 'pyproject.toml', 'Cargo.lock', 'core/Cargo.toml', 'python/busrt/py.typed'} <= names
    assert not any('.venv' in name or name.endswith('.so') for name in names)


@pytest.mark.parametrize('what', ['the source distribution', 'the folder'])
def test_pip_installs(tmp_path, sdist, version, what):
    run(sys.executable, '-m', 'venv', tmp_path / 'venv')
    python = tmp_path / 'venv' / 'bin' / 'python'
    run(python, '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check', sdist if what.endswith('tion') else BINDING)
    assert run(python, '-c', SMOKE, version) == 'works\n'
    shutil.rmtree(tmp_path / 'venv')
