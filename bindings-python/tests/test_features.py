"""What the client for plain threads offers beyond programs in the field: topics, events, codecs, cursors."""

import asyncio
import contextvars
import threading
import time

import pytest

import busrt
from busrt.rpc import Rpc, RpcException
from conftest import until


@pytest.fixture
def pair():
    with busrt.Broker() as broker:
        with busrt.connect(broker, 'a') as a, busrt.connect(broker, 'b') as b:
            yield a, b


def test_callbacks_and_queues_of_topics(pair):
    a, b = pair
    got, rest = [], []
    a.on_frame = lambda frame: rest.append(frame.topic)
    a.subscribe('other')
    handler = a.on_topic('x/+', lambda frame: got.append(frame.topic))

    @a.on_topic('x/#')
    def fails(frame):
        raise ValueError('of the program')

    queue = a.open_queue('q/#', maxsize=2)
    for topic in ('x/1', 'other', 'x/2', 'q/1'):
        b.publish(topic, topic)
    assert queue.get(5).payload == b'q/1'
    with pytest.raises(TimeoutError):
        queue.get(0.01)
    until(lambda: len(got) == 2 and rest)
    assert (got, rest) == (['x/1', 'x/2'], ['other'])
    for n in range(10):
        b.publish(f'q/{n}', '')
    assert [queue.get(5).topic for _ in range(10)] == [f'q/{n}' for n in range(10)]
    handler.close()
    handler.close()
    b.publish('x/3', '')
    b.publish('q/end', '')
    assert queue.get(5).topic == 'q/end' and got == ['x/1', 'x/2']
    a.disconnect()
    assert list(queue) == []


def test_topics_before_connect_and_again(path, name):
    with busrt.Client(path, name + '.b') as b:
        a = busrt.Client(path, name)
        queue = a.open_queue(name)
        for _ in range(2):
            a.connect()
            b.publish(name, 'one')
            assert queue.get(5).payload == b'one'
            a.disconnect()
            with pytest.raises(ConnectionError):
                queue.get(5)


def test_iteration_leaves_topics_to_their_callbacks(pair):
    a, b = pair
    got = []
    a.subscribe('plain')
    a.on_topic('x', got.append)
    b.publish('x', '')
    until(lambda: got)
    frames = iter(a)
    b.publish('plain', '')
    b.publish('x', '')
    b.publish('plain', 'last')
    assert [next(frames).payload for _ in range(2)] == [b'', b'last']
    assert len(got) == 2


def test_events(broker, name):
    with busrt.connect(broker.path, name, reconnect=(0.01, 0.05, None)) as a:
        got = []
        a.on_event(got.append)
        events = a.events(timeout=5)
        assert next(events).kind == 'connected'
        broker.kill()
        lost = next(events)
        assert (lost.kind, lost.last) == ('lost', False) and lost.reason
        trying = next(events)
        assert trying.kind == 'reconnecting' and trying.attempt == 1 and trying.delay <= 0.1
        broker.start()
        until(lambda: next(events).kind == 'connected')
    until(lambda: got[-1].kind == 'lost' and got[-1].last)
    assert got[0].kind == 'connected'


@pytest.mark.parametrize('codec', ['json', 'msgpack'])
def test_codecs(pair, codec):
    if codec == 'msgpack':
        pytest.importorskip('msgpack')
    server, caller = Rpc(pair[0], codec=codec), Rpc(pair[1])

    @server.method()
    def double(params):
        return None if params is None else {'got': params['n'] * 2}

    assert caller.call_method('a', 'double', {'n': 21}, codec=codec) == {'got': 42}
    assert caller.call_method('a', 'double', None, codec=codec) is None
    with pytest.raises(RpcException) as e:
        caller.call_method('a', 'double', b'\xc1')
    assert e.value.rpc_error_code == -32700
    with pytest.raises(ValueError):
        Rpc(pair[1], codec='none-such')


@pytest.mark.parametrize('codec', ['json', 'msgpack'])
def test_codecs_of_what_is_sent(pair, codec):
    a, _ = pair
    with busrt.connect(a.path, 'coding', codec=codec) as b:
        value = {'on': True, 'list': [1, 'two', None]}
        queue, raw, got = a.open_queue('t', codec=codec), a.open_queue('t'), []
        a.on_topic('t', got.append, codec=codec)
        b.publish('t', value)
        b.publish('t', b'\xc1', codec='bytes')
        b.publish('t', None)
        b.publish_for('t', 'a', value)
        first = queue.get(5)
        assert (first.payload, first.sender, first.primary_sender, first.topic) == (value, 'coding', 'coding', 't')
        assert first.frame.payload and repr(first).startswith("<Decoded from 'coding'")
        # What cannot be decoded is logged.
        assert [queue.get(5).payload for _ in range(2)] == [None, value]
        assert [type(raw.get(5).payload) for _ in range(4)] == [bytes] * 4
        until(lambda: len(got) == 3)
        frames = iter(a)
        b.send_message('a', value)
        b.broadcast('a', value)
        assert [next(frames).payload for _ in range(2)] == [first.frame.payload] * 2
        own = b.open_queue('own')
        b.publish('own', [1])
        assert own.get(5).payload == [1]


def test_codecs_of_notifications(pair):
    server, caller = Rpc(pair[0], codec='json'), Rpc(pair[1], codec='json')
    got = []

    @server.notification()
    def note(decoded):
        got.append((decoded.sender, decoded.payload))

    caller.send_notification('a', {'n': 1})
    caller.send_notification('a', b'no JSON', codec='bytes')
    caller.send_notification('a', b'[2]', qos=0, codec='bytes')
    until(lambda: len(got) == 2)
    assert got == [('b', {'n': 1}), ('b', [2])]

    @server.notification(codec='bytes')
    def plain(decoded):
        got.append(decoded.payload)

    caller.send_notification('a', 'text', codec='bytes')
    until(lambda: got[-1] == b'text')
    with pytest.raises(LookupError):
        caller.send_notification('no such client', 1)


def test_a_method_that_is_a_coroutine_function(pair):
    server, caller = Rpc(pair[0]), Rpc(pair[1])

    @server.method()
    async def twice(event):
        await asyncio.sleep(0)
        return event.get_payload() * 2

    @server.method()
    async def fails(event):
        raise RpcException('of the program', 5)

    assert caller.call_method('a', 'twice', 'ab') == b'abab'
    with pytest.raises(RpcException) as e:
        caller.call_method('a', 'fails')
    assert e.value.rpc_error_code == 5


def test_cursors(pair):
    pytest.importorskip('msgpack')
    server, caller = Rpc(pair[0]), Rpc(pair[1])

    @server.method()
    def rows(event):
        return busrt.Cursor({'n': n} for n in range(250))

    @server.method()
    def broken(event):
        def items():
            yield 1
            raise RpcException('no more', -5)

        return busrt.Cursor(items())

    numbers = [row['n'] for row in caller.cursor('a', 'rows', codec='msgpack')]
    assert numbers == list(range(250))
    assert len(caller.cursor('a', 'rows').take(3)) == 3
    assert len(server._bus_cursors) == 1
    assert len(list(Rpc(pair[1], codec='json').cursor('a', 'rows'))) == 250
    with pytest.raises(RpcException) as e:
        list(caller.cursor('a', 'broken'))
    assert (e.value.rpc_error_code, e.value.rpc_error_payload) == (-5, b'no more')


def test_context_variables_reach_handlers(pair):
    variable = contextvars.ContextVar('variable', default='none')
    variable.set('set')
    got = threading.Event()
    server, caller = Rpc(pair[0]), Rpc(pair[1])

    @server.method()
    def read(event):
        value = variable.get()
        variable.set('changed')
        return value

    server.on_notification = lambda event: variable.get() == 'set' and got.set()
    from busrt.rpc import Notification

    assert [caller.call_method('a', 'read') for _ in range(3)] == [b'set'] * 3
    caller.notify('a', Notification())
    assert got.wait(5)


def test_a_full_queue_holds_the_broker_back(tmp_path):
    with busrt.Broker(queue_size=8, slow='block') as broker:
        path = broker.listen(str(tmp_path / 'bus.sock'))
        with busrt.connect(path, 'a', inbox_bytes=4096) as a, busrt.connect(path, 'b', timeout=None, queue_bytes=65536) as b:
            queue = a.open_queue('#', maxsize=4)
            payload, count = b'.' * 16384, 500
            sender = threading.Thread(target=lambda: [b.publish('t', payload, qos=0) for _ in range(count)])
            sender.start()
            # The sender is held back when the queues between are full.
            sent = -1
            while sent != (sent := b.stats()['w_frames']):
                time.sleep(0.1)
            assert sender.is_alive() and len(queue) == 4
            assert [queue.get(5).payload for _ in range(count)] == [payload] * count
            sender.join()


def test_a_subscription_that_is_refused(pair):
    a, _ = pair
    with pytest.raises(busrt.BusError):
        a.on_topic('x' * 100_000, print)
    assert a._bus_topics.all() == []
    assert repr(a.open_queue('y', subscribe=False)) == "<TopicQueue 'y'>"
    with a.open_queue('z') as queue:
        a.publish('z', '1')
        assert queue.get(5).payload == b'1'
    with pytest.raises(ConnectionError):
        queue.get(5)


def test_the_embedded_broker(tmp_path):
    with busrt.Broker(max_name=20, socket_mode=0o600) as broker:
        path = broker.listen(str(tmp_path / 'bus.sock'))
        assert (tmp_path / 'bus.sock').stat().st_mode & 0o777 == 0o600
        with busrt.connect(path, 'outside') as outside, busrt.connect(broker, 'inside') as inside:
            assert broker.clients() == ['.broker', 'inside', 'outside']
            outside.send_message('inside', 'text')
            frame = next(iter(inside))
            assert (frame.sender, frame.payload) == ('outside', b'text')
            kinds = {client['name']: client['kind'] for client in broker.client_stats()}
            assert kinds == {'.broker': 'internal', 'inside': 'internal', 'outside': 'local_ipc'}
            assert broker.stats()['r_frames'] >= 1
            with pytest.raises(RuntimeError, match='0x72'):
                busrt.connect(path, 'n' * 21)
            assert broker.disconnect('outside') and not broker.disconnect('outside')
        broker.shutdown()
    with pytest.raises(TypeError):
        busrt.Broker(none_such=1)
    with pytest.raises(ValueError):
        busrt.Broker(slow='none-such')


def test_secondary_clients_flush_and_drain(pair):
    a, b = pair
    queue = b.open_queue('t')
    other = a.secondary('other')
    assert other.name == 'a%%other' and other.timeout == a.timeout
    other.publish('t', 'x', qos=0)
    assert other.flush(5) is True
    frame = queue.get(5)
    assert (frame.sender, frame.primary_sender) == ('a%%other', 'a')
    assert other.stats()['w_frames'] == 1
    assert list(b.batches(timeout=0.01)) == []
    assert a.drain(5) is True
    assert not a.is_connected()
    with pytest.raises(ConnectionError):
        a.publish('t')
