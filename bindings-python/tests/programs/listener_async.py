"""Prints what it receives until it is told to stop: messages, broadcasts and publications."""

import asyncio
import sys

import busrt_async

path, name = sys.argv[1:3]


async def main():
    stop = asyncio.Event()

    async def on_frame(frame):
        print(frame.type, frame.sender, frame.primary_sender, frame.topic, frame.payload.decode(), flush=True)
        if frame.payload == b'stop':
            stop.set()

    client = busrt_async.client.Client(path, name)
    client.ping_interval = 0.5
    client.on_frame = on_frame
    await client.connect()
    operation = await client.subscribe(['plant/#', 'alarm/+'])
    print('subscribed:', hex(await operation.wait_completed()), flush=True)
    await client.unsubscribe('alarm/+')
    print('ready', flush=True)
    await asyncio.wait_for(stop.wait(), 20)
    await client.disconnect()
    while client.is_connected():
        await asyncio.sleep(0.01)
    print('connected:', client.is_connected())


asyncio.run(main())
