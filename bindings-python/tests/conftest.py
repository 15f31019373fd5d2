"""A broker in a process of its own, for the tests of the Python modules. BUSRTD is the path of busrtd."""

import itertools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

import msgpack
import pytest

from busrt.client import OP_SUBSCRIBE, Frame
from busrt.rpc import Request

PATIENCE = 20

_numbers = itertools.count()


def until(condition, what='the condition holds'):
    """Waits until `condition()` holds, and returns what it returned."""
    deadline = time.monotonic() + PATIENCE
    while True:
        result = condition()
        if result:
            return result
        assert time.monotonic() < deadline, f'never: {what}'
        time.sleep(0.005)


class Busrtd:
    """One busrtd process."""

    def __init__(self, *options):
        self.folder = tempfile.mkdtemp(prefix='busrt-')
        self.path = os.path.join(self.folder, 'bus.sock')
        self.options = options
        self.process = None
        self.start()

    def start(self):
        with open(os.path.join(self.folder, 'log'), 'ab') as log:
            self.process = subprocess.Popen(
                [os.environ['BUSRTD'], '-B', self.path, *self.options], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        until(lambda: self.accepts() or self.process.poll() is not None, 'busrtd starts')
        assert self.process.poll() is None

    def accepts(self):
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(self.path) == 0

    def suspend(self):
        self.process.send_signal(signal.SIGSTOP)
        os.waitpid(self.process.pid, os.WUNTRACED)

    def kill(self, with_signal=signal.SIGKILL):
        self.process.send_signal(with_signal)
        self.process.wait(PATIENCE)

    def stop(self):
        if self.process.poll() is None:
            self.kill(signal.SIGTERM)
        shutil.rmtree(self.folder)


class FakeBroker:
    """Listens on a socket and does with the first peer what it is told, on a thread."""

    def __init__(self, folder):
        self.path = os.path.join(folder, 'fake.sock')
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen()
        self.peers = []

    def answer(self, what):
        def run():
            peer = self.listener.accept()[0]
            self.peers.append(peer)
            what(peer)

        threading.Thread(target=run, daemon=True).start()

    @staticmethod
    def register(peer):
        peer.sendall(b'\xeb\x01\x00')
        peer.recv(3)
        peer.sendall(b'\x01')
        peer.recv(100)
        peer.sendall(b'\x01')

    def close(self):
        for each in [self.listener, *self.peers]:
            each.close()


@pytest.fixture
def fake(tmp_path):
    fake = FakeBroker(str(tmp_path))
    yield fake
    fake.close()


@pytest.fixture(scope='session')
def shared_broker():
    broker = Busrtd()
    yield broker
    broker.stop()


@pytest.fixture
def path(shared_broker):
    return shared_broker.path


@pytest.fixture
def broker():
    """A broker that the test may kill."""
    broker = Busrtd()
    yield broker
    broker.stop()


@pytest.fixture
def name(request):
    """A client name that no other test has."""
    text = ''.join(c if c.isalnum() else '-' for c in request.node.nodeid.rsplit('/', 1)[-1])
    return f'{text[:100]}-{next(_numbers)}'


def subscribed(client, *topics):
    """Subscribes, and waits until the broker has done it: `subscribe` itself asks for no acknowledgement."""
    frame = Frame(tp=OP_SUBSCRIBE, qos=1)
    frame.topic = list(topics)
    assert client.send(None, frame).wait_completed() == 1


def dropped(rpc, name):
    """The number of frames that the broker has dropped for a client."""
    reply = rpc.call('.broker', Request('client.list')).wait_completed(60).get_payload()
    return next(client['dropped'] for client in msgpack.unpackb(reply)['clients'] if client['name'] == name)
