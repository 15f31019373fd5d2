"""Details of the API that programs in the field rely on, for plain threads: each behaves as with the package `busrt` 0.1.2 of
PyPI. test_api_async.py is the same for asyncio."""

import copy
import logging
import pickle
import threading
import time
import types

import pytest

from busrt.client import OP_BROADCAST, OP_MESSAGE, OP_PUBLISH, OP_SUBSCRIBE, Client, Frame
from busrt.rpc import Notification, Request, Rpc, RpcException
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


def test_frames_have_their_attributes_in_a_dict(connect, name):
    own, got = name + '.a', []
    a = connect(own)
    a.on_frame = got.append
    subscribed(a, 'x/#')
    a.send(own, Frame(b'1', qos=1)).wait_completed(5)
    a.send('x/y', Frame(b'2', tp=OP_PUBLISH, qos=1)).wait_completed(5)
    a.send(name + '.*', Frame(b'3', tp=OP_BROADCAST, qos=1)).wait_completed(5)
    until(lambda: len(got) == 3)
    common = {'header': None, 'qos': 0, 'sender': own, 'primary_sender': own}
    assert [vars(frame) for frame in got] == [
        {**common, 'type': OP_MESSAGE, 'topic': None, 'payload': b'1'},
        {**common, 'type': OP_PUBLISH, 'topic': 'x/y', 'payload': b'2'},
        {**common, 'type': OP_BROADCAST, 'topic': None, 'payload': b'3'},
    ]
    frame = got[1]
    frame.own = frame.payload = 5
    assert vars(frame)['payload'] == vars(frame)['own'] == 5 and vars(frame) is frame.__dict__
    vars(frame).update(payload=b'new', type=OP_MESSAGE)
    assert (frame.payload, frame.type) == (b'new', OP_MESSAGE)
    assert a.send(own, frame).wait_completed() == 1
    until(lambda: len(got) == 4)
    assert got[3].payload == b'new'


def test_attributes_of_frames_are_set_deleted_and_replaced():
    frame = Frame(b'x')
    assert vars(frame) == {'payload': b'x', 'type': OP_MESSAGE, 'qos': 0, 'header': None}
    frame = Frame(b'x', OP_PUBLISH, 1)
    frame.topic = 't'
    del frame.topic, frame.qos
    assert frame.topic is None
    for deleted in ('qos', 'sender'):
        with pytest.raises(AttributeError):
            getattr(frame, deleted)
        with pytest.raises(AttributeError):
            delattr(frame, deleted)
    assert vars(frame) == {'payload': b'x', 'type': OP_PUBLISH, 'header': None}
    del frame.header
    assert 'header' not in vars(frame)
    with pytest.raises(AttributeError):
        del frame.header
    frame.__dict__ = {'payload': b'other', 'own': 1}
    assert frame.payload == b'other' and frame.own == 1 and not hasattr(frame, 'type')
    for other in (copy.copy(frame), copy.deepcopy(frame), pickle.loads(pickle.dumps(frame))):
        assert vars(other) == vars(frame) and vars(other) is not vars(frame)


def test_subclasses_of_frames():
    class Attribute(Frame):
        qos = 2
        topic = 'of the class'

    assert (Attribute().qos, Attribute().topic) == (0, 'of the class')
    assert vars(Attribute(b'x')) == {'payload': b'x', 'type': OP_MESSAGE, 'qos': 0, 'header': None}

    class Property(Frame):
        @property
        def payload(self):
            return self.own.upper()

        @payload.setter
        def payload(self, value):
            self.own = value

    assert Property(b'x').payload == b'X'

    class Own(Frame):
        def __init__(self):
            self.payload, self.type, self.qos, self.header = b'own', OP_MESSAGE, 1, None

        def __getattr__(self, name):
            if name.startswith('__'):
                raise AttributeError(name)
            return 'no ' + name

    assert Own().payload == b'own' and Own().other == 'no other'
    assert vars(pickle.loads(pickle.dumps(copy.copy(Frame(b'x'))))) == vars(Frame(b'x'))


def test_classes_can_be_patched(connect, name, monkeypatch):
    monkeypatch.setattr(Frame, 'length', lambda self: len(self.payload), raising=False)
    before = Frame.__init__

    def init(self, *args, **kwargs):
        before(self, *args, **kwargs)
        self.patched = True

    monkeypatch.setattr(Frame, '__init__', init)
    assert Frame(b'abc').length() == 3 and Frame().patched
    a, waits = connect(name), []
    kind = type(a.send(name, Frame(b'')))
    wait = kind.wait_completed
    monkeypatch.setattr(kind, 'wait_completed', lambda self, *args: waits.append(self) or wait(self, *args))
    assert a.send(name, Frame(b'', qos=1)).wait_completed(5) == 1 and len(waits) == 1


def test_a_subscription_to_nothing_with_an_acknowledgement(connect, name):
    frame = Frame(tp=OP_SUBSCRIBE, qos=1)
    frame.topic = []
    done = connect(name).send(None, frame)
    assert (done.qos, done.wait_completed(5), done.result, done.is_completed(), done.completed.is_set()) == (1, 1, 1, True, True)


def test_connected_can_be_cleared(connect, name):
    a = connect(name)
    a.connected = False
    assert not a.is_connected() and not a.connected
    until(lambda: not a.connect())
    assert a.is_connected() and a.send(name, Frame(b'', qos=1)).wait_completed(5) == 1


def test_the_frame_of_an_error_reply(connect, name):
    rpc = Rpc(connect(name))

    def on_call(event):
        raise RpcException('why', 0 if event.method == b'zero' else 77)

    rpc.on_call = on_call
    for method, code in (('x', 77), ('zero', 0)):
        event = rpc.call(name, Request(method))
        with pytest.raises(RpcException) as e:
            event.wait_completed(5)
        assert (e.value.rpc_error_code, e.value.rpc_error_payload) == (code, b'why') and event.error is e.value
        assert event.frame.sender == name and event.frame.payload[:1] == b'\x12'
        assert event.get_payload() == code.to_bytes(2, 'little') + b'why' and not event.is_empty()
    assert rpc.call('nobody', Request('x')).frame is None


def test_requests_are_duck_typed(connect, name):
    rpc = Rpc(connect(name))
    rpc.on_call = lambda event: event.get_payload()
    request = types.SimpleNamespace(payload=b'duck', type=OP_MESSAGE, qos=1, method=b'echo')
    assert rpc.call(name, request).wait_completed(5).get_payload() == b'duck'
    # What call0 has left in it does not matter.
    request = Request('echo', b'again')
    rpc.call0(name, request).wait_completed(5)
    for qos in range(4):
        request.qos = qos
        assert rpc.call(name, request).wait_completed(5).get_payload() == b'again'


def test_an_overridden_send_gets_the_request(connect, name):
    class Own(Client):
        def send(self, target=None, frame=None):
            if isinstance(frame, Request):
                sent.append((frame.mark, frame.method, frame.payload, frame.qos, frame.type))
                assert not hasattr(frame, 'other')
            return super().send(target, frame)

    sent, request = [], Request('x', b'y')
    request.mark = 'mine'
    rpc = Rpc(connect(name, Own))
    rpc.on_call = lambda event: None
    rpc.call(name, request).wait_completed(5)
    assert sent == [('mine', b'x', b'y', 1, OP_MESSAGE)]


def test_handlers_of_an_rpc_are_logged_as_such(connect, name, caplog):
    def handler(*_):
        raise ValueError('from a handler')

    def cause():
        rpc.notify(own, Notification())
        rpc.client.send(name + '.*', Frame(b'', tp=OP_BROADCAST))
        rpc.call0(own, Request('x'))

    own = name + '.a'
    rpc = Rpc(connect(own))
    rpc.on_notification = rpc.on_frame = rpc.on_call = handler
    cause()
    until(lambda: len(caplog.records) == 3)
    # A handler of the program that hands frames on to the Rpc.
    handle = rpc.client.on_frame
    rpc.client.on_frame = lambda frame: handle(frame)
    cause()
    until(lambda: len(caplog.records) == 6)
    assert {(record.name, record.levelname) for record in caplog.records} == {('busrt.rpc', 'ERROR')}


def test_what_only_looks_like_rpc_goes_to_on_frame(connect, name):
    a, got = connect(name), []
    a.on_frame = lambda frame: got.append(frame.payload)
    sent = [b'\x11\5\0\0\0z', b'\x12\5\0\0\0\0\0z', b'\x11', b'\0n', b'\1', b'\x99', b'', b'\1\0\0\0\0m\0p']
    for payload in sent:
        a.send(name, Frame(payload, qos=1)).wait_completed(5)
    until(lambda: len(got) == len(sent))
    assert got == sent


def test_a_call_and_the_timeout_of_its_time(fake, name):
    """The acknowledgement is awaited for the timeout that the client has when it calls."""
    fake.answer(fake.register)
    client = Client(fake.path, name)
    client.connect()
    rpc, began = Rpc(client), time.monotonic()
    client.timeout = 0.2
    event = rpc.call('x', Request('y'))
    client.timeout = 30
    with pytest.raises(RpcException) as e:
        event.wait_completed()
    assert (e.value.rpc_error_code, e.value.rpc_error_payload) == (-32120, 'RPC timeout')
    assert 0.2 <= time.monotonic() - began < 5 and event.is_completed() and event.frame is None
    fake.close()
    client.disconnect()


def test_handlers_may_end_and_restore_the_connection(connect, name):
    a, b, got = connect(name + '.a'), connect(name + '.b'), []

    def on_frame(frame):
        a.disconnect()
        got.append(a.is_connected())
        a.connect()
        got.append(a.send(b.name, Frame(b'', qos=1)).wait_completed(5))

    a.on_frame = on_frame
    for _ in range(3):
        b.send(a.name, Frame(b'', qos=1)).wait_completed(5)
        until(lambda: len(got) == 2)
        assert got == [False, 1]
        got.clear()

    server, caller = Rpc(a), Rpc(b)
    server.on_call = server.on_notification = lambda event: (a.disconnect(), got.append(a.is_connected())) and None
    event = caller.call(a.name, Request('x'))
    with pytest.raises((RpcException, TimeoutError)):
        event.wait_completed(0.2)
    assert got == [False]
    a.connect()
    caller.notify(a.name, Notification()).wait_completed(5)
    until(lambda: got == [False] * 2)


def test_a_log_filter_that_raises_ends_no_thread(connect, name):
    class Filter(logging.Filter):
        def filter(self, record):
            raise ValueError('from a filter')

    def handler(payload):
        got.append(payload)
        raise ValueError('from a handler')

    a, b, got, own = connect(name + '.a'), connect(name + '.b'), [], Filter()
    a.on_frame = lambda frame: handler(frame.payload)
    rpc = Rpc(b)
    rpc.on_notification = lambda event: handler(event.get_payload())
    loggers = [logging.getLogger('busrt.client'), logging.getLogger('busrt.rpc')]
    for logger in loggers:
        logger.addFilter(own)
    try:
        for n in range(3):
            a.send(a.name, Frame(b'%d' % n))
            rpc.notify(b.name, Notification(b'%d' % n))
        until(lambda: len(got) == 6)
    finally:
        for logger in loggers:
            logger.removeFilter(own)


def test_ping_interval_is_read_at_each_ping(fake, name):
    pings = []

    def count(peer):
        fake.register(peer)
        while True:
            got = peer.recv(1000)
            if not got:
                return
            pings.append(got)

    fake.answer(count)
    client = Client(fake.path, name)
    client.ping_interval = 0.05
    client.connect()
    until(lambda: len(pings) >= 3)
    assert set(b''.join(pings)) == {0}
    client.ping_interval = 1000
    time.sleep(0.1)
    pings.clear()
    time.sleep(0.3)
    assert not pings
    fake.close()
    client.disconnect()


def test_threads_are_daemons(connect, name):
    before = set(threading.enumerate())
    a, rpc, kinds = connect(name + '.a'), Rpc(connect(name + '.b')), []

    def handler(_):
        kinds.append(threading.current_thread().daemon)

    a.on_frame = rpc.on_notification = rpc.on_call = handler
    a.send(a.name, Frame(b''))
    rpc.notify(rpc.client.name, Notification())
    rpc.call(rpc.client.name, Request('x')).wait_completed(5)
    until(lambda: len(kinds) == 3)
    assert kinds == [True] * 3 and all(thread.daemon for thread in set(threading.enumerate()) - before)


class Unspeakable(Exception):
    def __str__(self):
        raise ValueError('no text')

    __repr__ = __str__


class Coded(Exception):
    def __init__(self, code):
        self.rpc_error_code = code


class Property(Exception):
    @property
    def rpc_error_code(self):
        raise ValueError('no code')


# Exceptions and results of a handler, and the code of the reply.
ANSWERS = [
    (Unspeakable(), None),
    (Coded('text'), -32603),
    (Coded(2**15), -32603),
    (Coded(-(2**15)), -(2**15)),
    (Coded(1.5), -32603),
    (Property(), -32603),
    (RpcException(5, 6), None),
    (SystemExit(1), -32603),
    (KeyboardInterrupt(), -32603),
    (RpcException('', 7), 7),
    (RpcException(None, 8), 8),
]


@pytest.mark.parametrize('at', range(len(ANSWERS)))
def test_there_is_always_an_answer(connect, name, at):
    raised, code = ANSWERS[at]
    rpc = Rpc(connect(name))

    def on_call(event):
        raise raised

    rpc.on_call = on_call
    with pytest.raises(RpcException) as e:
        rpc.call(name, Request('x')).wait_completed(5)
    assert code is None or e.value.rpc_error_code == code
    for result in (5, object(), ['x'], 1.5):
        rpc.on_call = lambda event, result=result: result
        with pytest.raises(RpcException) as e:
            rpc.call(name, Request('x')).wait_completed(5)
        assert e.value.rpc_error_code == -32603
    rpc.on_call = lambda event: bytearray(b'ok')
    assert rpc.call(name, Request('x')).wait_completed(5).get_payload() == b'ok'
