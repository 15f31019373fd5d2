"""The wire vectors of tests/vectors (its README describes the format) through both clients, against a raw socket."""

import asyncio
import json
import socket
import struct
import threading
from pathlib import Path

import pytest

import busrt_async
from busrt.client import (
    OP_BROADCAST,
    OP_EXCLUDE,
    OP_MESSAGE,
    OP_PUBLISH,
    OP_SUBSCRIBE,
    OP_UNEXCLUDE,
    OP_UNSUBSCRIBE,
    Client,
    Frame,
)
from busrt.rpc import Notification, Request, Rpc, RpcException
from conftest import PATIENCE, until

FOLDER = Path(__file__).parents[2] / 'tests' / 'vectors'
PARTS = {
    'publish': (OP_PUBLISH, 'topic'),
    'message': (OP_MESSAGE, 'target'),
    'broadcast': (OP_BROADCAST, 'mask'),
    'subscribe': (OP_SUBSCRIBE, None),
    'unsubscribe': (OP_UNSUBSCRIBE, None),
    'exclude': (OP_EXCLUDE, None),
    'unexclude': (OP_UNEXCLUDE, None),
}
KINDS = {'publication': OP_PUBLISH, 'message': OP_MESSAGE, 'broadcast': OP_BROADCAST}
GREETING = b'\xeb\x01\0'


def vectors(file, condition=lambda vector: True):
    listed = filter(condition, json.loads((FOLDER / f'{file}.json').read_text())['vectors'])
    return pytest.mark.parametrize('vector', [pytest.param(vector, id=vector['name']) for vector in listed])


class Peer:
    """The broker's side of one connection."""

    def __init__(self, socket):
        self.socket = socket
        socket.settimeout(PATIENCE)

    def read(self, count):
        data = b''
        while len(data) < count:
            chunk = self.socket.recv(count - len(data))
            if not chunk:
                break
            data += chunk
        return data

    def request(self):
        """The bytes of the next operation that is no ping."""
        while True:
            header = self.read(9)
            if header != bytes(9):
                return header + self.read(struct.unpack('<I', header[5:])[0])

    def acknowledge(self, request, code=1):
        self.socket.sendall(b'\xfe' + request[:4] + bytes([code]))

    def ended(self):
        while True:
            data = self.read(9)
            if data != bytes(9):
                return data == b''


class Connection:
    """A client of either module beside its raw peer. The one of asyncio has its loop on a thread."""

    def __init__(self, module, folder, name):
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(folder / 'raw.sock'))
        self.listener.listen()
        self.is_sync, self.got, self.loop, self.peer = module == 'sync', [], None, None
        if self.is_sync:
            self.client = Client(str(folder / 'raw.sock'), name)
        else:
            self.client = busrt_async.Client(str(folder / 'raw.sock'), name)
            self.loop = asyncio.new_event_loop()
            threading.Thread(target=self.loop.run_forever, daemon=True).start()
        # Not too short, and no ping in between.
        self.client.timeout = PATIENCE
        self.client.ping_interval = 1000

    def start(self, work):
        """Runs a function on a thread, or the coroutine that it returns in the loop; returns a function for the result."""
        if not self.is_sync:

            async def run():
                return await work()

            return lambda future=asyncio.run_coroutine_threadsafe(run(), self.loop): future.result(PATIENCE)
        result = []

        def keep():
            try:
                result.append(work())
            except BaseException as e:
                result.append(e)

        thread = threading.Thread(target=keep, daemon=True)
        thread.start()

        def wait():
            thread.join(PATIENCE)
            if isinstance(result[0], BaseException):
                raise result[0]
            return result[0]

        return wait

    def do(self, work):
        return self.start(work)()

    def accept(self):
        self.peer = Peer(self.listener.accept()[0])
        return self.peer

    def register(self):
        connected = self.start(self.client.connect)
        peer = self.accept()
        peer.socket.sendall(GREETING)
        assert peer.read(3) == GREETING
        peer.socket.sendall(b'\x01')
        peer.read(struct.unpack('<H', peer.read(2))[0])
        peer.socket.sendall(b'\x01')
        connected()
        return peer

    def handler(self, got):
        """A handler that keeps what it gets."""
        if self.is_sync:
            return got.append

        async def handle(item):
            got.append(item)

        return handle

    def close(self):
        if self.peer is not None:
            self.peer.socket.close()
        self.do(self.client.disconnect)
        self.listener.close()
        if self.loop is not None:
            self.loop.call_soon_threadsafe(self.loop.stop)
            until(lambda: not self.loop.is_running())
            self.loop.close()


@pytest.fixture(params=['sync', 'asyncio'])
def connection(request, tmp_path):
    made = []

    def make(name='vectors'):
        made.append(Connection(request.param, tmp_path, name))
        return made[0]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def registered(connection):
    connection = connection()
    connection.register()
    return connection


@vectors('requests', lambda vector: 'decode_only' not in vector and vector['meaning']['operation'] != 'nop')
def test_requests(registered, vector):
    meaning, expected = vector['meaning'], bytes.fromhex(vector['bytes'])
    client, qos = registered.client, meaning['qos']
    payload = bytes.fromhex(meaning.get('payload', ''))
    if meaning['operation'] == 'publish_for':
        sent = registered.start(lambda: client.publish_for(meaning['topic'], meaning['receiver'], payload, qos))
    else:
        tp, target = PARTS[meaning['operation']]
        frame = Frame(payload, tp, qos)
        frame.topic = meaning.get('topics')
        sent = registered.start(lambda: client.send(meaning.get(target), frame))
    request = registered.peer.request()
    assert request[4:] == expected[4:]
    registered.peer.acknowledge(request)
    operation = sent()
    if operation is not None:
        assert registered.do(lambda: operation.wait_completed(PATIENCE)) == 1


@vectors('deliveries', lambda vector: vector['meaning']['kind'] in KINDS)
def test_deliveries(registered, vector):
    meaning, got = vector['meaning'], []
    registered.client.on_frame = registered.handler(got)
    # A ping before and after changes nothing.
    registered.peer.socket.sendall(bytes(6) + bytes.fromhex(vector['bytes']) + bytes(6))
    until(lambda: got)
    (frame,) = got
    assert frame.type == KINDS[meaning['kind']]
    assert frame.payload == bytes.fromhex(meaning['payload'])
    assert (frame.sender, frame.topic) == (meaning['sender'], meaning.get('topic'))
    assert frame.primary_sender == meaning['sender'].split('%%')[0]


@vectors('deliveries', lambda vector: vector['meaning']['kind'] == 'acknowledgement')
def test_acknowledgements(registered, vector):
    code = int(vector['meaning']['code'], 16)
    operation = registered.start(lambda: registered.client.send('x', Frame(b'', qos=1)))
    request = registered.peer.request()
    registered.peer.acknowledge(request, code)
    operation = operation()
    assert registered.do(lambda: operation.wait_completed(PATIENCE)) == code
    assert operation.result == code and operation.is_completed()


def is_a_clients(vector):
    """Whether the client's part is what a client of ours sends."""
    own = [bytes.fromhex(step['bytes']) for step in vector['steps'] if step['from'] == 'client']
    if own[0] != GREETING:
        return False
    return len(own) == 1 or is_text(own[1][2:])


def is_text(name):
    try:
        return bool(name.decode())
    except UnicodeDecodeError:
        return False


@vectors('handshakes', is_a_clients)
def test_handshakes(connection, vector):
    own = [bytes.fromhex(step['bytes']) for step in vector['steps'] if step['from'] == 'client']
    name = own[1][2:].decode() if len(own) > 1 else 'any'
    connection = connection(name)
    connected = connection.start(connection.client.connect)
    peer = connection.accept()
    for step in vector['steps']:
        data = bytes.fromhex(step['bytes'])
        if step['from'] == 'broker':
            peer.socket.sendall(data)
        else:
            assert peer.read(len(data)) == data, step['meaning']
    if vector['outcome'] == 'registered':
        connected()
        assert connection.client.is_connected()
    else:
        with pytest.raises(RuntimeError) as e:
            connected()
        assert str(e.value) == f'Server response: 0x{vector["outcome"]}'
        assert peer.ended() and not connection.client.is_connected()


@vectors('invalid', lambda vector: vector['frame'] == 'delivery')
def test_invalid_deliveries(registered, vector):
    got = []
    registered.client.on_frame = registered.handler(got)
    registered.peer.socket.sendall(bytes.fromhex(vector['bytes']))
    assert registered.peer.ended()
    until(lambda: not registered.client.is_connected())
    assert not got


@vectors('rpc')
def test_rpc(registered, vector):
    meaning, data = vector['meaning'], bytes.fromhex(vector['bytes'])
    peer, is_sync = registered.peer, registered.is_sync
    rpc = (Rpc if is_sync else busrt_async.Rpc)(registered.client)
    body = {key: bytes.fromhex(meaning[key]) for key in ('payload', 'params', 'result', 'data') if key in meaning}
    if meaning['kind'] == 'notification':
        registered.start(lambda: rpc.notify('peer', Notification(body['payload'])))
        assert peer.request()[9:] == b'peer\0' + data
        got = []
        rpc.on_notification = registered.handler(got)
        deliver(peer, data)
        until(lambda: got)
        assert got[0].get_payload() == body['payload']
    elif meaning['kind'] == 'request':
        send = rpc.call0 if meaning['id'] == 0 else rpc.call
        registered.start(lambda: send('peer', Request(meaning['method'], body['params'])))
        request = peer.request()
        sent = request[len(b'peer\0') + 9 :]
        assert request[9:].startswith(b'peer\0') and sent[:1] + sent[5:] == data[:1] + data[5:]
        assert (sent[1:5] == bytes(4)) == (meaning['id'] == 0)
        peer.acknowledge(request)
        got = []
        rpc.on_call = registered.handler(got)
        deliver(peer, data)
        until(lambda: got)
        (event,) = got
        assert (event.method, event.call_id, event.get_payload()) == (meaning['method'].encode(), meaning['id'], body['params'])
        if meaning['id'] != 0:
            assert peer.request()[9:] == b'peer\0\x11' + data[1:5]
    else:
        # Both ways: as an answer to a call, and as the answer of a handler.
        calling = registered.start(lambda: rpc.call('peer', Request('x')))
        request = peer.request()
        identifier = request[len(b'peer\0') + 10 :][:4]
        peer.acknowledge(request)
        deliver(peer, data[:1] + identifier + data[5:])
        event = calling()

        def outcome():
            return event.wait_completed(PATIENCE)

        if meaning['kind'] == 'reply':
            assert registered.do(outcome).get_payload() == body['result']
        else:
            with pytest.raises(RpcException) as e:
                registered.do(outcome)
            assert (e.value.rpc_error_code, e.value.rpc_error_payload) == (meaning['code'], body['data'])
        if is_sync:
            rpc.on_call = lambda event: answer(meaning, body)
        else:

            async def on_call(event):
                return answer(meaning, body)

            rpc.on_call = on_call
        deliver(peer, b'\x01' + data[1:5] + b'm\0')
        assert peer.request()[9:] == b'peer\0' + data


def answer(meaning, body):
    if meaning['kind'] == 'reply':
        return body['result']
    raise RpcException(body['data'], meaning['code'])


def deliver(peer, payload):
    body = b'peer\0' + payload
    peer.socket.sendall(struct.pack('<BIB', OP_MESSAGE, len(body), 0) + body)


@vectors('invalid', lambda vector: vector['frame'] == 'rpc')
def test_invalid_rpc(registered, vector):
    got = []
    rpc = (Rpc if registered.is_sync else busrt_async.Rpc)(registered.client)
    rpc.on_frame = rpc.on_call = rpc.on_notification = registered.handler(got)
    deliver(registered.peer, bytes.fromhex(vector['bytes']))
    deliver(registered.peer, b'\0after')
    until(lambda: got)
    assert [event.get_payload() for event in got] == [b'after'] and registered.client.is_connected()
