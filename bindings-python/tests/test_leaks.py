"""Messages, calls, clients and reference cycles leave nothing behind. BUSRT_TESTS=full takes a million messages and ten
thousand clients."""

import asyncio
import gc
import os
import threading
import weakref

import pytest

import busrt
import busrt_async
from busrt.client import Client, ClientFrame, Frame
from busrt.rpc import Notification, Request, Rpc
from conftest import until
from running import IS_FULL, run

MESSAGES = 1_000_000 if IS_FULL else 30_000
CLIENTS = 10_000 if IS_FULL else 200
CYCLES = 10_000 if IS_FULL else 1000

# A program measures itself: `work(count)` may not make it grow by more than BOUND bytes after the first rounds.
HEAD = """
import asyncio, gc, os, sys, threading, time
import busrt, busrt_async
from busrt.client import Client, ClientFrame, Frame
from busrt.rpc import Notification, Request, Rpc

path, name, COUNT = sys.argv[1], sys.argv[2], int(sys.argv[3])
BOUND = 6_000_000

def resident():
    gc.collect()
    with open('/proc/self/statm') as file:
        return int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE')

def resources():
    # A client that its handler refers to is collected once its thread has ended: maybe after the last collection.
    gc.collect()
    return len(os.listdir('/proc/self/fd')), len(os.listdir('/proc/self/task'))

def until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)

def measured(work):
    # Allocators keep memory. After some rounds they take no more.
    for _ in range(3):
        work(COUNT)
    before, held = resident(), resources()
    work(COUNT)
    work(COUNT)
    grown = resident() - before
    until(lambda: resources() <= held)
    print(grown)
    assert grown < BOUND, f'{grown} bytes more'
"""

MESSAGES_SYNC = (
    HEAD
    + """
a, b = Client(path, name + '.a'), Client(path, name + '.b')
a.connect()
b.connect()
a.timeout = 30
count = 0

def on_frame(frame):
    global count
    count += 1
    frame.payload, frame.sender, frame.topic

b.on_frame = on_frame
topics = Frame(tp=2, qos=1)
topics.topic = 't'
assert b.send(None, topics).wait_completed(30) == 1

def work(number):
    global count
    count = 0
    for n in range(number // 100):
        for _ in range(50):
            a.send(b.name, Frame(b'x' * 100))
            # A receiver that does not keep up loses publications. So few do not fill its queue.
            a.send('t', Frame(b'y' * 100, tp=1))
        assert a.send('t', Frame(b'', tp=1, qos=1)).wait_completed() == 1
        until(lambda: count == (n + 1) * 101)

measured(work)
"""
)

CALLS_SYNC = (
    HEAD
    + """
a, b = Rpc(Client(path, name + '.a')), Rpc(Client(path, name + '.b'))
a.client.connect()
b.client.connect()
a.client.timeout = b.client.timeout = 30
a.on_call = lambda event: event.get_payload()
a.on_notification = lambda event: event.get_payload()

def work(number):
    for n in range(number // 20):
        assert b.call(a.client.name, Request('x', b'z' * 100)).wait_completed(30).get_payload() == b'z' * 100
        b.notify(a.client.name, Notification(b'z' * 100))
        b.call('nobody', Request('x')).is_completed()
        # One that nobody waits for.
        b.call(a.client.name, Request('x'))

measured(work)
"""
)

MESSAGES_ASYNC = (
    HEAD
    + """
async def main():
    a, b = busrt_async.Client(path, name + '.a'), busrt_async.Client(path, name + '.b')
    await a.connect()
    await b.connect()
    a.timeout = 30
    count = 0

    async def on_frame(frame):
        nonlocal count
        count += 1

    b.on_frame = on_frame

    async def work(number):
        nonlocal count
        count = 0
        for n in range(number):
            await a.send(b.name, Frame(b'x' * 100))
            if n % 100 == 99:
                assert await (await a.send(b.name, Frame(b'', qos=1))).wait_completed(30) == 1
                await asyncio.sleep(0)
        while count < number:
            await asyncio.sleep(0.001)

    await measured_async(work)
    await a.disconnect()
    await b.disconnect()

async def measured_async(work):
    for _ in range(3):
        await work(COUNT)
    before, held = resident(), resources()
    await work(COUNT)
    await work(COUNT)
    grown = resident() - before
    assert resources() <= held
    assert grown < BOUND, f'{grown} bytes more'

asyncio.run(main())
"""
)

CALLS_ASYNC = (
    MESSAGES_ASYNC[: MESSAGES_ASYNC.index('async def main')]
    + MESSAGES_ASYNC[MESSAGES_ASYNC.index('async def measured_async') : MESSAGES_ASYNC.index('asyncio.run(main())')]
    + """
async def main():
    a, b = (busrt_async.Rpc(busrt_async.Client(path, name + end)) for end in ('.a', '.b'))
    await a.client.connect()
    await b.client.connect()

    async def on_call(event):
        return event.get_payload()

    a.on_call = on_call

    async def work(number):
        for n in range(number // 20):
            event = await b.call(a.client.name, Request('x', b'z' * 100))
            assert (await event.wait_completed(30)).get_payload() == b'z' * 100
            await b.call('nobody', Request('x'))
            await b.call(a.client.name, Request('x'))
            # One that is cancelled.
            task = asyncio.ensure_future(b.call_method(a.client.name, 'x', b''))
            await asyncio.sleep(0)
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                pass

    await measured_async(work)
    await a.client.disconnect()
    await b.client.disconnect()

asyncio.run(main())
"""
)

CLIENTS_SYNC = (
    HEAD
    + """
made = 0

def work(number):
    global made
    for n in range(number):
        made += 1
        client = Client(path, f'{name}.{made}')
        client.connect()
        if n % 3 == 0:
            rpc = Rpc(client)
        elif n % 3 == 1:
            client.on_frame = lambda frame: client
        client.send(client.name, Frame(b'x', qos=1)).wait_completed(30)
        client.disconnect()

measured(work)
"""
)

CLIENTS_ASYNC = (
    HEAD
    + """
made = 0

async def one():
    global made
    made += 1
    client = busrt_async.Client(path, f'{name}.{made}')
    await client.connect()
    if made % 3 == 0:
        rpc = busrt_async.Rpc(client)
    await (await client.send(client.name, Frame(b'x', qos=1))).wait_completed(30)
    await client.disconnect()

def work(number):
    async def several(count):
        for _ in range(count):
            await one()
    # Several loops, one after the other.
    for _ in range(10):
        asyncio.run(several(number // 10))

measured(work)
"""
)


@pytest.mark.parametrize(
    'source, count',
    [
        pytest.param(MESSAGES_SYNC, MESSAGES, id='messages'),
        pytest.param(CALLS_SYNC, MESSAGES, id='calls'),
        pytest.param(MESSAGES_ASYNC, MESSAGES, id='messages, asyncio'),
        pytest.param(CALLS_ASYNC, MESSAGES, id='calls, asyncio'),
        pytest.param(CLIENTS_SYNC, CLIENTS, id='clients'),
        pytest.param(CLIENTS_ASYNC, CLIENTS, id='clients, asyncio'),
    ],
)
def test_a_program_does_not_grow(path, name, source, count):
    # Without -X dev: its allocator adds to everything.
    run(source, path, name, count, options=('-W', 'error'))


def gone(refs):
    def look():
        gc.collect()
        return all(ref() is None for ref in refs)

    return look


def test_cycles_of_objects(path, name):
    """Frames, operations, calls and events that hold themselves."""
    client = Client(path, name)
    client.connect()
    rpc, refs = Rpc(client), []
    rpc.on_call = lambda event: b''
    for _ in range(CYCLES // 10):
        frame, operation = Frame(b'x', qos=1), client.send(name, Frame(b'', qos=1))
        frame.own = frame
        frame.payload = [frame]
        if len(refs) % 8:
            vars(frame)['again'] = frame
        operation.own = operation
        waiting = ClientFrame(1)
        waiting.own = waiting.result = waiting
        event = rpc.call(name, Request('x'))
        event.own = event
        refs += [weakref.ref(each) for each in (frame, operation, waiting, event)]
        event.wait_completed(10)
    del frame, operation, waiting, event
    until(gone(refs))
    client.disconnect()


def test_cycles_of_clients(path, name):
    refs = []
    for n in range(20):
        client = Client(path, f'{name}.{n}')
        client.own = client
        client.on_frame = client.handle = lambda frame, client=client: client
        if n % 2:
            client.rpc = Rpc(client)
            client.rpc.on_call = lambda event, client=client: client
        client.connect()
        refs.append(weakref.ref(client))
        client.disconnect()
    # One that was never connected, and one whose broker is gone.
    client = Client(path, name)
    client.own = client
    refs.append(weakref.ref(client))
    with busrt.Broker() as broker:
        address = broker.listen(os.path.join(os.path.dirname(path), 'leaks.sock'))
        client = Client(address, name)
        client.own = client
        client.connect()
        refs.append(weakref.ref(client))
    until(lambda: not refs[-1]().is_connected())
    del client
    until(gone(refs))


def test_cycles_with_asyncio(path, name):
    refs = []

    async def main():
        for n in range(20):
            client = busrt_async.Client(path, f'{name}.{n}')
            client.own = client
            client.rpc = busrt_async.Rpc(client) if n % 2 else None
            await client.connect()
            operation = await client.send(client.name, Frame(b'', qos=1))
            operation.own = operation
            await operation.wait_completed(10)
            refs.extend([weakref.ref(client), weakref.ref(operation)])
            await client.disconnect()

    asyncio.run(main())
    until(gone(refs))


def test_a_call_that_is_dropped_is_forgotten(path, name):
    client = Client(path, name)
    client.connect()
    rpc, release = Rpc(client), threading.Event()
    rpc.on_call = lambda event: release.wait(10) and None
    event = rpc.call(name, Request('x'))
    ref = weakref.ref(event)
    del event
    gc.collect()
    assert ref() is None
    release.set()
    assert rpc.call(name, Request('y')).wait_completed(10).is_empty()
    client.disconnect()
