"""Calls methods in every way, and prints the outcomes."""

import sys
import time

import busrt
from busrt.client import OP_PUBLISH, Client, Frame
from busrt.rpc import Notification, Request, Rpc, RpcException

path, name, target = sys.argv[1:4]
client = Client(path, name)
client.timeout = 5
client.connect()
rpc = Rpc(client)


def own(event):
    return event.method + b' of the caller: ' + event.get_payload()


rpc.on_call = own


def call(method, params=b'', to=target):
    try:
        result = rpc.call(to, Request(method, params)).wait_completed(timeout=5)
        print(method, result.get_payload(), result.is_empty(), result.frame.sender, result.error, result.is_completed())
    except RpcException as e:
        print(method, type(e).__name__, e.rpc_error_code, e.rpc_error_payload, e)


call('multiply', b'14')
call('multiply', bytearray(b'5'))
call(b'multiply', '7')
call('multiply', 'no number')
call('text')
call('nothing', None)
call('coded')
call('fails')
call('missing')
call('back')
call('any', to='no.such.client')
print('notify', rpc.notify(target, Notification('hello')).wait_completed(timeout=5))
time.sleep(0.1)
print('call0', rpc.call0(target, Request('multiply', b'1')).wait_completed(timeout=5))
time.sleep(0.1)
print('publish', client.send('rpc/topic', Frame('to on_frame', tp=OP_PUBLISH, qos=1)).wait_completed())
time.sleep(0.1)
print('default', busrt.rpc.format_rpc_e_msg(RpcException('text', code=5)), RpcException().rpc_error_code, RpcException('a', -1))
events = [rpc.call(target, Request('echo', str(n))) for n in range(3)]
print('several', [event.wait_completed().get_payload() for event in events], events[0].completed.is_set())
time.sleep(0.1)
call('stop')
client.disconnect()
event = rpc.call(target, Request('x'))
try:
    event.wait_completed()
except RpcException as e:
    print('closed:', e.rpc_error_code)
