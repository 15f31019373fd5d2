"""Sends one of everything, and prints how each operation ended."""

import asyncio
import sys
from busrt_async.client import *

path, name, target = sys.argv[1:4]


class Sender(Client):
    """Programs derive classes, and keep things of their own in them."""

    def __init__(self, path, name, greeting):
        super().__init__(path, name)
        self.greeting = greeting
        self.sent = 0

    async def send(self, target=None, frame=None):
        self.sent += 1
        return await super().send(target, frame)


async def main():
    client = Sender(path, name, 'hello')
    client.timeout = 5
    await client.connect()
    print('connected:', client.is_connected())
    for qos in range(4):
        operation = await client.send(target, Frame(f'{client.greeting} {qos}', qos=qos))
        if qos & 1:
            print(
                'message',
                qos,
                hex(await operation.wait_completed(timeout=client.timeout)),
                operation.result,
                operation.is_completed(),
            )
        else:
            print('message', qos, await operation.wait_completed())
        await asyncio.sleep(0.05)
    header = Frame(b'body', qos=1)
    header.header = b'head '
    print('header', await (await client.send(target, header)).wait_completed())
    for payload in (b'bytes', bytearray(b'bytearray'), 'text'):
        operation = await client.send('plant/pump/state', Frame(payload, tp=OP_PUBLISH, qos=1))
        print('publish', await operation.wait_completed())
    operation = await client.send(target[:-1] + '*', Frame('to all', tp=OP_BROADCAST, qos=1))
    print('broadcast', await operation.wait_completed())
    result = await (await client.send('no.such.client', Frame('x', qos=1))).wait_completed()
    print('nobody', hex(result), result == ERR_CLIENT_NOT_REGISTERED, result == RESPONSE_OK)
    frame = Frame(tp=OP_SUBSCRIBE, qos=1)
    frame.topic = ['a', 'b/#']
    print('subscribe', await (await client.send(None, frame)).wait_completed())
    task = asyncio.get_running_loop().create_task(client.subscribe('task'))
    print('task', (await task).qos)
    print('stop', await (await client.send(target, Frame(b'stop', qos=3))).wait_completed())
    print('sent', client.sent)
    await client.disconnect()
    await client.disconnect()
    print('connected:', client.is_connected())


asyncio.run(main())
