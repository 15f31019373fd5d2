"""The client for plain threads, as programs in the field use it. test_client_async.py is the same for asyncio."""

import copy
import pickle
import socket
import threading
import time
import types
import weakref

import pytest

import busrt
import busrt.client
from busrt.client import OP_BROADCAST, OP_MESSAGE, OP_PUBLISH, OP_SUBSCRIBE, Client, ClientFrame, Frame
from conftest import subscribed, until


@pytest.fixture
def connect(path):
    clients = []

    def connect(name, cls=Client):
        client = cls(path, name)
        client.connect()
        clients.append(client)
        return client

    yield connect
    for client in clients:
        client.disconnect()


def test_constants():
    from busrt.client import ERR_BUSY, GREETINGS, OP_ACK, OP_NOP, PING_FRAME, PROTOCOL_VERSION, RESPONSE_OK

    assert (GREETINGS, PROTOCOL_VERSION, PING_FRAME) == (0xEB, 1, b'\0' * 9)
    assert (OP_NOP, OP_PUBLISH, OP_SUBSCRIBE, OP_MESSAGE, OP_BROADCAST, OP_ACK) == (0, 1, 2, 0x12, 0x13, 0xFE)
    assert (RESPONSE_OK, ERR_BUSY) == (1, 0x76)
    assert busrt.client.on_frame_default(None) is None
    assert tuple(int(part) for part in busrt.__version__.split('.')[:2]) >= (0, 6)


def test_messages_publications_and_broadcasts(connect, name):
    a, b, got = connect(name + '.a'), connect(name + '.b'), []
    a.on_frame = lambda f: got.append((f.type, f.sender, f.primary_sender, f.topic, f.payload, f.qos, f.header))
    subscribed(a, 'x/#')
    assert b.send(a.name, Frame(b'1', qos=1)).wait_completed() == 1
    assert b.send('x/y', Frame('2\u00e9', tp=OP_PUBLISH, qos=1)).wait_completed(timeout=5) == 1
    frame = Frame(bytearray(b'3'), tp=OP_BROADCAST, qos=3)
    frame.header = b'head'
    assert b.send(name + '.*', frame).wait_completed() == 1
    until(lambda: len(got) == 3)
    assert got == [
        (OP_MESSAGE, b.name, b.name, None, b'1', 0, None),
        (OP_PUBLISH, b.name, b.name, 'x/y', '2\u00e9'.encode(), 0, None),
        (OP_BROADCAST, b.name, b.name, None, b'head3', 0, None),
    ]


@pytest.mark.parametrize(
    'payload, sent',
    [
        (b'', b''),
        ('', b''),
        (b'b', b'b'),
        (bytearray(b'ba'), b'ba'),
        (memoryview(b'mv'), b'mv'),
        (memoryview(b'\x01\0\x02\0').cast('H'), b'\x01\0\x02\0'),
        ('\U0001f600' * 3, ('\U0001f600' * 3).encode()),
        (b'x' * 100_000, b'x' * 100_000),
        ('y' * 100_000, b'y' * 100_000),
    ],
)
def test_every_kind_of_payload(connect, name, payload, sent):
    a, got = connect(name), []
    a.on_frame = got.append
    assert a.send(name, Frame(payload, qos=1)).wait_completed(5) == 1
    until(lambda: got)
    assert got[0].payload == sent and type(got[0].payload) is bytes


def test_what_is_given_is_copied(connect, name):
    a, got, payload = connect(name), [], bytearray(b'1' * 9000)
    a.on_frame = got.append
    a.send(name, Frame(payload))
    payload[:] = b'2' * 9000
    until(lambda: got)
    assert got[0].payload == b'1' * 9000


def test_results(connect, name):
    a = connect(name)
    done = a.send('nobody', Frame(b'', qos=1))
    assert done.wait_completed() == 0x71 and done.result == 0x71 and done.is_completed() and done.completed.is_set()
    assert done.wait_completed(0.1) == 0x71
    assert a.subscribe('t').wait_completed() == 1
    assert a.unsubscribe(['t', 'u']).wait_completed(timeout=1) == 1
    assert a.subscribe([]).is_completed()
    with pytest.raises(TypeError):
        a.subscribe(('a', 'b'))
    for qos in (4, -1, 256):
        with pytest.raises(ValueError):
            a.send('nobody', Frame(b'', qos=qos))
    own = ClientFrame(1)
    assert not own.is_completed()
    with pytest.raises(TimeoutError) as e:
        own.wait_completed(0.01)
    assert str(e.value) == ''
    own.result = 7
    own.completed.set()
    assert own.is_completed() and own.wait_completed() == 7
    assert ClientFrame(0).wait_completed() == 1


def test_errors_of_connecting(connect, path, name, tmp_path):
    connect(name)
    with pytest.raises(RuntimeError) as e:
        Client(path, name).connect()
    assert str(e.value) == 'Server response: 0x76' and isinstance(e.value, busrt.BusError)
    with pytest.raises(FileNotFoundError) as e:
        Client(str(tmp_path / 'no.sock'), name).connect()
    assert isinstance(e.value, busrt.BusError)
    with socket.create_server(('127.0.0.1', 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        Client(f'127.0.0.1:{port}', name).connect()


@pytest.mark.parametrize('greeting, text', [(b'HTTP', 'Unsupported protocol'), (b'\xeb\x02\x00', 'Unsupported protocol version')])
def test_what_is_no_broker(fake, greeting, text):
    fake.answer(lambda peer: peer.sendall(greeting))
    client = Client(fake.path, 'x')
    client.timeout = 5
    with pytest.raises(RuntimeError) as e:
        client.connect()
    assert str(e.value) == text


def test_a_silent_peer_ends_the_wait(fake):
    client = Client(fake.path, 'x')
    client.timeout = 0.1
    fake.answer(lambda peer: None)
    with pytest.raises(TimeoutError):
        client.connect()
    client.timeout = 5
    fake.answer(lambda peer: peer.close())
    with pytest.raises(OSError):
        client.connect()


def test_not_connected(connect, path, name):
    fresh = Client(path, name)
    assert not fresh.is_connected() and not fresh.connected
    fresh.disconnect()
    with pytest.raises(ConnectionError):
        fresh.send('x', Frame(b''))
    a = connect(name)
    for _ in range(3):
        assert a.is_connected() and a.connected
        a.disconnect()
        a.disconnect()
        assert not a.is_connected()
        with pytest.raises(OSError):
            a.send('x', Frame(b''))
        a.connect()


def test_the_broker_dies(broker, name):
    a = Client(broker.path, name)
    a.connect()
    ends = []
    broker.suspend()
    pending = a.send(name, Frame(b'', qos=1))
    threading.Thread(target=lambda: ends.append(pending.wait_completed())).start()
    time.sleep(0.05)
    broker.kill()
    until(lambda: ends)
    assert ends == [0x73]
    until(lambda: not a.is_connected())
    with pytest.raises(OSError):
        a.send('x', Frame(b''))
    broker.start()
    a.connect()
    assert a.send(name, Frame(b'', qos=1)).wait_completed(5) == 1
    a.disconnect()


def test_without_room_nothing_is_written(fake, name):
    fake.answer(fake.register)
    client = Client(fake.path, name)
    client.connect()
    client.timeout = 0.1
    with pytest.raises(TimeoutError):
        for _ in range(100):
            client.send('x', Frame(b'z' * 1_000_000))
    fake.close()
    until(lambda: not client.is_connected())


def test_handlers_may_call_and_wait(connect, name):
    a, b, got = connect(name + '.a'), connect(name + '.b'), []

    def answer(frame):
        got.append(a.send(b.name, Frame(frame.payload, qos=1)).wait_completed(5))

    a.on_frame = answer
    b.on_frame = got.append
    b.send(a.name, Frame(b'x'))
    until(lambda: len(got) == 2)


def test_a_handler_that_raises_is_logged(connect, name, caplog):
    a, got = connect(name), []

    def handle(frame):
        got.append(frame)
        if len(got) == 1:
            raise SystemExit('no')

    a.on_frame = handle
    a.send(name, Frame(b'1'))
    a.send(name, Frame(b'2'))
    until(lambda: len(got) == 2)
    assert [record.name for record in caplog.records] == ['busrt.client']


def test_a_log_handler_that_sends_over_the_client(connect, name):
    import logging

    class Handler(logging.Handler):
        def emit(self, record):
            client.send(name, Frame(b'log', qos=1)).wait_completed(5)

    client, got = connect(name), []
    logger, handler = logging.getLogger(), Handler()
    logger.addHandler(handler)
    try:

        def handle(frame):
            got.append(frame.payload)
            if frame.payload == b'raise':
                raise ValueError

        client.on_frame = handle
        client.send(name, Frame(b'raise'))
        until(lambda: b'log' in got)
    finally:
        logger.removeHandler(handler)


def test_handlers_are_looked_up_for_each_frame(connect, name):
    class Own(Client):
        def __init__(self, path, name, extra=None):
            super().__init__(path, name)
            self.extra = extra

        def on_frame(self, frame):
            got.append(('class', frame.payload))

    got = []
    a = connect(name, Own)
    a.send(name, Frame(b'1'))
    until(lambda: len(got) == 1)
    a.on_frame = lambda frame: got.append(('instance', frame.payload))
    a.send(name, Frame(b'2'))
    until(lambda: len(got) == 2)
    assert got == [('class', b'1'), ('instance', b'2')]


def test_frames_are_plain_objects(connect, name):
    a, got = connect(name), []
    a.on_frame = got.append
    a.send(name, types.SimpleNamespace(payload='duck', type=OP_MESSAGE, qos=0, header=None, topic=None))
    until(lambda: got)
    frame = got[0]
    frame.own = 1
    weakref.ref(frame)
    for other in (pickle.loads(pickle.dumps(frame)), copy.copy(frame), copy.deepcopy(frame)):
        assert (other.payload, other.sender, other.topic, other.own) == (b'duck', name, None, 1)
    frame.payload = b'again'
    a.send(name, frame)
    until(lambda: len(got) == 2)
    assert got[1].payload == b'again'

    class Own(Frame):
        def __init__(self, one, two, three):
            super().__init__(one + two, qos=three)

    assert Own(b'a', b'b', 1).payload == b'ab'
    with pytest.raises(AttributeError):
        Frame().sender


def test_lives_without_a_reference_and_is_freed(path, name):
    got = threading.Event()

    def make():
        client = Client(path, name)
        client.on_frame = lambda frame: got.set()
        client.connect()
        return weakref.ref(client)

    ref = make()
    other = Client(path, name + '.other')
    other.connect()
    other.send(name, Frame(b''))
    assert got.wait(5)
    ref().disconnect()
    import gc

    until(lambda: gc.collect() is not None and ref() is None)
    other.disconnect()


def test_order_from_many_threads(connect, name):
    a, b, got = connect(name + '.a'), connect(name + '.b'), []
    a.on_frame = lambda frame: got.append(frame.payload.split(b' '))

    def send(thread):
        for n in range(2000):
            b.send(a.name, Frame(b'%d %d' % (thread, n)))

    threads = [threading.Thread(target=send, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until(lambda: len(got) == 8000)
    for n in range(4):
        assert [int(number) for thread, number in got if int(thread) == n] == list(range(2000))


def test_a_slow_handler_gets_everything(connect, name):
    a, b, got = connect(name + '.a'), connect(name + '.b'), []

    def slow(frame):
        time.sleep(0.001)
        got.append(frame)

    a.on_frame = slow
    for _ in range(500):
        b.send(a.name, Frame(b'x' * 1000))
    until(lambda: len(got) == 500)
    assert a.is_connected()


def test_the_new_style(path, name):
    with busrt.connect(path, name + '.a') as a, Client(path, name + '.b') as b:
        a.subscribe(['new/#'])
        # Its acknowledgement says that the subscription is made, too.
        a.exclude('new/no')
        b.publish('new/no', 'no')
        b.publish('new/1', 'one')
        b.publish_for('new/2', a.name, 'two')
        b.publish_for('new/2', 'other', 'three')
        b.broadcast(name + '.*', 'four', qos=busrt.QoS.REALTIME)
        b.send_message(a.name, 'five')
        with pytest.raises(busrt.NotRegisteredError) as e:
            b.send_message('nobody', '')
        assert e.value.code == 0x71
        got = [frame.payload for batch in a.batches(timeout=0.5) for frame in batch]
        assert got == [b'one', b'two', b'four', b'five']
        a.unexclude('new/no')
        b.publish('new/no', 'six')
        for frame in a:
            assert frame.payload == b'six'
            break
        assert a.flush() and a.stats()['r_frames'] >= 5
        second = a.secondary()
        assert second.name.startswith(a.name + '%%') and second.is_connected()
        assert b.drain(5) and not b.is_connected()
    assert not second.is_connected() or until(lambda: not second.is_connected())


def test_reconnects(broker, name):
    with busrt.connect(broker.path, name, reconnect=(0.01, 0.05, None)) as a:
        got = []
        a.on_frame = lambda frame: got.append(frame.payload)
        a.subscribe('back')
        broker.kill()
        until(lambda: not a.is_connected())
        with pytest.raises(ConnectionError):
            a.publish('back', 'lost')
        broker.start()
        until(a.is_connected)
        a.publish('back', 'found')
        until(lambda: got)
        assert got == [b'found']


def test_an_inherited_socket(path, name):
    with socket.socket(socket.AF_UNIX) as own:
        own.connect(path)
        with Client('', name, fd=own) as a:
            assert a.send(name, Frame(b'', qos=1)).wait_completed(5) == 1


def test_an_embedded_broker(tmp_path, name):
    with busrt.Broker() as broker:
        address = broker.listen(str(tmp_path / 'own.sock'))
        with Client(address, name) as a:
            assert a.send(name, Frame(b'', qos=1)).wait_completed(5) == 1
            assert name in broker.clients()
