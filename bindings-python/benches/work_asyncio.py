"""One measurement of the client for asyncio, ours or that of PyPI, with the same program. The usage is that of work_sync.py."""

import asyncio
import json
import os
import sys
import time
from collections import deque

from busrt_async.client import OP_PUBLISH, Client, Frame
from busrt_async.rpc import Request, Rpc

WARM_UP = 0.2
PAYLOAD = b'x' * 100
LARGE = b'x' * 1024 * 1024
WINDOW = 64
ROUND = 50


async def connected(path):
    client = Client(path, 'bench')
    client.timeout = 60
    await client.connect()
    return client


async def measure(rounds, finish):
    async def run(seconds):
        done, end = 0, time.perf_counter() + seconds
        while time.perf_counter() < end:
            done += await rounds()
        await finish()
        return done

    await run(WARM_UP)
    cpu, began = time.process_time(), time.perf_counter()
    done = await run(SECONDS)
    return done, time.perf_counter() - began, time.process_time() - cpu


async def nothing():
    pass


async def sending(client, make, per_round=ROUND):
    async def rounds():
        for _ in range(per_round):
            await make()
        return per_round

    async def finish():
        await (await client.send('bench', Frame(b'', qos=1))).wait_completed(60)

    return await measure(rounds, finish)


async def counted(count):
    print('ready', flush=True)
    while count() == 0:
        await asyncio.sleep(0.01)
    await asyncio.sleep(WARM_UP)
    before, cpu, began = count(), time.process_time(), time.perf_counter()
    await asyncio.sleep(SECONDS)
    after, cpu_after, ended = count(), time.process_time(), time.perf_counter()
    return after - before, ended - began, cpu_after - cpu


class Counter:
    def __init__(self):
        self.value = 0

    async def __call__(self, _):
        self.value += 1

    def get(self):
        return self.value


async def publish(path):
    client = await connected(path)
    return await sending(client, lambda: client.send('bench/topic', Frame(PAYLOAD, tp=OP_PUBLISH)))


async def acknowledged(path):
    client = await connected(path)

    async def one():
        await (await client.send('bench/topic', Frame(PAYLOAD, tp=OP_PUBLISH, qos=1))).wait_completed(60)

    return await sending(client, one)


async def acknowledged_64(path):
    client, under_way = await connected(path), deque()

    async def rounds():
        for _ in range(ROUND):
            under_way.append(await client.send('bench/topic', Frame(PAYLOAD, tp=OP_PUBLISH, qos=1)))
            if len(under_way) >= WINDOW:
                await under_way.popleft().wait_completed(60)
        return ROUND

    async def finish():
        while under_way:
            await under_way.popleft().wait_completed(60)

    return await measure(rounds, finish)


async def receive(path):
    client, counter = await connected(path), Counter()
    client.on_frame = counter
    return await counted(counter.get)


async def receive_rpc(path):
    client, counter = await connected(path), Counter()
    Rpc(client).on_notification = counter
    return await counted(counter.get)


async def receive_iteration(path):
    import busrt_async

    client, counter = await busrt_async.connect(path, 'bench'), Counter()

    async def iterate():
        async for _ in client:
            counter.value += 1

    task = asyncio.ensure_future(iterate())
    return await counted(counter.get), task


async def receive_batches(path):
    import busrt_async

    client, counter = await busrt_async.connect(path, 'bench'), Counter()

    async def iterate():
        async for batch in client.batches():
            counter.value += len(batch)
            await asyncio.sleep(0)

    task = asyncio.ensure_future(iterate())
    return await counted(counter.get), task


async def receive_large(path):
    client, counter = await connected(path), Counter()

    async def on_frame(frame):
        counter.value += len(frame.payload) // len(LARGE)

    client.on_frame = on_frame
    return await counted(counter.get)


async def call(path):
    rpc = Rpc(await connected(path))

    async def rounds():
        await (await rpc.call('.broker', Request('test'))).wait_completed(60)
        return 1

    return await measure(rounds, nothing)


async def call_64(path):
    rpc = Rpc(await connected(path))

    async def one():
        await (await rpc.call('.broker', Request('test'))).wait_completed(60)

    async def several(end):
        done = 0
        while time.perf_counter() < end:
            await one()
            done += 1
        return done

    async def run(seconds):
        end = time.perf_counter() + seconds
        return sum(await asyncio.gather(*[several(end) for _ in range(WINDOW)]))

    await run(WARM_UP)
    cpu, began = time.process_time(), time.perf_counter()
    done = await run(SECONDS)
    return done, time.perf_counter() - began, time.process_time() - cpu


async def send_large(path):
    client = await connected(path)
    return await sending(client, lambda: client.send('bench.sink', Frame(LARGE)), 1)


row, address, SECONDS = sys.argv[1], sys.argv[2], float(sys.argv[3])


async def main():
    result = await globals()[row](address)
    if isinstance(result[0], tuple):
        result = result[0]
    operations, seconds, processor = result
    print(json.dumps({'operations': operations, 'seconds': seconds, 'processor': processor}), flush=True)
    os.kill(os.getpid(), 9)


asyncio.run(main())
