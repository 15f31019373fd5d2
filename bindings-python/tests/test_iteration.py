"""No frame and no result is lost when an iteration is left or cancelled, when a client disconnects, and when a loop is
closed."""

import asyncio
import time

import pytest

import busrt
import busrt_async
from busrt_async.client import OP_MESSAGE, Frame
from conftest import PATIENCE
from test_client_async import run, until
from test_features_async import Pair


@run
async def test_the_next_reader_continues_where_an_iteration_was_left():
    async with Pair() as (a, b):
        for n in range(200):
            await b.send_message('a', str(n))
        got = []
        for _ in range(8):
            async for frame in a:
                got.append(int(frame.payload))
                if len(got) % 20 == 0:
                    break
        async for batch in a.batches(most=5):
            assert len(batch) <= 5
            got += [int(frame.payload) for frame in batch]
            break

        async def on_frame(frame):
            got.append(int(frame.payload))

        a.on_frame = on_frame
        await until(lambda: len(got) == 200)
        assert got == list(range(200))


def test_the_next_reader_continues_on_threads_too():
    broker = busrt.Broker()
    with busrt.connect(broker, 'a') as a, busrt.connect(broker, 'b') as b:
        for n in range(200):
            b.send_message('a', str(n))
        got = []
        for _ in range(8):
            for frame in a:
                got.append(int(frame.payload))
                if len(got) % 20 == 0:
                    break
        for batch in a.batches(most=5):
            got += [int(frame.payload) for frame in batch]
            break
        a.on_frame = lambda frame: got.append(int(frame.payload))
        deadline = time.monotonic() + PATIENCE
        while len(got) < 200 and time.monotonic() < deadline:
            time.sleep(0.005)
        assert got == list(range(200))
    broker.shutdown()


@run
async def test_a_cancelled_iteration_loses_no_frames():
    async with Pair() as (a, b):
        queue = await a.open_queue('t', maxsize=1)
        for n in range(5):
            await b.publish('t', str(n))
        await b.send_message('a', 'end')
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(a.__aiter__().__anext__(), 0.05)
        got = [await queue.get(5)]
        end = asyncio.ensure_future(a.__aiter__().__anext__())
        got += [await queue.get(5) for _ in range(4)]
        assert [frame.payload for frame in got] == [b'0', b'1', b'2', b'3', b'4']
        assert (await end).payload == b'end'


@run
async def test_a_handler_gets_what_a_cancelled_iteration_has_left():
    async with Pair() as (a, b):
        queue = await a.open_queue('t', maxsize=1)
        for n in range(3):
            await b.publish('t', str(n))
        await b.send_message('a', 'end')
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(a.__aiter__().__anext__(), 0.05)
        got = [(await queue.get(5)).payload]
        rest = []

        async def on_frame(frame):
            rest.append(frame.payload)

        a.on_frame = on_frame
        got += [(await queue.get(5)).payload for _ in range(2)]
        await until(lambda: rest)
        assert (got, rest) == ([b'0', b'1', b'2'], [b'end'])


@run
async def test_a_disconnect_takes_all_results(tmp_path):
    async with busrt_async.Broker() as broker:
        path = await broker.listen(str(tmp_path / 'bus.sock'))
        async with busrt_async.connect(broker, 'b'), busrt_async.connect(path, 'a', queue_size=10_000) as a:
            frame = Frame('x', OP_MESSAGE, 1)
            operations = [await a.send('b', frame) for _ in range(4000)]
            # The acknowledgements come while the loop does something else.
            time.sleep(0.3)
            await a.disconnect()
            assert {operation.result for operation in operations} == {1}


def test_a_client_of_a_closed_loop_connects_in_another_one():
    broker = busrt.Broker()
    client = busrt_async.Client(broker, 'a')
    waiting = []

    async def wait():
        await client.connect()
        queue = await client.open_queue('t')
        waiting.append(asyncio.ensure_future(queue.get()))
        await asyncio.sleep(0.01)

    async def connect_again():
        await client.connect()
        assert client.is_connected()
        await client.disconnect()

    loop = asyncio.new_event_loop()
    loop.run_until_complete(wait())
    loop.close()
    try:
        asyncio.run(connect_again())
    finally:
        # The task of a closed loop is never done.
        for task in waiting:
            task._log_destroy_pending = False
    broker.shutdown()


@run
async def test_an_iteration_ends_when_a_slow_disconnect_is_over(tmp_path):
    async with busrt_async.Broker() as broker, busrt_async.connect(broker, 'b') as b:
        path = await broker.listen(str(tmp_path / 'bus.sock'))
        writers = []

        async def forward(reader, writer):
            with_broker = await asyncio.open_unix_connection(path)
            writers.extend((writer, with_broker[1]))

            async def pump(source, sink):
                while chunk := await source.read(65536):
                    sink.write(chunk)

            # The end is not forwarded: the client's disconnect takes its whole timeout.
            await asyncio.gather(pump(reader, with_broker[1]), pump(with_broker[0], writer))

        proxy = await asyncio.start_unix_server(forward, str(tmp_path / 'proxy.sock'))
        a = await busrt_async.connect(str(tmp_path / 'proxy.sock'), 'a', timeout=0.2)
        await a.open_queue('t', maxsize=1)
        for n in range(5):
            await b.publish('t', str(n))

        async def iterate():
            async for _ in a:
                pass

        iterating = asyncio.ensure_future(iterate())
        await asyncio.sleep(0.05)
        disconnecting = asyncio.ensure_future(a.disconnect())
        await asyncio.sleep(0)
        a.path, a.name = broker, 'again'
        await a.connect()
        await disconnecting
        await asyncio.wait_for(iterating, 5)
        await a.disconnect()
        proxy.close()
        for writer in writers:
            writer.close()
