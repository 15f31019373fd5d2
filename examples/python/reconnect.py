"""A client that reconnects after its connection is lost, and restores its subscriptions."""

import os
import tempfile
import time

import busrt

# A broker within this program, which can be shut down.
address = os.path.join(tempfile.mkdtemp(), 'bus.sock')
broker = busrt.Broker()
broker.listen(address)

# Tries to reconnect after 0.01 s, with delays of up to 0.1 s, without a limit of attempts.
with busrt.connect(address, 'example.persistent', reconnect=(0.01, 0.1, None)) as client:
    client.subscribe('news')
    broker.shutdown()
    while client.is_connected():
        time.sleep(0.01)
    try:
        client.publish('news', 'lost')
    except ConnectionError as e:
        print('lost:', isinstance(e, busrt.BusError))
    with busrt.Broker() as second:
        second.listen(address)
        while not client.is_connected():
            time.sleep(0.01)
        client.publish('news', 'back again')
        for frame in client:
            # The first broker has announced its shutdown.
            if frame.sender != '.broker':
                print(frame.topic, frame.payload.decode())
                break
