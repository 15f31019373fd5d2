"""The FIFO: one command per line (docs/protocol.md section 10)."""

import os
import shutil
import stat
import subprocess
import tempfile

import msgpack
import pytest

from conftest import Busrtd
from wire import BROADCAST, MESSAGE, PUBLISH, SUBSCRIBE, delivery


@pytest.fixture(scope='module')
def fifo(program):
    path = tempfile.mkdtemp(prefix='busrt-')
    broker = Busrtd(program, path, '-B', f'fifo:{path}/fifo')
    broker.fifo = f'{path}/fifo'
    yield broker
    broker.stop()
    shutil.rmtree(path)


@pytest.fixture
def client(fifo, name):
    with fifo.wire(name) as wire:
        wire.name = name
        assert wire.do(SUBSCRIBE, f'{name}/#'.encode()) == 1
        yield wire


def write(fifo, text):
    with open(fifo.fifo, 'wb', buffering=0) as pipe:
        pipe.write(text if isinstance(text, bytes) else text.encode())


def message(payload):
    return delivery(MESSAGE, b'.broker', payload, realtime=0)


def test_every_user_may_write(fifo):
    mode = os.stat(fifo.fifo).st_mode
    assert stat.S_ISFIFO(mode)
    assert stat.S_IMODE(mode) == 0o622


@pytest.mark.parametrize('text', ['hello', 'several words', 'a  b   c', 'Ünï', '=x', 'k=v'])
def test_message(fifo, client, text):
    write(fifo, f'{client.name} {text}\n')
    assert client.frame() == message(text.encode())


def test_broadcast(fifo, client):
    for mask in (client.name + '.*', '*', '?'):
        write(fifo, f'{mask} hello there\n')
    for _ in range(2):
        assert client.frame() == delivery(BROADCAST, b'.broker', b'hello there')
    assert client.is_quiet()


def test_publish(fifo, client):
    write(fifo, f'={client.name}/a hello there\n')
    assert client.frame() == delivery(PUBLISH, b'.broker', client.name.encode() + b'/a', b'hello there')


def test_notification(fifo, client):
    write(fifo, f'{client.name} .hello there\n')
    assert client.frame() == message(b'\0hello there')


@pytest.mark.parametrize('words, params', [
    ('', {}),
    ('a=1 b=-2 c=2.5 d=true e=false f=text g=', dict(a=1, b=-2, c=2.5, d=True, e=False, f='text', g='')),
    ('url=http://x/?a=b', {'url': 'http://x/?a=b'}),
    ('  a=1   b=2 ', dict(a=1, b=2)),
])
def test_request(fifo, client, words, params):
    write(fifo, f'{client.name} :the.method {words}\n')
    frame = client.frame()
    head = message(b'\x01\0\0\0\0the.method\0')[6:]
    assert frame[6:].startswith(head)
    assert msgpack.unpackb(frame[6 + len(head):]) == params


def test_a_shell_can_use_it(fifo, client):
    subprocess.run(['sh', '-c', f'echo "{client.name} from a shell" > {fifo.fifo}'], check=True, timeout=20)
    assert client.frame() == message(b'from a shell')


def test_lines_may_come_in_pieces_and_together(fifo, client):
    name = client.name
    with open(fifo.fifo, 'wb', buffering=0) as pipe:
        for piece in (f'{name} one\n{name} t', 'wo\n\n', '\n', f'{name} three\r\n{name} ', 'four\n'):
            pipe.write(piece.encode())
    assert client.frames(4) == [message(text) for text in (b'one', b'two', b'three', b'four')]


LINES = {
    'nobody there': b'nobody hello\n', 'not UTF-8': b'\xff\xfe hello\n', 'blank': b' \n', 'no method': b'x :\n',
    'no value': b'x :method novalue\n', 'a NUL': b'\0\n', 'no topic': b'= x\n', 'too long': b'x' * 2_000_000 + b'\n',
}


@pytest.mark.parametrize('line', LINES.values(), ids=LINES.keys())
def test_an_invalid_line_is_logged_and_the_next_one_is_executed(fifo, client, line):
    write(fifo, line)
    write(fifo, f'{client.name} still here\n')
    assert client.frame() == message(b'still here')
