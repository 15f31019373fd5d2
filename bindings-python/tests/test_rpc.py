"""RPC for plain threads. test_rpc_async.py is the same for asyncio."""

import threading
import time

import pytest

from busrt.client import OP_PUBLISH, Client, Frame
from busrt.rpc import Event, Notification, Request, Rpc, RpcCallEvent, RpcException, format_rpc_e_msg
from conftest import subscribed, until


@pytest.fixture
def rpc(path):
    clients = []

    def rpc(name, cls=Rpc):
        client = Client(path, name)
        client.connect()
        clients.append(client)
        return cls(client)

    yield rpc
    for client in clients:
        client.disconnect()


def failure(event, timeout=5):
    with pytest.raises(RpcException) as e:
        event.wait_completed(timeout)
    return e.value


def test_calls_and_errors(rpc, name):
    server, caller = rpc(name + '.s'), rpc(name + '.c')

    class Coded(Exception):
        rpc_error_code = 7

    def on_call(event):
        assert isinstance(event, Event) and event.frame.sender == caller.client.name and event.call_id
        if event.method == b'echo':
            return event.get_payload()
        if event.method == b'text':
            return 't\u00e9xt'
        if event.method == b'none':
            return None
        if event.method == b'coded':
            raise Coded('why')
        if event.method == b'bytes':
            raise RpcException(b'\xff', code=-5)
        if event.method == b'range':
            raise RpcException('far', code=70000)
        if event.method == b'wrong':
            return 5
        raise ValueError('no such thing')

    server.on_call = on_call

    def call(method, params=b''):
        return caller.call(server.client.name, Request(method, params))

    event = call('echo', b'abc')
    assert event.wait_completed(5) is event and event.get_payload() == b'abc' and not event.is_empty()
    assert event.is_completed() and event.error is None and event.completed.is_set()
    assert call('text').wait_completed(timeout=5).get_payload() == 't\u00e9xt'.encode()
    assert call('none', None).wait_completed(5).is_empty()
    e = failure(call('coded'))
    assert (e.rpc_error_code, e.rpc_error_payload, str(e)) == (7, b'why', 'why (code: 7)')
    e = failure(call('bytes'))
    assert (e.rpc_error_code, e.rpc_error_payload) == (-5, b'\xff')
    assert failure(call('range')).rpc_error_code == -32603
    assert failure(call('wrong')).rpc_error_code == -32603
    e = failure(call('other'))
    assert (e.rpc_error_code, e.rpc_error_payload) == (-32603, b'no such thing')
    e = failure(caller.call('nobody', Request('x')))
    assert (e.rpc_error_code, e.rpc_error_payload) == (-32113, 'RPC error')
    assert caller.call('nobody', Request('x')).is_completed()


def test_the_default_handler(rpc, name):
    server, caller = rpc(name + '.s'), rpc(name + '.c')
    assert failure(caller.call(server.client.name, Request('x'))).rpc_error_code == -32601


def test_failures_of_the_caller(path, rpc, name):
    lonely = Rpc(Client(path, name + '.l'))
    e = failure(lonely.call('x', Request('y')))
    assert e.rpc_error_code == -32115 and e.rpc_error_payload
    server, caller = rpc(name + '.s'), rpc(name + '.c')
    release = threading.Event()
    server.on_call = lambda event: release.wait(5) and b'late'
    event = caller.call(server.client.name, Request('slow'))
    with pytest.raises(TimeoutError):
        event.wait_completed(0.05)
    assert not event.is_completed()
    release.set()
    assert event.wait_completed(5).get_payload() == b'late'
    release.clear()
    event = caller.call(server.client.name, Request('slow'))
    time.sleep(0.02)
    caller.client.disconnect()
    assert failure(event).rpc_error_code == -32115
    release.set()


def test_notifications_frames_and_calls_without_reply(rpc, name):
    server, caller, got = rpc(name + '.s'), rpc(name + '.c'), []
    server.on_notification = lambda event: got.append((event.frame.sender, event.get_payload()))
    server.on_call = lambda event: got.append((event.method, event.get_payload(), event.call_id))
    server.on_frame = lambda frame: got.append((frame.topic, frame.payload))
    subscribed(server.client, 'rpc/#')
    target = server.client.name
    assert caller.notify(target, Notification('hello')).wait_completed(5) == 1
    until(lambda: len(got) == 1)
    assert caller.call0(target, Request('do', b'it')).wait_completed(5) == 1
    until(lambda: len(got) == 2)
    caller.client.send('rpc/x', Frame(b'pub', tp=OP_PUBLISH))
    until(lambda: len(got) == 3)
    assert got == [(caller.client.name, b'hello'), (b'do', b'it', 0), ('rpc/x', b'pub')]


def test_order_of_notifications_and_a_slow_frame_handler(rpc, name):
    server, caller, got, release = rpc(name + '.s'), rpc(name + '.c'), [], threading.Event()
    server.on_frame = lambda frame: release.wait(10)
    server.on_notification = lambda event: got.append(int(event.get_payload()))
    subscribed(server.client, 'hold')
    caller.client.send('hold', Frame(b'', tp=OP_PUBLISH))
    for n in range(3000):
        caller.notify(server.client.name, Notification(str(n)))
    until(lambda: len(got) == 3000)
    assert got == list(range(3000))
    release.set()


def test_handlers_call_back_and_wait(rpc, name):
    """Calls that wait for each other, deeper than any fixed number of threads of a small pool."""
    a, b = rpc(name + '.a'), rpc(name + '.b')

    def of(own, other):
        def on_call(event):
            depth = int(event.get_payload())
            if depth == 0:
                return b'bottom'
            return own.call(other.client.name, Request('down', str(depth - 1))).wait_completed(10).get_payload()

        return on_call

    a.on_call, b.on_call = of(a, b), of(b, a)
    assert a.call(b.client.name, Request('down', '40')).wait_completed(10).get_payload() == b'bottom'


def test_many_calls_under_way(rpc, name):
    server, caller = rpc(name + '.s'), rpc(name + '.c')
    server.on_call = lambda event: event.get_payload()
    events = [caller.call(server.client.name, Request('echo', str(n))) for n in range(500)]
    assert [int(event.wait_completed(10).get_payload()) for event in events] == list(range(500))


def test_takes_over_and_gives_back(path, rpc, name):
    client, got = Client(path, name + '.s'), []
    first = Rpc(client)
    first.on_notification = lambda event: got.append(('first', event.get_payload()))
    client.connect()
    caller = rpc(name + '.c')

    def notified():
        caller.notify(client.name, Notification(b'n'))
        until(lambda: len(got) == 1)
        return got.pop()

    assert notified() == ('first', b'n')
    second = Rpc(client)
    second.on_notification = lambda event: got.append(('second', event.get_payload()))
    assert notified() == ('second', b'n')
    client.on_frame = lambda frame: got.append(('client', frame.payload))
    assert notified() == ('client', b'\0n')
    client.disconnect()


def test_overridden_methods_are_called(path, rpc, name):
    class Own(Client):
        sent = ()

        def send(self, target=None, frame=None):
            self.sent += (target,)
            return super().send(target, frame)

    server = rpc(name + '.s')
    server.on_call = lambda event: b'yes'
    client = Own(path, name + '.c')
    client.connect()
    caller = Rpc(client)
    target = server.client.name
    assert caller.call(target, Request('x')).wait_completed(5).get_payload() == b'yes'
    caller.notify(target, Notification())
    assert client.sent == (target, target)
    client.disconnect()


def test_handlers_on_the_class(rpc, name):
    class Own(Rpc):
        def on_call(self, event):
            return b'class'

    server, caller = rpc(name + '.s', Own), rpc(name + '.c')
    assert caller.call(server.client.name, Request('x')).wait_completed(5).get_payload() == b'class'


def test_the_new_style(rpc, name):
    server, caller = rpc(name + '.s'), rpc(name + '.c')

    @server.method('add')
    def add(event):
        return str(sum(int(part) for part in event.get_payload().split()))

    assert caller.call_method(server.client.name, 'add', b'1 2 3') == b'6'
    with pytest.raises(RpcException) as e:
        caller.call_method(server.client.name, 'other')
    assert e.value.rpc_error_code == -32601
    server.on_call = lambda event: time.sleep(0.3)
    with pytest.raises(TimeoutError):
        caller.call_method(server.client.name, 'slow', timeout=0.05)


def test_small_parts():
    e = RpcException(b'm\xff')
    assert format_rpc_e_msg(e) == b'm\xff' and format_rpc_e_msg(ValueError('v')) == 'v'
    event = RpcCallEvent()
    assert not event.is_completed()
    with pytest.raises(TimeoutError):
        event.wait_completed(0.01)
    event.completed.set()
    assert event.is_completed() and event.wait_completed(0.1) is event
    import pickle

    other = pickle.loads(pickle.dumps(RpcException('x', 5)))
    assert (str(other), other.rpc_error_code) == ('x (code: 5)', 5)
