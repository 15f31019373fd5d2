"""Starts busrtd (BUSRTD is its path) for the tests, on separate sockets, and stops it."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from wire import Wire  # noqa: E402

# A timeout in seconds, after which anything counts as hanging. No test measures time.
PATIENCE = 20


def until(condition, what):
    """Waits until `condition()` returns a true value, and returns that value."""
    deadline = time.monotonic() + PATIENCE
    while True:
        result = condition()
        if result:
            return result
        assert time.monotonic() < deadline, f'never: {what}'
        time.sleep(0.01)


class Busrtd:
    """One busrtd process. Its first address is `socket`, a path; `tcp` is host:port if requested."""

    def __init__(self, program, folder, *options, tcp=False, socket=True):
        self.folder = Path(folder)
        self.socket = str(self.folder / 'bus.sock')
        self.log_path = self.folder / 'log'
        self.options = (['-B', self.socket] if socket else []) + (['-B', '127.0.0.1:0'] if tcp else []) + list(options)
        self.log_file = self.log_path.open('wb')
        environment = {k: v for k, v in os.environ.items() if k != 'RUST_LOG'}
        self.process = subprocess.Popen(
            [program, *self.options], stdin=subprocess.DEVNULL, stdout=self.log_file, stderr=self.log_file,
            env=environment)
        until(lambda: ' started ' in self.log() or self.process.poll() is not None, 'busrtd starts')
        assert self.process.poll() is None, self.log()
        self.tcp = None
        if tcp:
            lines = [line for line in self.log().splitlines() if 'listening on 127.0.0.1:' in line]
            self.tcp = lines[0].rsplit(' ', 1)[1]

    def log(self):
        return self.log_path.read_text(errors='replace')

    def wire(self, name=None, **options):
        return Wire(self.socket, name, **options)

    def terminate(self, with_signal=signal.SIGTERM):
        """Sends a signal, waits for the exit and returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(with_signal)
        return self.process.wait(PATIENCE)

    def stop(self):
        try:
            self.terminate()
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self.log_file.close()


@pytest.fixture(scope='session')
def program():
    path = os.environ.get('BUSRTD')
    if not path:
        pytest.exit('BUSRTD must be the path of a busrtd binary: make test sets it', 2)
    return path


@pytest.fixture
def folder():
    # The path is short enough for a UNIX socket, independent of the name of the test.
    path = tempfile.mkdtemp(prefix='busrt-')
    yield Path(path)
    shutil.rmtree(path)


@pytest.fixture
def start(program):
    """Returns a function that starts a broker with options; all brokers are stopped at the end."""
    started, folders = [], []

    def start(*options, folder=None, **kwargs):
        if folder is None:
            folder = tempfile.mkdtemp(prefix='busrt-')
            folders.append(folder)
        broker = Busrtd(program, folder, *options, **kwargs)
        started.append(broker)
        return broker

    yield start
    try:
        for broker in started:
            broker.stop()
    finally:
        for path in folders:
            shutil.rmtree(path)


@pytest.fixture(scope='module')
def broker(program):
    """Returns a broker with the default options, shared by the tests of a module."""
    path = tempfile.mkdtemp(prefix='busrt-')
    broker = Busrtd(program, path, tcp=True)
    yield broker
    broker.stop()
    shutil.rmtree(path)


@pytest.fixture(params=['unix', 'tcp'])
def address(broker, request):
    return broker.socket if request.param == 'unix' else broker.tcp


@pytest.fixture
def name(request):
    """Returns a client name that no other test of the module uses."""
    return ''.join(c if c.isalnum() else '-' for c in request.node.name)
