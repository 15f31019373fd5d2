"""A broker within a program of asyncio, with options and statistics. One client is within the process, too."""

import asyncio

import busrt_async


async def main() -> None:
    async with busrt_async.Broker(max_payload=1024 * 1024, slow='drop-old') as broker:
        address = await broker.listen('127.0.0.1:0')
        async with busrt_async.connect(broker, 'inside') as inside, busrt_async.connect(address, 'outside') as outside:
            await outside.send_message('inside', b'hello')
            async for frame in inside:
                print(frame.sender, frame.payload)
                break
            worker = await outside.secondary('worker')
            await worker.send_message('inside', b'from a secondary client')
            async for batch in inside.batches(timeout=5):
                print([(frame.sender, frame.primary_sender, frame.payload) for frame in batch])
                break
            print([(client['name'], client['kind'], client['instances']) for client in broker.client_stats()])
            stats = broker.stats()
            print(stats['clients'], stats['r_frames'] >= 2, stats['dropped'])
            # Goes in good order: what was sent arrives.
            print(await outside.drain(timeout=5))


asyncio.run(main())
