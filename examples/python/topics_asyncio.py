"""Callbacks and queues for topics, and the events of a connection, within an event loop."""

import asyncio
import sys

import busrt_async

address = sys.argv[1] if len(sys.argv) > 1 else '/tmp/busrt.sock'


async def main() -> None:
    async with busrt_async.connect(address, 'example.topics.asyncio', codec='json') as client:
        is_handled = asyncio.Event()

        async def alarm(received: busrt_async.Decoded) -> None:
            print('alarm:', received.topic, received.payload)
            is_handled.set()

        # Awaited, the subscription is in force.
        handler = await client.on_topic('alarm/#', alarm)
        async with client.open_queue('plant/+/temperature', maxsize=100) as temperatures:
            await client.publish('plant/boiler/temperature', {'celsius': 87.5})
            await client.publish('plant/tank/temperature', {'celsius': 19})
            await client.publish('alarm/boiler', ['too', 'hot'])
            for _ in range(2):
                received = await temperatures.get(timeout=5)
                print(received.sender, received.topic, received.payload['celsius'])
        await is_handled.wait()
        await handler.close()

        events = client.events(timeout=5)
    # The client is disconnected here.
    print([event.kind async for event in events])


asyncio.run(main())
