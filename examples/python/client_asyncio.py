"""A client of asyncio: subscribes, publishes, and takes received frames."""

import asyncio
import sys

import busrt_async

address = sys.argv[1] if len(sys.argv) > 1 else '/tmp/busrt.sock'


async def main() -> None:
    async with busrt_async.connect(address, 'example.asyncio') as client:
        await client.subscribe(['plant/#', 'weather/+'])
        await client.exclude('plant/debug')
        for topic in ('plant/boiler', 'plant/debug', 'weather/rain'):
            await client.publish(topic, 'news')
        count = 0
        async for frame in client:
            print(frame.topic, frame.payload.decode())
            count += 1
            if count == 2:
                break


asyncio.run(main())
