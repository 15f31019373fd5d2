"""What the client for asyncio offers beyond programs in the field: topics, events, codecs, cursors, an embedded broker."""

import asyncio
import contextvars
import gc
import weakref

import pytest

import busrt
import busrt_async
from busrt_async.rpc import Rpc, RpcException
from test_client_async import run, until


class Pair:
    """Two clients of a broker of this process."""

    async def __aenter__(self):
        self.broker = busrt_async.Broker()
        self.a = await busrt_async.connect(self.broker, 'a')
        self.b = await busrt_async.connect(self.broker, 'b')
        return self.a, self.b

    async def __aexit__(self, *_):
        await self.a.disconnect()
        await self.b.disconnect()
        await self.broker.shutdown()


@run
async def test_callbacks_and_queues_of_topics():
    async with Pair() as (a, b):
        got, rest, failed = [], [], []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failed.append(context['exception']))

        async def on_frame(frame):
            rest.append(frame.topic)

        async def take(frame):
            await asyncio.sleep(0)
            got.append(frame.topic)

        a.on_frame = on_frame
        await a.subscribe('other')
        handler = await a.on_topic('x/+', take)

        @a.on_topic('x/#')
        def fails(frame):
            raise ValueError('of the program')

        queue = await a.open_queue('q/#', maxsize=2)
        for topic in ('x/1', 'other', 'x/2', 'q/1'):
            await b.publish(topic, topic)
        assert (await queue.get(5)).payload == b'q/1'
        with pytest.raises(TimeoutError):
            await queue.get(0.01)
        with pytest.raises(asyncio.TimeoutError):
            await queue.get(0)
        await until(lambda: len(got) == 2 and rest and len(failed) == 2)
        assert (got, rest) == (['x/1', 'x/2'], ['other'])
        for n in range(10):
            await b.publish(f'q/{n}', '')
        assert [(await queue.get(5)).topic for _ in range(10)] == [f'q/{n}' for n in range(10)]
        await handler.close()
        await handler.close()
        await b.publish('x/3', '')
        await b.publish('q/end', '')
        assert (await queue.get(5)).topic == 'q/end' and got == ['x/1', 'x/2']
        await a.disconnect()
        assert [frame async for frame in queue] == []


@run
async def test_a_full_queue_holds_the_broker_back(tmp_path):
    async with busrt_async.Broker(queue_size=8, slow='block') as broker:
        path = await broker.listen(str(tmp_path / 'bus.sock'))
        async with (
            busrt_async.connect(path, 'a', inbox_bytes=4096) as a,
            busrt_async.connect(path, 'b', timeout=None, queue_bytes=65536) as b,
        ):
            queue = await a.open_queue('#', maxsize=4)
            payload, count = b'.' * 16384, 500

            async def publish():
                for _ in range(count):
                    await b.publish('t', payload, qos=0)

            sender = asyncio.create_task(publish())
            # The sender is held back when the queues between are full.
            sent = -1
            while sent != (sent := b.stats()['w_frames']):
                await asyncio.sleep(0.1)
            assert not sender.done() and len(queue) == 4
            assert [(await queue.get(5)).payload for _ in range(count)] == [payload] * count
            await sender


@run
async def test_a_queue_that_waits_ends_with_the_connection():
    async with Pair() as (a, b):
        queue = await a.open_queue('q', maxsize=2)
        for n in range(20):
            await b.publish('q', str(n))
        await until(lambda: len(queue) == 2)
        await a.disconnect()
        got = [int(frame.payload) async for frame in queue]
        assert got == list(range(len(got))) and len(got) >= 2


def test_topics_before_connect_and_again(path, name):
    a = busrt_async.Client(path, name)
    queue = a.open_queue(name)

    async def main():
        async with busrt_async.Client(path, name + '.b') as b:
            await a.connect()
            await b.publish(name, 'one')
            assert (await queue.get(5)).payload == b'one'
            await a.disconnect()
            with pytest.raises(ConnectionError):
                await queue.get(5)

    for _ in range(2):
        asyncio.run(main())


@run
async def test_iteration_leaves_topics_to_their_callbacks():
    async with Pair() as (a, b):
        got = []
        await a.subscribe('plain')
        await a.on_topic('x', got.append)
        queue = await a.open_queue('q', maxsize=1)
        await b.publish('x', '')
        await until(lambda: got)
        frames = a.__aiter__()
        await b.publish('plain', '')
        await b.publish('x', '')
        await b.publish('plain', 'last')
        assert [(await frames.__anext__()).payload for _ in range(2)] == [b'', b'last']
        await until(lambda: len(got) == 2)
        for n in range(3):
            await b.publish('q', str(n))
        await b.publish('plain', 'behind')
        behind = asyncio.create_task(frames.__anext__())
        assert [int((await queue.get(5)).payload) for _ in range(3)] == [0, 1, 2]
        assert (await behind).payload == b'behind'
        await frames.aclose()


@run
async def test_a_subscription_that_is_refused():
    async with Pair() as (a, _):
        with pytest.raises(busrt.BusError):
            await a.on_topic('x' * 100_000, print)
        assert a._bus_topics.all() == []
        queue = a.open_queue('y', subscribe=False)
        assert await queue is queue and repr(queue) == "<TopicQueue 'y'>"
        async with a.open_queue('z') as queue:
            await a.publish('z', '1')
            assert (await queue.get(5)).payload == b'1'
        with pytest.raises(ConnectionError):
            await queue.get(5)


def test_events(broker, name):
    async def main():
        got = []
        async with busrt_async.connect(broker.path, name, reconnect=(0.01, 0.05, None)) as a:

            @a.on_event
            async def note(event):
                got.append(event)

            events = a.events(timeout=5)
            assert (await events.__anext__()).kind == 'connected'
            broker.kill()
            lost = await events.__anext__()
            assert (lost.kind, lost.last) == ('lost', False) and lost.reason
            trying = await events.__anext__()
            assert trying.kind == 'reconnecting' and trying.attempt == 1 and trying.delay <= 0.1
            broker.start()
            async for event in events:
                if event.kind == 'connected':
                    break
            await events.aclose()
            with pytest.raises(asyncio.TimeoutError):
                async for _ in a.events(timeout=0.01):
                    pass
        await until(lambda: got[-1].kind == 'lost' and got[-1].last)
        assert got[0].kind == 'connected'

    asyncio.run(main())


@pytest.mark.parametrize('codec', ['json', 'msgpack'])
@run
async def test_codecs_of_calls(codec):
    async with Pair() as pair:
        server, caller = Rpc(pair[0], codec=codec), Rpc(pair[1])

        @server.method()
        async def double(params):
            return None if params is None else {'got': params['n'] * 2}

        @server.method(codec='bytes')
        def plain(params):
            return params

        assert await caller.call_method('a', 'double', {'n': 21}, codec=codec) == {'got': 42}
        assert await caller.call_method('a', 'double', None, codec=codec) is None
        assert await caller.call_method('a', 'plain', b'\xc1') == b'\xc1'
        with pytest.raises(RpcException) as e:
            await caller.call_method('a', 'double', b'\xc1')
        assert e.value.rpc_error_code == -32700
        with pytest.raises(ValueError):
            Rpc(pair[1], codec='none-such')


@pytest.mark.parametrize('codec', ['json', 'msgpack'])
@run
async def test_codecs_of_what_is_sent(codec):
    async with Pair() as (a, _):
        b = await busrt_async.connect(a.path, 'coding', codec=codec)
        value = {'on': True, 'list': [1, 'two', None]}
        queue = await a.open_queue('t', codec=codec)
        raw = await a.open_queue('t')
        got = []
        await a.on_topic('t', got.append, codec=codec)
        await b.publish('t', value)
        await b.publish('t', b'\xc1', codec='bytes')
        await b.publish('t', None)
        await b.publish_for('t', 'a', value)
        first = await queue.get(5)
        assert (first.payload, first.sender, first.primary_sender, first.topic) == (value, 'coding', 'coding', 't')
        assert first.frame.payload and repr(first).startswith("<Decoded from 'coding'")
        # What cannot be decoded is logged.
        assert [(await queue.get(5)).payload for _ in range(2)] == [None, value]
        assert [type((await raw.get(5)).payload) for _ in range(4)] == [bytes] * 4
        await until(lambda: len(got) == 3)
        frames = a.__aiter__()
        await b.send_message('a', value)
        await b.broadcast('a', value)
        coded = first.frame.payload
        assert [(await frames.__anext__()).payload for _ in range(2)] == [coded] * 2
        await frames.aclose()
        own = await b.open_queue('own')
        await b.publish('own', [1])
        assert (await own.get(5)).payload == [1]
        await b.disconnect()


@run
async def test_codecs_of_notifications():
    async with Pair() as pair:
        server, caller = Rpc(pair[0], codec='json'), Rpc(pair[1], codec='json')
        got = []

        @server.notification()
        async def note(decoded):
            got.append((decoded.sender, decoded.payload))

        await caller.send_notification('a', {'n': 1})
        await caller.send_notification('a', b'no JSON', codec='bytes')
        await caller.send_notification('a', b'[2]', qos=0, codec='bytes')
        await until(lambda: len(got) == 2)
        assert got == [('b', {'n': 1}), ('b', [2])]

        @server.notification(codec='bytes')
        def plain(decoded):
            got.append(decoded.payload)

        await caller.send_notification('a', 'text', codec='bytes')
        await until(lambda: got[-1] == b'text')
        with pytest.raises(LookupError):
            await caller.send_notification('no such client', 1)


@run
async def test_cursors():
    async with Pair() as pair:
        server, caller = Rpc(pair[0]), Rpc(pair[1])

        @server.method()
        async def rows(event):
            async def items():
                for n in range(250):
                    await asyncio.sleep(0)
                    yield {'n': n}

            return busrt_async.Cursor(items())

        @server.method()
        def plain(event):
            return busrt_async.Cursor(range(5))

        @server.method()
        def broken(event):
            def items():
                yield 1
                raise RpcException('no more', -5)

            return busrt_async.Cursor(items())

        numbers = [row['n'] async for row in caller.cursor('a', 'rows', codec='msgpack')]
        assert numbers == list(range(250))
        assert [n async for n in caller.cursor('a', b'plain', bulk=2, codec='msgpack')] == list(range(5))
        assert len(await caller.cursor('a', 'rows').take(3)) == 3
        assert len(server._bus_cursors) == 1
        with pytest.raises(RpcException) as e:
            [_ async for _ in caller.cursor('a', 'broken')]
        assert (e.value.rpc_error_code, e.value.rpc_error_payload) == (-5, b'no more')
        with pytest.raises(RpcException):
            await caller.cursor('a', 'none-such').take(1)
        assert [n async for n in Rpc(pair[1], codec='json').cursor('a', 'plain')] == list(range(5))


@run
async def test_context_variables_reach_handlers():
    variable = contextvars.ContextVar('variable', default='none')
    variable.set('set')
    async with Pair() as pair:
        variable.set('after')
        got = []
        server, caller = Rpc(pair[0]), Rpc(pair[1])

        @server.method()
        async def read(event):
            value = variable.get()
            variable.set('changed')
            return value

        async def on_notification(event):
            got.append(variable.get())

        async def on_topic(frame):
            got.append(variable.get())

        server.on_notification = on_notification
        await pair[0].on_topic('t', on_topic)
        # A source that has waited for room hands over in the same context.
        queue = await pair[0].open_queue('t', maxsize=1)
        assert [await caller.call_method('a', 'read') for _ in range(3)] == [b'set'] * 3
        await caller.send_notification('a')
        for _ in range(3):
            await pair[1].publish('t')
        for _ in range(3):
            await queue.get(5)
        await until(lambda: len(got) == 4)
        assert got == ['set'] * 4


@run
async def test_the_embedded_broker(tmp_path):
    async with busrt_async.Broker(max_name=20, socket_mode=0o600) as broker:
        path = await broker.listen(str(tmp_path / 'bus.sock'))
        assert (tmp_path / 'bus.sock').stat().st_mode & 0o777 == 0o600
        async with busrt_async.connect(path, 'outside') as outside, busrt_async.connect(broker, 'inside') as inside:
            assert broker.clients() == ['.broker', 'inside', 'outside']
            await outside.send_message('inside', 'text')
            async for frame in inside:
                assert (frame.sender, frame.payload) == ('outside', b'text')
                break
            kinds = {client['name']: client['kind'] for client in broker.client_stats()}
            assert kinds == {'.broker': 'internal', 'inside': 'internal', 'outside': 'local_ipc'}
            assert broker.stats()['r_frames'] >= 1
            with pytest.raises(RuntimeError, match='0x72'):
                await busrt_async.connect(path, 'n' * 21)
            assert broker.disconnect('outside') and not broker.disconnect('outside')
        await broker.shutdown()
    with pytest.raises(TypeError):
        busrt_async.Broker(none_such=1)
    with pytest.raises(ValueError):
        busrt_async.Broker(slow='none-such')


@run
async def test_secondary_clients_flush_and_drain():
    async with Pair() as (a, b):
        queue = await b.open_queue('t')
        other = await a.secondary('other')
        assert other.name == 'a%%other' and other.timeout == a.timeout
        await other.publish('t', 'x', qos=0)
        assert await other.flush(5) is True
        frame = await queue.get(5)
        assert (frame.sender, frame.primary_sender) == ('a%%other', 'a')
        assert other.stats()['w_frames'] == 1
        assert [batch async for batch in b.batches(timeout=0.01)] == []
        assert await a.drain(5) is True
        assert not a.is_connected()
        with pytest.raises(ConnectionError):
            await a.publish('t')


@run
async def test_a_handler_that_is_not_done_outlives_its_connection():
    async with Pair() as (a, b):
        futures = []

        async def on_frame(frame):
            future = asyncio.get_running_loop().create_future()
            # As a StreamReader is kept by its protocol.
            futures.append(weakref.ref(future))
            await future

        a.on_frame = on_frame
        await b.send_message('a')
        await until(lambda: futures)
        await a.disconnect()
        await asyncio.sleep(0.01)
        gc.collect()
        assert futures[0]() is not None
        futures[0]().set_result(None)
