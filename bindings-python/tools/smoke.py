#!/usr/bin/env python3
"""Uses a little of everything that the Python modules have, with a broker of its own: what tools/memcheck runs under
valgrind."""

import asyncio
import gc
import os
import pickle
import sys
import tempfile
import threading
import time

import busrt
import busrt_async
from busrt.client import OP_BROADCAST, OP_PUBLISH, OP_SUBSCRIBE, Client, ClientFrame, Frame
from busrt.rpc import Notification, Request, Rpc, RpcException

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 20


def until(condition):
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def plain(address):
    got = []
    a, b = Client(address, 'plain.a'), Client(address, 'plain.b')
    for client in (a, b):
        client.timeout = 60
        client.connect()
    a.on_frame = lambda frame: got.append(pickle.loads(pickle.dumps(frame)))
    subscription = Frame(tp=OP_SUBSCRIBE, qos=1)
    subscription.topic = ['x/#']
    assert a.send(None, subscription).wait_completed(60) == 1
    for n in range(ROUNDS):
        for payload in (b'x', 'y' * 10_000, bytearray(b'z' * 100), memoryview(b'm'), b'l' * 100_000):
            assert b.send(a.name, Frame(payload, qos=n % 4)).wait_completed(60) == 1
        b.send('x/y', Frame(b'p', tp=OP_PUBLISH, qos=1)).wait_completed(60)
        b.send('plain.*', Frame(b'b', tp=OP_BROADCAST, qos=1)).wait_completed(60)
        assert b.send('nobody', Frame(b'', qos=1)).wait_completed(60) == 0x71
    until(lambda: len(got) == 7 * ROUNDS)
    assert {type(vars(frame)['payload']) for frame in got} == {bytes}
    own = ClientFrame(1)
    own.own = own
    own.completed.set()
    for error in (lambda: b.send('x', Frame(5)), lambda: b.send('x', Frame(b'', qos=9)), lambda: b.subscribe(5)):
        try:
            error()
        except (TypeError, ValueError):
            pass
    server, caller = Rpc(a), Rpc(b)

    def on_call(event):
        if event.method == b'fails':
            raise RpcException(b'\xff', 5)
        return event.get_payload()

    server.on_call = on_call
    notified = []
    server.on_notification = notified.append
    for _ in range(ROUNDS):
        calls = [caller.call(a.name, Request('echo', b'x' * 5000)) for _ in range(5)]
        assert all(len(call.wait_completed(60).get_payload()) == 5000 for call in calls)
        try:
            caller.call(a.name, Request('fails')).wait_completed(60)
        except RpcException as e:
            assert e.rpc_error_code == 5
        # One that nothing waits for.
        caller.call(a.name, Request('echo'))
        caller.notify(a.name, Notification(b'n'))
    until(lambda: len(notified) == ROUNDS)
    for client in (a, b):
        client.disconnect()


def new_style(address):
    with busrt.connect(address, 'new.a') as a, busrt.connect(address, 'new.b') as b:
        a.subscribe('n/#')
        a.exclude('n/no')
        for n in range(ROUNDS):
            b.publish('n/yes', b'%d' % n)
            b.publish('n/no', b'')
        frames = iter(a)
        assert [int(next(frames).payload) for _ in range(ROUNDS)] == list(range(ROUNDS))
        a.flush()
        a.stats()
        other = a.secondary()
        other.disconnect()
        b.drain(60)


async def with_asyncio(address):
    a, b = busrt_async.Client(address, 'asyncio.a'), busrt_async.Client(address, 'asyncio.b')
    for client in (a, b):
        client.timeout = 60
        await client.connect()
    server, caller, got = busrt_async.Rpc(a), busrt_async.Rpc(b), []

    async def on_call(event):
        await asyncio.sleep(0)
        return event.get_payload()

    async def on_frame(frame):
        got.append(frame.payload)

    server.on_call, server.on_frame = on_call, on_frame
    subscription = Frame(tp=OP_SUBSCRIBE, qos=1)
    subscription.topic = 'a'
    assert await (await a.send(None, subscription)).wait_completed(60) == 1
    for _ in range(ROUNDS):
        calls = await asyncio.gather(*(caller.call_method(a.name, 'echo', b'x', timeout=60) for _ in range(5)))
        assert calls == [b'x'] * 5
        await b.send('a', Frame(b'p', tp=OP_PUBLISH))
        cancelled = asyncio.ensure_future(caller.call_method(a.name, 'echo'))
        await asyncio.sleep(0)
        cancelled.cancel()
    while len(got) < ROUNDS:
        await asyncio.sleep(0.01)
    await a.disconnect()
    async with busrt_async.connect(address, 'asyncio.c', timeout=60) as c:
        await b.send_message(c.name, b'x', timeout=60)
        async for frame in c:
            assert frame.payload == b'x'
            break
    await b.disconnect()


def fork():
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            with busrt.Broker() as own:
                status = own.clients() != ['.broker']
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0


def main():
    with tempfile.TemporaryDirectory() as folder, busrt.Broker() as broker:
        address = broker.listen(os.path.join(folder, 'bus.sock'))
        plain(address)
        new_style(address)
        asyncio.run(with_asyncio(address))
        thread = threading.Thread(target=lambda: plain(broker.listen('127.0.0.1:0')))
        thread.start()
        thread.join()
        fork()
        gc.collect()
        # The interpreter ends with a client that is connected, in a daemon thread that waits.
        client = Client(address, 'left')
        client.connect()
        Rpc(client).on_call = lambda event: time.sleep(1000)
    print('done')


main()
