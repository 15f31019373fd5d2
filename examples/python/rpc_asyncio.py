"""A server and its caller within one event loop."""

import asyncio
import sys

import busrt_async
from busrt_async.rpc import Event

address = sys.argv[1] if len(sys.argv) > 1 else '/tmp/busrt.sock'


async def main() -> None:
    async with busrt_async.connect(address, 'example.slow') as a, busrt_async.connect(address, 'example.caller') as b:
        server, caller = busrt_async.Rpc(a), busrt_async.Rpc(b)

        @server.method('double')
        async def double(event: Event) -> str:
            await asyncio.sleep(0.01)
            return str(2 * int(event.get_payload()))

        @server.method('never')
        async def never(event: Event) -> None:
            await asyncio.sleep(3600)

        # A hundred calls take as long as one.
        replies = await asyncio.gather(*[caller.call_method('example.slow', 'double', str(n)) for n in range(100)])
        print(sum(map(int, replies)))
        try:
            await caller.call_method('example.slow', 'never', timeout=0.2)
        except asyncio.TimeoutError:
            print('no reply in time')


asyncio.run(main())
