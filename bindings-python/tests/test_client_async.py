"""The client for asyncio, as programs in the field use it. test_client.py is the same for plain threads."""

import asyncio
import contextlib
import contextvars
import functools
import inspect
import socket
import threading

import pytest

import busrt_async
import busrt_async.client
from busrt_async.client import OP_BROADCAST, OP_MESSAGE, OP_PUBLISH, OP_SUBSCRIBE, Client, ClientFrame, Frame
from conftest import PATIENCE


def run(test):
    """Runs a coroutine function as a test, within a bound."""

    @functools.wraps(test)
    def wrapped(**kwargs):
        async def bounded():
            await asyncio.wait_for(test(**kwargs), PATIENCE)

        asyncio.run(bounded())

    wrapped.__signature__ = inspect.signature(test)
    return wrapped


async def until(condition):
    while not condition():
        await asyncio.sleep(0.005)


@contextlib.asynccontextmanager
async def connected(path, *names):
    clients = [Client(path, name) for name in names]
    for client in clients:
        await client.connect()
    try:
        yield clients[0] if len(clients) == 1 else clients
    finally:
        for client in clients:
            await client.disconnect()


async def sent(client, target, frame, timeout=5):
    return await (await client.send(target, frame)).wait_completed(timeout)


def into(got):
    async def handle(frame):
        got.append(frame)

    return handle


@run
async def test_messages_publications_and_broadcasts(path, name):
    async with connected(path, name + '.a', name + '.b') as (a, b):
        got = []
        a.on_frame = into(got)
        frame = Frame(tp=OP_SUBSCRIBE, qos=1)
        frame.topic = ['x/#']
        assert await sent(a, None, frame) == 1
        assert await sent(b, a.name, Frame(b'1', qos=1)) == 1
        assert await sent(b, 'x/y', Frame('2\u00e9', tp=OP_PUBLISH, qos=1)) == 1
        frame = Frame(bytearray(b'3'), tp=OP_BROADCAST, qos=3)
        frame.header = b'head'
        assert await sent(b, name + '.*', frame) == 1
        await until(lambda: len(got) == 3)
        assert [(f.type, f.sender, f.topic, f.payload) for f in got] == [
            (OP_MESSAGE, b.name, None, b'1'),
            (OP_PUBLISH, b.name, 'x/y', '2\u00e9'.encode()),
            (OP_BROADCAST, b.name, None, b'head3'),
        ]


def test_coroutine_functions():
    for function in (
        Client.connect,
        Client.disconnect,
        Client.send,
        ClientFrame.wait_completed,
        busrt_async.rpc.Rpc.call,
        busrt_async.rpc.RpcCallEvent.wait_completed,
    ):
        assert asyncio.iscoroutinefunction(function)
    for function in (Client.is_connected, ClientFrame.is_completed, Client.subscribe, busrt_async.rpc.Rpc.notify):
        assert not asyncio.iscoroutinefunction(function)


@run
async def test_results(path, name):
    async with connected(path, name) as a:
        done = await a.send('nobody', Frame(b'', qos=1))
        assert await done.wait_completed() == 0x71 and done.result == 0x71 and done.is_completed()
        assert done.completed.is_set() and await done.wait_completed(0) == 0x71
        task = asyncio.create_task(a.subscribe(['t', 'u']))
        assert await (await task).wait_completed() == 1
        assert (await a.subscribe([])).is_completed()
        with pytest.raises(TypeError):
            await a.subscribe(('a', 'b'))
        with pytest.raises(ValueError):
            await a.send('nobody', Frame(b'', qos=4))
        operations = [await a.send('t', Frame(b'', tp=OP_PUBLISH, qos=1)) for _ in range(500)]
        assert [await operation.wait_completed(5) for operation in operations] == [1] * 500
        own = ClientFrame(1)
        with pytest.raises(asyncio.TimeoutError):
            await own.wait_completed(0.01)
        own.completed.set()
        assert own.is_completed()
        assert ClientFrame(0).completed is None and await ClientFrame(0).wait_completed() == 1


@run
async def test_errors_of_connecting(path, name, tmp_path):
    async with connected(path, name):
        with pytest.raises(RuntimeError) as e:
            await Client(path, name).connect()
        assert str(e.value) == 'Server response: 0x76' and isinstance(e.value, busrt_async.BusError)
    with pytest.raises(FileNotFoundError):
        await Client(str(tmp_path / 'no.sock'), name).connect()
    with socket.create_server(('127.0.0.1', 0)) as closed:
        port = closed.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        await Client(f'127.0.0.1:{port}', name).connect()


@run
async def test_what_answers_not_or_wrong(fake):
    client = Client(fake.path, 'x')
    client.timeout = 0.1
    fake.answer(lambda peer: None)
    with pytest.raises(asyncio.TimeoutError):
        await client.connect()
    client.timeout = 5
    fake.answer(lambda peer: peer.close())
    with pytest.raises(OSError):
        await client.connect()
    fake.answer(lambda peer: peer.sendall(b'HTTP'))
    with pytest.raises(RuntimeError, match='^Unsupported protocol$'):
        await client.connect()


@run
async def test_not_connected(path, name):
    fresh = Client(path, name)
    assert not fresh.is_connected()
    await fresh.disconnect()
    with pytest.raises(ConnectionError):
        await fresh.send('x', Frame(b''))
    for _ in range(3):
        await fresh.connect()
        assert fresh.is_connected() and fresh.connected
        await fresh.disconnect()
        await fresh.disconnect()
        assert not fresh.is_connected()


@run
async def test_the_broker_dies(broker, name):
    async with connected(broker.path, name) as a:
        broker.suspend()
        pending = await a.send(name, Frame(b'', qos=1))
        waits = asyncio.ensure_future(pending.wait_completed())
        await asyncio.sleep(0.05)
        broker.kill()
        assert await waits == 0x73
        await until(lambda: not a.is_connected())
        with pytest.raises(OSError):
            await a.send('x', Frame(b''))
        broker.start()
        await a.connect()
        assert await sent(a, name, Frame(b'', qos=1)) == 1


@run
async def test_without_room_nothing_is_written(fake, name):
    fake.answer(fake.register)
    client = Client(fake.path, name)
    await client.connect()
    client.timeout = 0.1
    with pytest.raises(asyncio.TimeoutError):
        for _ in range(100):
            await client.send('x', Frame(b'z' * 1_000_000))
    await client.disconnect()


@run
async def test_each_frame_is_a_task_in_the_context_of_connect(path, name):
    variable = contextvars.ContextVar('variable', default=None)
    variable.set('at connect')
    async with connected(path, name) as a:
        variable.set('later')
        got = []

        async def handle(frame):
            got.append((frame.payload, variable.get(), asyncio.current_task()))
            await asyncio.sleep(0)
            await sent(a, 'nobody', Frame(b'', qos=1))

        for handler in (handle, functools.partial(handle), lambda frame: handle(frame)):
            a.on_frame = handler
            for n in range(100):
                await a.send(name, Frame(b'%d' % n))
            await until(lambda: len(got) == 100)
            assert [int(payload) for payload, _, _ in got] == list(range(100))
            assert {value for _, value, _ in got} == {'at connect'} and len({id(task) for _, _, task in got}) == 100
            got.clear()


@run
async def test_a_handler_that_raises_is_reported(path, name):
    async with connected(path, name) as a:
        reported, got = [], []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: reported.append(context))

        async def handle(frame):
            got.append(frame)
            raise ValueError('from the handler')

        a.on_frame = handle
        await a.send(name, Frame(b''))
        await a.send(name, Frame(b''))
        await until(lambda: len(got) == 2)
        got.clear()
        import gc

        await until(lambda: gc.collect() is not None and len(reported) == 2)
        assert str(reported[0]['exception']) == 'from the handler'


@run
async def test_a_wait_that_is_cancelled(path, name):
    async with connected(path, name) as a:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.sleep(5), 0.01)
        operation = await a.send('t', Frame(b'', tp=OP_PUBLISH, qos=1))
        task = asyncio.ensure_future(operation.wait_completed())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await operation.wait_completed(5) == 1


def test_several_loops_and_a_client_that_is_used_again(path, name):
    def work(own):
        client = Client(path, own)

        async def once():
            await client.connect()
            assert await sent(client, own, Frame(b'', qos=1)) == 1
            await client.disconnect()

        async def without_end():
            await client.connect()

        for step in (once, without_end, once):
            asyncio.run(step())
        ends.append(own)

    ends = []
    threads = [threading.Thread(target=work, args=(f'{name}.{n}',)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(ends) == 4


@run
async def test_the_new_style(path, name):
    async with busrt_async.connect(path, name + '.a') as a, Client(path, name + '.b') as b:
        await a.subscribe(['new/#'])
        # Its acknowledgement says that the subscription is made, too.
        await a.exclude('new/no')
        await b.publish('new/no', 'no')
        await b.publish('new/1', 'one')
        await b.publish_for('new/2', a.name, 'two')
        await b.publish_for('new/2', 'other', 'three')
        await b.broadcast(name + '.*', 'four', qos=busrt_async.QoS.REALTIME)
        await b.send_message(a.name, 'five')
        with pytest.raises(busrt_async.NotRegisteredError) as e:
            await b.send_message('nobody', '')
        assert e.value.code == 0x71
        got = []
        async for frame in a:
            got.append(frame.payload)
            if len(got) == 4:
                break
        assert got == [b'one', b'two', b'four', b'five']
        await a.unexclude('new/no')
        await b.publish('new/no', 'six')
        async for batch in a.batches():
            assert [frame.payload for frame in batch] == [b'six']
            break
        assert await a.flush() and a.stats()['r_frames'] >= 5
        second = await a.secondary()
        assert second.name.startswith(a.name + '%%') and second.is_connected()
        assert await b.drain(5) and not b.is_connected()
        await second.disconnect()


@run
async def test_reconnects(broker, name):
    async with busrt_async.connect(broker.path, name, reconnect=(0.01, 0.05, None)) as a:
        got = []
        a.on_frame = into(got)
        await a.subscribe('back')
        await asyncio.sleep(0)
        broker.kill()
        await until(lambda: not a.is_connected())
        with pytest.raises(ConnectionError):
            await a.publish('back', 'lost')
        broker.start()
        await until(a.is_connected)
        await a.publish('back', 'found')
        await until(lambda: got)
        assert got[0].payload == b'found'
