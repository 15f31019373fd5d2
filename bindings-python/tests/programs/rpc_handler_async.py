"""Answers calls until it is told to stop."""

import asyncio
import sys

import busrt_async
from busrt_async.rpc import RPC_ERROR_CODE_INVALID_METHOD_PARAMS, RPC_ERROR_CODE_METHOD_NOT_FOUND, Rpc, RpcException

path, name = sys.argv[1:3]


class CodedError(Exception):
    rpc_error_code = -777


class Handler(Rpc):
    def __init__(self, client, factor, stop):
        super().__init__(client)
        self.factor = factor
        self.stop = stop
        self.on_call = self.handle
        self.on_notification = self.notified
        self.on_frame = self.received

    async def handle(self, event):
        method = event.method.decode()
        # Those that are handled at the same time would be printed in any order.
        if method == 'echo':
            return event.get_payload()
        print('call', method, event.get_payload(), event.frame.sender, event.call_id > 0, flush=True)
        await asyncio.sleep(0)
        if method == 'multiply':
            try:
                return str(int(event.get_payload()) * self.factor).encode()
            except ValueError:
                raise RpcException('no number', RPC_ERROR_CODE_INVALID_METHOD_PARAMS)
        if method == 'text':
            return 'text'
        if method == 'nothing':
            return None
        if method == 'coded':
            raise CodedError('coded')
        if method == 'fails':
            return 1 / 0
        if method == 'back':
            reply = await self.call(event.frame.sender, busrt_async.rpc.Request('own', b'from the handler'))
            return (await reply.wait_completed(timeout=5)).get_payload()
        if method == 'stop':
            # After the reply is written.
            asyncio.get_running_loop().call_later(0.2, self.stop.set)
            return b'stopped'
        raise RpcException('no such method', RPC_ERROR_CODE_METHOD_NOT_FOUND)

    async def notified(self, event):
        print('notification', event.get_payload(), event.frame.sender, flush=True)

    async def received(self, frame):
        print('frame', frame.type, frame.topic, frame.payload, flush=True)


async def main():
    client = busrt_async.client.Client(path, name)
    await client.connect()
    stop = asyncio.Event()
    rpc = Handler(client, 3, stop)
    await (await client.subscribe('rpc/#')).wait_completed()
    print('ready', rpc.is_connected(), rpc.client is client, flush=True)
    await asyncio.wait_for(stop.wait(), 20)
    await client.disconnect()
    print('connected:', rpc.is_connected())


asyncio.run(main())
