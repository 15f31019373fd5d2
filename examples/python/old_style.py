"""A program for the packages `busrt` and `busrt-async` of PyPI. It runs with ours unchanged."""

import sys
import threading

import busrt

address = sys.argv[1] if len(sys.argv) > 1 else '/tmp/busrt.sock'
got = threading.Event()


def on_frame(frame: busrt.client.Frame) -> None:
    print(frame.sender, frame.topic, frame.payload)
    got.set()


client = busrt.client.Client(address, 'example.old')
client.on_frame = on_frame
client.connect()
client.subscribe('old/#').wait_completed()
result = client.send('old/style', busrt.client.Frame('works', tp=busrt.client.OP_PUBLISH, qos=1)).wait_completed()
got.wait(5)
print(hex(result))
client.disconnect()
