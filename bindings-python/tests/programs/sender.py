"""Sends one of everything, and prints how each operation ended."""

import sys
import time
from busrt.client import *

path, name, target = sys.argv[1:4]


class Sender(Client):
    """Programs derive classes, and keep things of their own in them."""

    def __init__(self, path, name, greeting):
        super().__init__(path, name)
        self.greeting = greeting
        self.sent = 0

    def send(self, target=None, frame=None):
        self.sent += 1
        return super().send(target, frame)


client = Sender(path, name, 'hello')
client.timeout = 5
try:
    client.send(target, Frame('too early'))
except Exception as e:
    print('not connected:', isinstance(e, Exception))
client.connect()
print('connected:', client.is_connected())

for qos in range(4):
    frame = Frame(f'{client.greeting} {qos}', qos=qos)
    operation = client.send(target, frame)
    if qos & 1:
        print('message', qos, hex(operation.wait_completed(timeout=client.timeout)), operation.result, operation.is_completed())
    else:
        print('message', qos, operation.wait_completed())
    # Notifications to the other implementation may overtake each other.
    time.sleep(0.05)

header = Frame(b'body', qos=1)
header.header = b'head '
print('header', client.send(target, header).wait_completed())
for payload in (b'bytes', bytearray(b'bytearray'), 'text'):
    frame = Frame(payload, tp=OP_PUBLISH, qos=1)
    print('publish', client.send('plant/pump/state', frame).wait_completed())
print('nobody listens', client.send('elsewhere', Frame('x', tp=OP_PUBLISH, qos=1)).wait_completed())
print('broadcast', client.send(target[:-1] + '*', Frame('to all', tp=OP_BROADCAST, qos=1)).wait_completed())
result = client.send('no.such.client', Frame('x', qos=1)).wait_completed()
print('nobody', hex(result), result == ERR_CLIENT_NOT_REGISTERED, result == RESPONSE_OK)
frame = Frame(tp=OP_SUBSCRIBE, qos=1)
frame.topic = ['a', 'b/#']
print('subscribe', client.send(None, frame).wait_completed())
print('stop', client.send(target, Frame(b'stop', qos=3)).wait_completed())
print('sent', client.sent)
client.disconnect()
client.disconnect()
print('connected:', client.is_connected())
again = Sender(path, name + '.again', 'again')
again.connect()
try:
    Sender(path, again.name, 'second').connect()
except RuntimeError as e:
    print('refused:', e)
again.disconnect()
for missing in ('/no/such.sock', 'no-such.sock', '127.0.0.1:1'):
    try:
        Client(missing, name).connect()
    except OSError as e:
        print('missing:', type(e).__mro__[1 if type(e).__module__ != 'builtins' else 0].__name__ and isinstance(e, OSError))
