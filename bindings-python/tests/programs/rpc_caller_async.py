"""Calls methods in every way, and prints the outcomes."""

import asyncio
import sys

import busrt_async
from busrt_async.client import OP_PUBLISH, Client, Frame
from busrt_async.rpc import Notification, Request, Rpc, RpcException

path, name, target = sys.argv[1:4]


async def own(event):
    return event.method + b' of the caller: ' + event.get_payload()


async def main():
    client = Client(path, name)
    client.timeout = 5
    await client.connect()
    rpc = Rpc(client)
    rpc.on_call = own

    async def call(method, params=b'', to=target):
        try:
            result = await (await rpc.call(to, Request(method, params))).wait_completed(timeout=5)
            print(method, result.get_payload(), result.is_empty(), result.frame.sender, result.error, result.is_completed())
        except RpcException as e:
            print(method, type(e).__name__, e.rpc_error_code, e.rpc_error_payload, e)

    await call('multiply', b'14')
    await call('multiply', bytearray(b'5'))
    await call(b'multiply', '7')
    await call('multiply', 'no number')
    await call('text')
    await call('nothing', None)
    await call('coded')
    await call('fails')
    await call('missing')
    await call('back')
    await call('any', to='no.such.client')
    print('notify', await (await rpc.notify(target, Notification('hello'))).wait_completed(timeout=5))
    await asyncio.sleep(0.1)
    print('call0', await (await rpc.call0(target, Request('multiply', b'1'))).wait_completed(timeout=5))
    await asyncio.sleep(0.1)
    operation = await client.send('rpc/topic', Frame('to on_frame', tp=OP_PUBLISH, qos=1))
    print('publish', await operation.wait_completed())
    await asyncio.sleep(0.1)
    print('default', busrt_async.rpc.format_rpc_e_msg(RpcException('text', code=5)), RpcException().rpc_error_code)
    events = [await rpc.call(target, Request('echo', str(n))) for n in range(3)]
    print('several', [(await event.wait_completed()).get_payload() for event in events], events[0].completed.is_set())
    await asyncio.sleep(0.1)
    await call('stop')
    await client.disconnect()
    event = await rpc.call(target, Request('x'))
    try:
        await event.wait_completed()
    except RpcException as e:
        print('closed:', e.rpc_error_code)


asyncio.run(main())
