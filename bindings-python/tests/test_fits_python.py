"""What Python has besides threads and asyncio: other event loops, subinterpreters, dropped privileges, cancellation."""

import asyncio
import gc
import os
import sys
import threading

import pytest

import busrt_async
from busrt_async.client import Client, ClientFrame, Frame
from busrt_async.rpc import Request, Rpc
from running import run

# Runs `sys.argv[2]` in interpreters of their own, and prints what that raises.
SUBINTERPRETER = """
import sys, threading
order, source = sys.argv[1:3]

def within():
    if sys.version_info >= (3, 13):
        import _interpreters as interpreters
    else:
        import _xxsubinterpreters as interpreters
    own = interpreters.create(*kind)
    try:
        failure = interpreters.run_string(own, source)
    except interpreters.RunFailedError as e:
        failure = e
    print(str(getattr(failure, 'msg', failure)).rsplit(': ', 1)[-1])
    interpreters.destroy(own)

kind = ()
if order == 'isolated':
    # It has a lock of its own.
    kind = ('isolated',) if sys.version_info >= (3, 13) else ()
if order == 'after':
    import busrt
within()
if order == 'in a thread':
    thread = threading.Thread(target=within)
    thread.start()
    thread.join()
import busrt
with busrt.Broker() as broker:
    print(broker.clients())
"""


@pytest.mark.parametrize('order', ['after', 'before', 'isolated', 'in a thread', 'asyncio'])
def test_subinterpreters_are_refused(order):
    """With a clear error, and the main interpreter works afterwards."""
    source = 'import busrt'
    if order == 'asyncio':
        source = 'import busrt_async'
    printed = run(SUBINTERPRETER, order, source, options=()).splitlines()
    assert set(printed[:-1]) == {'busrt can be imported by the main interpreter of a process only'}
    assert printed[-1] == "['.broker']"


@pytest.mark.skipif(sys.platform != 'linux' or os.geteuid() != 0, reason='needs root')
def test_a_program_that_drops_its_privileges(path, name):
    run(
        """
        import os, sys, threading
        from busrt.client import Client, Frame
        from busrt.rpc import Request, Rpc
        client = Client(*sys.argv[1:3])
        client.connect()
        rpc = Rpc(client)
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        rpc.on_call = lambda event: str(os.getuid())
        assert client.send(client.name, Frame(b'', qos=1)).wait_completed(5) == 1
        assert rpc.call(client.name, Request('x')).wait_completed(5).get_payload() == b'65534'
        """,
        path,
        name,
    )


def test_waits_that_are_given_up_leave_nothing(path, name):
    """An operation and a call that are waited for again and again, with timeouts and cancellations."""

    async def main():
        client, release = Client(path, name), asyncio.Event()
        await client.connect()
        rpc = Rpc(client)

        async def on_call(event):
            await release.wait()

        rpc.on_call = on_call
        call, operation = await rpc.call(name, Request('x')), ClientFrame(1)
        operation._is_ours = True
        for waits in (call, operation):
            for n in range(100):
                wait = asyncio.ensure_future(waits.wait_completed(0.001 if n % 2 else None))
                await asyncio.sleep(0)
                if n % 4 == 0:
                    wait.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await wait
                elif n % 2:
                    with pytest.raises(asyncio.TimeoutError):
                        await wait
                else:
                    ends.append(wait)
        gc.collect()
        futures = [each for each in gc.get_objects() if isinstance(each, asyncio.Future) and not each.done()]
        # Each of the 50 waits is a task and a future; besides them there are the tasks of this test and of the handler.
        assert len(futures) < 110, len(futures)
        release.set()
        operation._bus_complete(1)
        assert await asyncio.gather(*ends) == [call] * 25 + [1] * 25
        await client.disconnect()

    ends = []
    asyncio.run(asyncio.wait_for(main(), 30))


def test_calls_that_are_cancelled_are_forgotten(path, name):
    async def main():
        client, release, began = Client(path, name), asyncio.Event(), []
        await client.connect()
        rpc = Rpc(client)

        async def on_call(event):
            began.append(event)
            await release.wait()

        rpc.on_call = on_call
        for n in range(90):
            # Cancelled before the request is sent, before the acknowledgement, and before the reply.
            call = asyncio.ensure_future(rpc.call_method(name, 'x', timeout=30))
            for _ in range(n % 3):
                await asyncio.sleep(0 if n % 2 else 0.001)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        await asyncio.sleep(0.05)
        assert not client._bus_session.pending
        release.set()
        await client.disconnect()

    asyncio.run(asyncio.wait_for(main(), 30))


@pytest.mark.parametrize('what', ['connect', 'send', 'flush', 'drain', 'disconnect', 'iteration'])
def test_everything_that_is_awaited_can_be_cancelled(fake, name, what):
    """Each wait ends at once, and the next connection works."""

    async def waits(client):
        if what == 'connect':
            await client.connect()
        fake.answer(fake.register)
        await client.connect()
        if what in ('send', 'flush', 'drain', 'disconnect'):
            client.timeout = 0.05
            with pytest.raises(asyncio.TimeoutError):
                while True:
                    await client.send('x', Frame(b'z' * 1_000_000))
            client.timeout = 30
        began.set()
        if what == 'send':
            await client.send('x', Frame(b''))
        elif what == 'flush':
            await client.flush()
        elif what == 'drain':
            await client.drain(30)
        elif what == 'disconnect':
            await client.disconnect()
        else:
            async for _ in client:
                pass

    async def main():
        if what == 'connect':
            fake.answer(lambda peer: None)
            began.set()
        client = Client(fake.path, name)
        client.timeout = 30
        task = asyncio.ensure_future(waits(client))
        await asyncio.wait_for(began.wait(), 10)
        await asyncio.sleep(0.05)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 5)
        fake.peers[-1].close()
        fake.answer(fake.register)
        client.timeout = 5
        await client.connect()
        assert client.is_connected()
        # The end waits for a broker that does not end it, too.
        client.timeout = 0.05
        await client.disconnect()

    began = asyncio.Event() if sys.version_info >= (3, 10) else None
    if began is None:
        pytest.skip('asyncio.Event belongs to a loop before Python 3.10')
    asyncio.run(asyncio.wait_for(main(), 30))


def test_one_client_in_many_loops_at_the_same_time(path, name):
    """Clients of several loops in several threads talk to each other."""

    async def main(number):
        client = Client(path, f'{name}.{number}')
        await client.connect()
        rpc = Rpc(client)

        async def on_call(event):
            return event.get_payload()

        rpc.on_call = on_call
        started.wait(10)
        for n in range(100):
            target = f'{name}.{(number + n) % LOOPS}'
            event = await rpc.call(target, Request('echo', b'%d' % n))
            assert (await event.wait_completed(10)).get_payload() == b'%d' % n
        ends.append(number)
        while len(ends) < LOOPS:
            await asyncio.sleep(0.005)
        await client.disconnect()

    LOOPS, ends = 4, []
    started = threading.Barrier(LOOPS)
    threads = [threading.Thread(target=lambda n=n: asyncio.run(asyncio.wait_for(main(n), 20))) for n in range(LOOPS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(ends) == list(range(LOOPS))
    assert busrt_async.Client is Client


def test_an_iteration_lets_other_tasks_run(path, name):
    """Also one that awaits nothing else and always finds a frame."""

    async def main():
        async with busrt_async.connect(path, name) as client:
            for _ in range(1000):
                await client.send(name, Frame(b''))
            turns, got = 0, 0

            async def other():
                nonlocal turns
                while True:
                    turns += 1
                    await asyncio.sleep(0)

            task = asyncio.ensure_future(other())
            await client.send_message(name, b'')
            turns = 0
            async for _ in client:
                got += 1
                if got == 1000:
                    break
            # Batches have up to 64 frames.
            assert turns >= 1000 // 64, turns
            task.cancel()

    asyncio.run(asyncio.wait_for(main(), 20))
