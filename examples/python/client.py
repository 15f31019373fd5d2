"""A client on plain threads: subscribes, publishes, and sends a message to itself."""

import sys

import busrt

address = sys.argv[1] if len(sys.argv) > 1 else '/tmp/busrt.sock'

with busrt.connect(address, 'example.client') as client:
    client.subscribe('plant/#').wait_completed()
    # Acknowledged by the broker by default.
    client.publish('plant/boiler/temperature', '87.5')
    client.publish('plant/boiler/pressure', b'\x02\x01', qos=busrt.QoS.REALTIME)
    client.send_message('example.client', 'a message to myself')
    try:
        client.send_message('no.such.client', 'hello')
    except busrt.NotRegisteredError as e:
        print(e)
    # Frames wait until they are taken.
    count = 0
    for frame in client:
        print(frame.topic or 'message', 'from', frame.sender, frame.payload)
        count += 1
        if count == 3:
            break
