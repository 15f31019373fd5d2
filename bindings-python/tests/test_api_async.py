"""Details of the API that programs in the field rely on, for asyncio: each behaves as with the package `busrt-async` 0.1.3 of
PyPI. test_api.py is the same for plain threads."""

import asyncio
import threading
import types

import pytest

from busrt_async.client import OP_MESSAGE, OP_PUBLISH, OP_SUBSCRIBE, Client, Frame
from busrt_async.rpc import Notification, Request, Rpc, RpcException
from test_api import ANSWERS
from test_client_async import connected, into, run, sent, until


@run
async def test_frames_have_their_attributes_in_a_dict(path, name):
    async with connected(path, name) as a:
        got = []
        a.on_frame = into(got)
        assert await sent(a, name, Frame(b'1', qos=1)) == 1
        await until(lambda: got)
        assert vars(got[0]) == {
            'header': None,
            'qos': 0,
            'sender': name,
            'primary_sender': name,
            'type': OP_MESSAGE,
            'topic': None,
            'payload': b'1',
        }


@run
async def test_tasks_start_in_the_order_received(path, name):
    async with connected(path, name + '.s', name + '.c') as (a, b):
        server, caller, got = Rpc(a), Rpc(b), []

        async def on_frame(frame):
            got.append(int(frame.payload))

        async def on_event(event):
            got.append(int(event.get_payload()))

        server.on_frame, server.on_notification, server.on_call = on_frame, on_event, on_event
        topics = Frame(tp=OP_SUBSCRIBE, qos=1)
        topics.topic = 'ordered'
        assert await sent(a, None, topics) == 1
        for n in range(0, 300, 3):
            await b.send('ordered', Frame(str(n), tp=OP_PUBLISH))
            await caller.notify(a.name, Notification(str(n + 1)))
            await caller.call0(a.name, Request('x', str(n + 2)))
        await until(lambda: len(got) == 300)
        assert got == list(range(300))


@run
async def test_a_subscription_to_nothing_with_an_acknowledgement(path, name):
    async with connected(path, name) as a:
        frame = Frame(tp=OP_SUBSCRIBE, qos=1)
        frame.topic = []
        done = await a.send(None, frame)
        assert (done.qos, await done.wait_completed(5), done.result, done.is_completed()) == (1, 1, 1, True)
        assert done.completed.is_set()


@pytest.mark.parametrize('where', ['in the loop', 'in a thread'])
def test_connected_can_be_cleared(path, name, where):
    async def main():
        async with connected(path, name) as a:
            pending = await a.send(name, Frame(b'', qos=1))
            if where == 'in the loop':
                a.connected = False
            else:
                thread = threading.Thread(target=setattr, args=(a, 'connected', False))
                thread.start()
                thread.join()
            assert not a.is_connected() and not a.connected
            assert await pending.wait_completed(5) in (1, 0x73)
            with pytest.raises(OSError):
                await a.send(name, Frame(b''))
            a.name = name + '.again'
            await a.connect()
            assert a.is_connected() and await sent(a, a.name, Frame(b'', qos=1)) == 1

    asyncio.run(asyncio.wait_for(main(), 20))


@run
async def test_the_frame_of_an_error_reply(path, name):
    async with connected(path, name) as a:
        rpc = Rpc(a)

        async def on_call(event):
            raise RpcException('why', 0 if event.method == b'zero' else 77)

        rpc.on_call = on_call
        for method, code in (('x', 77), ('zero', 0)):
            event = await rpc.call(name, Request(method))
            with pytest.raises(RpcException) as e:
                await event.wait_completed(5)
            assert (e.value.rpc_error_code, e.value.rpc_error_payload) == (code, b'why') and event.error is e.value
            assert event.frame.sender == name and event.get_payload() == code.to_bytes(2, 'little') + b'why'


@run
async def test_requests_are_duck_typed(path, name):
    async with connected(path, name) as a:
        rpc = Rpc(a)

        async def on_call(event):
            return event.get_payload()

        rpc.on_call = on_call
        request = types.SimpleNamespace(payload=b'duck', type=OP_MESSAGE, qos=1, method=b'echo')
        assert (await (await rpc.call(name, request)).wait_completed(5)).get_payload() == b'duck'
        request = Request('echo', b'again')
        await rpc.call0(name, request)
        for qos in range(4):
            request.qos = qos
            assert (await (await rpc.call(name, request)).wait_completed(5)).get_payload() == b'again'


@run
async def test_an_overridden_send_gets_the_request(path, name):
    class Own(Client):
        async def send(self, target=None, frame=None):
            if isinstance(frame, Request):
                seen.append((frame.mark, frame.method, frame.payload, frame.qos, frame.type))
            return await super().send(target, frame)

    seen, request, a = [], Request('x', b'y'), Own(path, name)
    request.mark = 'mine'
    await a.connect()
    rpc = Rpc(a)

    async def on_call(event):
        return None

    rpc.on_call = on_call
    await (await rpc.call(name, request)).wait_completed(5)
    assert seen == [('mine', b'x', b'y', 1, OP_MESSAGE)]
    await a.disconnect()


@run
async def test_handlers_of_an_rpc_are_logged_as_such(path, name, caplog):
    async with connected(path, name) as a:

        async def handler(*_):
            raise ValueError('from a handler')

        rpc = Rpc(a)
        rpc.on_notification = rpc.on_call = handler
        await rpc.notify(name, Notification())
        await rpc.call0(name, Request('x'))
        await until(lambda: len(caplog.records) == 2)
        assert {(record.name, record.levelname) for record in caplog.records} == {('busrt.rpc', 'ERROR')}


@run
async def test_what_only_looks_like_rpc_goes_to_on_frame(path, name):
    async with connected(path, name) as a:
        got = []
        a.on_frame = into(got)
        payloads = [b'\x11\5\0\0\0z', b'\x12\5\0\0\0\0\0z', b'\x11', b'\0n', b'\1', b'\x99', b'', b'\1\0\0\0\0m\0p']
        for payload in payloads:
            await sent(a, name, Frame(payload, qos=1))
        await until(lambda: len(got) == len(payloads))
        assert [frame.payload for frame in got] == payloads


@run
async def test_handlers_may_end_and_restore_the_connection(path, name):
    async with connected(path, name + '.a', name + '.b') as (a, b):
        got = []

        async def on_frame(frame):
            await a.disconnect()
            got.append(a.is_connected())
            await a.connect()
            got.append(await sent(a, b.name, Frame(b'', qos=1)))

        a.on_frame = on_frame
        for _ in range(3):
            await b.send(a.name, Frame(b''))
            await until(lambda: len(got) == 2)
            assert got == [False, 1]
            got.clear()
        server, caller = Rpc(a), Rpc(b)

        async def on_call(event):
            await a.disconnect()
            got.append(a.is_connected())

        server.on_call = on_call
        event = await caller.call(a.name, Request('x'))
        with pytest.raises((RpcException, asyncio.TimeoutError)):
            await event.wait_completed(0.2)
        assert got == [False]


@pytest.mark.parametrize('at', range(len(ANSWERS) + 1))
def test_there_is_always_an_answer(path, name, at):
    raised, code = [*ANSWERS, (asyncio.CancelledError(), None)][at]
    if isinstance(raised, (SystemExit, KeyboardInterrupt)):
        pytest.skip('ends the loop')

    async def main():
        async with connected(path, name) as a:
            rpc = Rpc(a)

            async def on_call(event):
                raise raised

            rpc.on_call = on_call
            with pytest.raises(RpcException) as e:
                await (await rpc.call(name, Request('x'))).wait_completed(5)
            assert code is None or e.value.rpc_error_code == code
            for result in (5, object(), ['x'], 1.5):

                async def on_call(event, result=result):
                    return result

                rpc.on_call = on_call
                with pytest.raises(RpcException) as e:
                    await (await rpc.call(name, Request('x'))).wait_completed(5)
                assert e.value.rpc_error_code == -32603

    asyncio.run(asyncio.wait_for(main(), 20))
