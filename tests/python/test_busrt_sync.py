"""The synchronous client of PyPI, busrt 0.1.2, on our broker."""

import queue
import threading

import msgpack
import pytest
from busrt import client as c
from busrt import rpc as r

from conftest import PATIENCE, until

ALL_QOS = pytest.mark.parametrize('qos', [0, 1, 2, 3])
PAYLOADS = {'bytes': b'hello', 'empty': b'', 'long': b'\0\xff' * 5000, 'str': 'a str'}


@pytest.fixture
def connect(address, name):
    """Returns a function that connects a client, which stores frames in its attribute `received`."""
    connected = []

    def connect(suffix, to=address):
        client = c.Client(to, f'{name}.{suffix}')
        client.timeout = PATIENCE
        client.received = queue.Queue()
        client.on_frame = client.received.put
        client.connect()
        connected.append(client)
        return client

    yield connect
    for client in connected:
        client.disconnect()


def done(result):
    return result.wait_completed(timeout=PATIENCE)


def taken(client):
    return client.received.get(timeout=PATIENCE)


def is_quiet(client):
    """Returns whether no unread frame has been delivered: the answer to a harmless operation comes
    after any such frame, and is read by the same thread."""
    frame = c.Frame(tp=c.OP_UNSUBSCRIBE, qos=1)
    frame.topic = 'never/subscribed'
    assert done(client.send(None, frame)) == c.RESPONSE_OK
    return client.received.empty()


@ALL_QOS
@pytest.mark.parametrize('payload', PAYLOADS.values(), ids=PAYLOADS.keys())
def test_message(connect, qos, payload):
    a, b = connect('a'), connect('b')
    result = a.send(b.name, c.Frame(payload, qos=qos))
    frame = taken(b)
    assert frame.payload == (payload.encode() if isinstance(payload, str) else payload)
    assert (frame.type, frame.sender, frame.primary_sender, frame.topic) == (c.OP_MESSAGE, a.name, a.name, None)
    assert done(result) == c.RESPONSE_OK
    assert result.is_completed()


@ALL_QOS
def test_broadcast(connect, qos, name):
    a, b = connect('a'), connect('b')
    assert done(a.send(f'{name}.*', c.Frame(b'x', tp=c.OP_BROADCAST, qos=qos))) == c.RESPONSE_OK
    for client in (a, b):
        frame = taken(client)
        assert (frame.type, frame.sender, frame.payload) == (c.OP_BROADCAST, a.name, b'x')
        assert is_quiet(client)


@ALL_QOS
def test_publish(connect, qos, name):
    a, b = connect('a'), connect('b')
    assert done(b.subscribe([f'{name}/one/#', f'{name}/+/two'])) == c.RESPONSE_OK
    assert done(b.subscribe(f'{name}/three')) == c.RESPONSE_OK
    assert is_quiet(b)
    for topic in ('one/x', 'x/two', 'one/two', 'three', 'four'):
        assert done(a.send(f'{name}/{topic}', c.Frame(topic, tp=c.OP_PUBLISH, qos=qos))) == c.RESPONSE_OK
    for topic in ('one/x', 'x/two', 'one/two', 'three'):
        frame = taken(b)
        assert (frame.type, frame.sender, frame.topic) == (c.OP_PUBLISH, a.name, f'{name}/{topic}')
        assert frame.payload == topic.encode()
    # Unsubscribes through the method, and with a frame that the program makes.
    assert done(b.unsubscribe([f'{name}/one/#', f'{name}/+/two'])) == c.RESPONSE_OK
    frame = c.Frame(tp=c.OP_UNSUBSCRIBE, qos=qos)
    frame.topic = f'{name}/three'
    assert done(b.send(None, frame)) == c.RESPONSE_OK
    assert is_quiet(b)
    for topic in ('one/x', 'x/two', 'three'):
        assert done(a.send(f'{name}/{topic}', c.Frame(b'x', tp=c.OP_PUBLISH, qos=1))) == c.RESPONSE_OK
    assert is_quiet(b)


def test_order(connect):
    a, b = connect('a'), connect('b')
    results = [a.send(b.name, c.Frame(b'%d' % i, qos=(0, 2, 1, 3)[i % 4])) for i in range(2000)]
    assert [taken(b).payload for _ in results] == [b'%d' % i for i in range(2000)]
    assert {done(result) for result in results} == {c.RESPONSE_OK}


def test_errors(connect, address, name):
    a = connect('a')
    assert done(a.send('nobody.there', c.Frame(b'x', qos=1))) == c.ERR_CLIENT_NOT_REGISTERED
    assert done(a.send('nobody.there', c.Frame(b'x', qos=0))) == c.RESPONSE_OK
    for refused, code in ((a.name, '0x76'), ('', '0x72'), ('.hidden', '0x72'), (f'{name}.nobody%%1', '0x71')):
        with pytest.raises(RuntimeError, match=f'Server response: {code}'):
            c.Client(address, refused).connect()


def test_secondary(connect, name):
    primary, secondary, other = connect('p'), connect('p%%1'), connect('o')
    secondary.send(other.name, c.Frame(b'x', qos=1))
    frame = taken(other)
    assert (frame.sender, frame.primary_sender) == (f'{name}.p%%1', f'{name}.p')
    assert done(other.send(frame.sender, c.Frame(b'y', qos=1))) == c.RESPONSE_OK
    assert taken(secondary).payload == b'y'
    assert is_quiet(primary)


def test_a_large_payload(connect):
    a, b = connect('a'), connect('b')
    payload = bytes(range(256)) * 4096
    result = a.send(b.name, c.Frame(payload, qos=1))
    assert taken(b).payload == payload
    assert done(result) == c.RESPONSE_OK


def test_many_threads_over_one_client(connect):
    a, b = connect('a'), connect('b')

    def work(number):
        for i in range(200):
            assert done(a.send(b.name, c.Frame(b'%d %d' % (number, i), qos=1))) == c.RESPONSE_OK

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    received = [tuple(map(int, taken(b).payload.split())) for _ in range(8 * 200)]
    for thread in threads:
        thread.join()
    for number in range(8):
        assert [i for n, i in received if n == number] == list(range(200))


# When a client of 0.1.2 connects twice, it shares its socket with its earlier reader: a long-running program must
# create a new client.
def test_disconnect_and_connect_again(connect):
    a, b = connect('a'), connect('b')
    for _ in range(2):
        a.timeout = 1
        a.disconnect()
        assert not a.is_connected()

        def again():
            try:
                return connect('a')
            except RuntimeError as e:
                # The old connection ends only when its reader wakes up.
                assert str(e) == 'Server response: 0x76'

        a = until(again, 'the name is free')
        assert a.is_connected()
        assert done(a.send(b.name, c.Frame(b'again', qos=1))) == c.RESPONSE_OK
        assert taken(b).payload == b'again'


def test_the_broker_is_restarted(start, folder, connect):
    broker = start(folder=folder)
    a = connect('a', broker.socket)
    broker.stop()
    until(lambda: not a.is_connected(), 'the loss is noticed')
    warning = taken(a)
    assert (warning.sender, warning.topic) == ('.broker', '.broker/warn')
    with pytest.raises(OSError):
        c.Client(broker.socket, 'x').connect()
    broker = start(folder=folder)
    a = connect('a', broker.socket)
    assert done(a.send(a.name, c.Frame(b'x', qos=1))) == c.RESPONSE_OK
    assert taken(a).payload == b'x'


def test_an_idle_client_stays(start, connect):
    broker = start('-t', '1')
    idle = connect('idle', broker.socket)
    # Twice the time after which a silent client is disconnected.
    for round in range(2):
        with broker.wire(f'silent{round}') as silent:
            assert silent.ended()
    assert is_quiet(idle)
    assert idle.is_connected()


class Service:
    def __init__(self, client):
        self.rpc = r.Rpc(client)
        self.rpc.on_call = self.on_call
        self.rpc.on_notification = lambda event: self.events.put(event.get_payload())
        self.rpc.on_frame = lambda frame: self.events.put((frame.topic, frame.payload))
        self.events = queue.Queue()

    def on_call(self, event):
        if event.method == b'echo':
            return event.get_payload()
        if event.method == b'nothing':
            return None
        if event.method == b'text':
            return 'a str'
        if event.method == b'note':
            self.events.put((event.call_id, event.get_payload()))
        if event.method == b'own.error':
            raise r.RpcException('own text', code=-5)
        if event.method == b'bug':
            raise ValueError('a bug')
        if event.method == b'ask.back':
            request = r.Request('echo', event.get_payload())
            return self.rpc.call(event.frame.sender, request).wait_completed(timeout=PATIENCE).get_payload()
        raise r.RpcException('no such method', code=r.RPC_ERROR_CODE_METHOD_NOT_FOUND)


@pytest.fixture
def services(connect):
    return Service(connect('a')), Service(connect('b'))


def call(service, target, method, params=b''):
    return service.rpc.call(target, r.Request(method, params)).wait_completed(timeout=PATIENCE)


def test_rpc(services):
    a, b = services
    target = b.rpc.client.name
    for params in (b'', b'\0', bytes(100_000), 'a str'):
        expected = params.encode() if isinstance(params, str) else params
        reply = call(a, target, 'echo', params)
        assert (reply.get_payload(), reply.is_empty()) == (expected, not expected)
        assert reply.frame.sender == target
    assert call(a, target, 'nothing').is_empty()
    assert call(a, target, b'text').get_payload() == b'a str'
    assert call(a, target, 'ask.back', b'around').get_payload() == b'around'
    # The client itself.
    assert call(a, a.rpc.client.name, 'echo', b'me').get_payload() == b'me'


def test_rpc_without_reply(services):
    a, b = services
    target = b.rpc.client.name
    assert done(a.rpc.notify(target, r.Notification(b'hello'))) == c.RESPONSE_OK
    assert b.events.get(timeout=PATIENCE) == b'hello'
    assert done(a.rpc.call0(target, r.Request('note', b'hi'))) == c.RESPONSE_OK
    assert b.events.get(timeout=PATIENCE) == (0, b'hi')
    assert done(a.rpc.notify('nobody', r.Notification(b'x'))) == c.ERR_CLIENT_NOT_REGISTERED
    assert done(a.rpc.call0('nobody', r.Request('x'))) == c.ERR_CLIENT_NOT_REGISTERED


@pytest.mark.parametrize('method, code, payload', [
    ('own.error', -5, b'own text'), ('bug', -32603, b'a bug'), ('nonsense', -32601, b'no such method')])
def test_rpc_errors(services, method, code, payload):
    a, b = services
    with pytest.raises(r.RpcException) as e:
        call(a, b.rpc.client.name, method)
    assert (e.value.rpc_error_code, e.value.rpc_error_payload) == (code, payload)


def test_rpc_to_an_unknown_client(services):
    with pytest.raises(r.RpcException) as e:
        call(services[0], 'nobody.there', 'x')
    assert e.value.rpc_error_code == -32113


def test_rpc_with_publications(services, name):
    a, b = services
    b.rpc.client.subscribe(f'{name}/#')
    call(b, a.rpc.client.name, 'nothing')
    a.rpc.client.send(f'{name}/x', c.Frame(b'pub', tp=c.OP_PUBLISH, qos=1))
    assert b.events.get(timeout=PATIENCE) == (f'{name}/x', b'pub')


def test_rpc_from_many_threads(services):
    a, b = services
    failed = []

    def work(number):
        for i in range(50):
            params = b'%d %d' % (number, i)
            if call(a, b.rpc.client.name, 'echo', params).get_payload() != params:
                failed.append(params)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_the_broker_answers(services):
    a, _ = services
    unpacked = lambda method, params=b'': msgpack.unpackb(call(a, '.broker', method, params).get_payload())
    assert unpacked('test') == {'ok': True}
    assert {'author', 'version'} <= set(unpacked('info'))
    assert {'uptime', 'r_frames', 'r_bytes', 'w_frames', 'w_bytes'} <= set(unpacked('stats'))
    listed = unpacked('client.list', msgpack.packb({'filter': '^' + a.rpc.client.name + '$'}))
    assert [client['name'] for client in listed['clients']] == [a.rpc.client.name]
    assert call(a, '.broker', 'benchmark.test', b'same').get_payload() == b'same'
    for method, params, code in (('test', b'x', -32602), ('nonsense', b'', -32601), ('client.list', b'\xc1', -32700)):
        with pytest.raises(r.RpcException) as e:
            call(a, '.broker', method, params)
        assert e.value.rpc_error_code == code
