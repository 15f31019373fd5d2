"""RPC for asyncio. test_rpc.py is the same for plain threads."""

import asyncio
import contextlib

import pytest

from busrt_async.client import OP_PUBLISH, OP_SUBSCRIBE, Client, Frame
from busrt_async.rpc import Event, Notification, Request, Rpc, RpcCallEvent, RpcException
from test_client_async import run, until


@contextlib.asynccontextmanager
async def rpcs(path, *names):
    made = [Rpc(Client(path, name)) for name in names]
    for rpc in made:
        await rpc.client.connect()
    try:
        yield made
    finally:
        for rpc in made:
            await rpc.client.disconnect()


async def failure(event, timeout=5):
    with pytest.raises(RpcException) as e:
        await event.wait_completed(timeout)
    return e.value


@run
async def test_calls_and_errors(path, name):
    async with rpcs(path, name + '.s', name + '.c') as (server, caller):

        class Coded(Exception):
            rpc_error_code = 7

        async def on_call(event):
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

        async def call(method, params=b''):
            return await caller.call(server.client.name, Request(method, params))

        event = await call('echo', b'abc')
        assert await event.wait_completed(5) is event and event.get_payload() == b'abc' and not event.is_empty()
        assert event.is_completed() and event.error is None and event.completed.is_set()
        assert (await (await call('text')).wait_completed(timeout=5)).get_payload() == 't\u00e9xt'.encode()
        assert (await (await call('none', None)).wait_completed(5)).is_empty()
        e = await failure(await call('coded'))
        assert (e.rpc_error_code, e.rpc_error_payload, str(e)) == (7, b'why', 'why (code: 7)')
        e = await failure(await call('bytes'))
        assert (e.rpc_error_code, e.rpc_error_payload) == (-5, b'\xff')
        assert (await failure(await call('range'))).rpc_error_code == -32603
        assert (await failure(await call('wrong'))).rpc_error_code == -32603
        e = await failure(await call('other'))
        assert (e.rpc_error_code, e.rpc_error_payload) == (-32603, b'no such thing')
        event = await caller.call('nobody', Request('x'))
        assert event.is_completed()
        e = await failure(event)
        assert (e.rpc_error_code, e.rpc_error_payload) == (-32113, 'RPC error')


@run
async def test_the_default_handler(path, name):
    async with rpcs(path, name + '.s', name + '.c') as (server, caller):
        event = await caller.call(server.client.name, Request('x'))
        assert (await failure(event)).rpc_error_code == -32601


@run
async def test_failures_of_the_caller(path, name):
    lonely = Rpc(Client(path, name + '.l'))
    e = await failure(await lonely.call('x', Request('y')))
    assert e.rpc_error_code == -32115 and e.rpc_error_payload
    async with rpcs(path, name + '.s', name + '.c') as (server, caller):
        release = asyncio.Event()

        async def on_call(event):
            await release.wait()
            return b'late'

        server.on_call = on_call
        event = await caller.call(server.client.name, Request('slow'))
        with pytest.raises(asyncio.TimeoutError):
            await event.wait_completed(0.05)
        assert not event.is_completed()
        release.set()
        assert (await event.wait_completed(5)).get_payload() == b'late'
        release.clear()
        event = await caller.call(server.client.name, Request('slow'))
        await caller.client.disconnect()
        assert (await failure(event)).rpc_error_code == -32115
        release.set()


@run
async def test_notifications_frames_and_calls_without_reply(path, name):
    async with rpcs(path, name + '.s', name + '.c') as (server, caller):
        got = []

        async def on_notification(event):
            got.append((event.frame.sender, event.get_payload()))

        async def on_call(event):
            got.append((event.method, event.get_payload(), event.call_id))

        async def on_frame(frame):
            got.append((frame.topic, frame.payload))

        server.on_notification, server.on_call, server.on_frame = on_notification, on_call, on_frame
        frame = Frame(tp=OP_SUBSCRIBE, qos=1)
        frame.topic = 'rpc/#'
        assert await (await server.client.send(None, frame)).wait_completed() == 1
        target = server.client.name
        assert await (await caller.notify(target, Notification('hello'))).wait_completed(5) == 1
        await until(lambda: len(got) == 1)
        assert await (await caller.call0(target, Request('do', b'it'))).wait_completed(5) == 1
        await until(lambda: len(got) == 2)
        await caller.client.send('rpc/x', Frame(b'pub', tp=OP_PUBLISH))
        await until(lambda: len(got) == 3)
        assert got == [(caller.client.name, b'hello'), (b'do', b'it', 0), ('rpc/x', b'pub')]


@run
async def test_handlers_call_back_and_wait(path, name):
    async with rpcs(path, name + '.a', name + '.b') as (a, b):

        def of(own, other):
            async def on_call(event):
                depth = int(event.get_payload())
                if depth == 0:
                    return b'bottom'
                event = await own.call(other.client.name, Request('down', str(depth - 1)))
                return (await event.wait_completed(10)).get_payload()

            return on_call

        a.on_call, b.on_call = of(a, b), of(b, a)
        event = await a.call(b.client.name, Request('down', '100'))
        assert (await event.wait_completed(10)).get_payload() == b'bottom'


@run
async def test_many_calls_under_way(path, name):
    async with rpcs(path, name + '.s', name + '.c') as (server, caller):

        async def on_call(event):
            return event.get_payload()

        server.on_call = on_call

        async def one(n):
            event = await caller.call(server.client.name, Request('echo', str(n)))
            return int((await event.wait_completed(10)).get_payload())

        assert await asyncio.gather(*(one(n) for n in range(500))) == list(range(500))


@run
async def test_takes_over_and_gives_back(path, name):
    async with rpcs(path, name + '.s', name + '.c') as (first, caller):
        client, got = first.client, []

        def into(who):
            async def handle(event):
                got.append((who, event.payload if isinstance(event, Frame) else event.get_payload()))

            return handle

        async def notified():
            await caller.notify(client.name, Notification(b'n'))
            await until(lambda: len(got) == 1)
            return got.pop()

        first.on_notification = into('first')
        assert await notified() == ('first', b'n')
        second = Rpc(client)
        second.on_notification = into('second')
        assert await notified() == ('second', b'n')
        client.on_frame = into('client')
        assert await notified() == ('client', b'\0n')


@run
async def test_the_new_style(path, name):
    async with rpcs(path, name + '.s', name + '.c') as (server, caller):

        @server.method('add')
        def add(event):
            return str(sum(int(part) for part in event.get_payload().split()))

        @server.method()
        async def slow(event):
            await asyncio.sleep(0.3)

        assert await caller.call_method(server.client.name, 'add', b'1 2 3') == b'6'
        with pytest.raises(RpcException) as e:
            await caller.call_method(server.client.name, 'other')
        assert e.value.rpc_error_code == -32601
        with pytest.raises(asyncio.TimeoutError):
            await caller.call_method(server.client.name, 'slow', timeout=0.05)
        assert not caller.client._bus_session.pending


@run
async def test_an_event_of_ones_own(path):
    event = RpcCallEvent()
    assert not event.is_completed()
    with pytest.raises(asyncio.TimeoutError):
        await event.wait_completed(0.01)
    event.completed.set()
    assert event.is_completed()
