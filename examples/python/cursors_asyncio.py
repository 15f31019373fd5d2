"""A long result, item by item, within an event loop. Items are MessagePack: pip install './bindings-python[msgpack]'."""

import asyncio
import sys
from collections.abc import AsyncIterator

import busrt_async
from busrt_async.rpc import Event

address = sys.argv[1] if len(sys.argv) > 1 else '/tmp/busrt.sock'


async def items() -> AsyncIterator[dict[str, int]]:
    for n in range(1_000):
        if n % 100 == 0:
            await asyncio.sleep(0.001)
        yield {'row': n, 'square': n * n}


async def main() -> None:
    a = await busrt_async.connect(address, 'example.archive.asyncio')
    b = await busrt_async.connect(address, 'example.reader.asyncio')
    async with a, b:
        archive, reader = busrt_async.Rpc(a), busrt_async.Rpc(b)

        @archive.method('rows')
        async def rows(event: Event) -> busrt_async.Cursor:
            return busrt_async.Cursor(items())

        total = 0
        async for row in reader.cursor('example.archive.asyncio', 'rows', codec='msgpack'):
            total += row['square']
        print(total)


asyncio.run(main())
