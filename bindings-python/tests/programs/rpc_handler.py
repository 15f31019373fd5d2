"""Answers calls until it is told to stop."""

import sys
import threading

import busrt
from busrt.rpc import RPC_ERROR_CODE_INVALID_METHOD_PARAMS, RPC_ERROR_CODE_METHOD_NOT_FOUND, Rpc, RpcException

path, name = sys.argv[1:3]
stop = threading.Event()


class CodedError(Exception):
    rpc_error_code = -777


class Handler(Rpc):
    def __init__(self, client, factor):
        super().__init__(client)
        self.factor = factor
        self.on_call = self.handle
        self.on_notification = self.notified
        self.on_frame = self.received

    def handle(self, event):
        method = event.method.decode()
        # Those that are handled at the same time would be printed in any order.
        if method == 'echo':
            return event.get_payload()
        print('call', method, event.get_payload(), event.frame.sender, event.call_id > 0, flush=True)
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
            reply = self.call(event.frame.sender, busrt.rpc.Request('own', b'from the handler'))
            return reply.wait_completed(timeout=5).get_payload()
        if method == 'stop':
            # After the reply is written.
            threading.Timer(0.2, stop.set).start()
            return b'stopped'
        raise RpcException('no such method', RPC_ERROR_CODE_METHOD_NOT_FOUND)

    def notified(self, event):
        print('notification', event.get_payload(), event.frame.sender, flush=True)

    def received(self, frame):
        print('frame', frame.type, frame.topic, frame.payload, flush=True)


client = busrt.client.Client(path, name)
client.connect()
rpc = Handler(client, 3)
client.subscribe('rpc/#').wait_completed()
print('ready', rpc.is_connected(), rpc.client is client, flush=True)
assert stop.wait(20)
client.disconnect()
print('connected:', rpc.is_connected())
