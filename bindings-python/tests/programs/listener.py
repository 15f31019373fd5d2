"""Prints what it receives until it is told to stop: messages, broadcasts and publications."""

import sys
import threading
import time

import busrt

path, name = sys.argv[1:3]
stop = threading.Event()


def on_frame(frame):
    print(frame.type, frame.sender, frame.primary_sender, frame.topic, frame.payload.decode(), flush=True)
    if frame.payload == b'stop':
        stop.set()


client = busrt.client.Client(path, name)
client.buf_size = 16384
client.ping_interval = 0.5
client.on_frame = on_frame
client.connect()
print('subscribed:', hex(client.subscribe(['plant/#', 'alarm/+']).wait_completed()), flush=True)
unsubscribe = client.unsubscribe('alarm/+')
print('ready', flush=True)
assert stop.wait(20)
client.disconnect()
# The name is looked at in a loop by programs that wait for a loss.
while client.is_connected():
    time.sleep(0.01)
print('connected:', client.is_connected())
