"""Callbacks and queues for topics, with payloads that are JSON, and the events of a connection."""

import sys

import busrt

address = sys.argv[1] if len(sys.argv) > 1 else '/tmp/busrt.sock'

with busrt.connect(address, 'example.topics', codec='json') as client:

    @client.on_event
    def note(event: busrt.ConnectionEvent) -> None:
        if event.kind == 'reconnecting':
            print('attempt', event.attempt, 'to reconnect in', event.delay, 'seconds', file=sys.stderr)

    @client.on_topic('alarm/#')
    def alarm(received: busrt.Decoded) -> None:
        print('alarm:', received.topic, received.payload)

    # A queue is taken from by any thread. When it is full, the broker holds the senders back.
    with client.open_queue('plant/+/temperature', maxsize=100) as temperatures:
        client.publish('plant/boiler/temperature', {'celsius': 87.5})
        client.publish('plant/tank/temperature', {'celsius': 19})
        client.publish('alarm/boiler', ['too', 'hot'])
        # Callbacks run in the order of what is received: the alarm is handled before this queue gets something.
        with client.open_queue('end') as end:
            client.publish('end')
            end.get(timeout=5)
        for _ in range(2):
            received = temperatures.get(timeout=5)
            print(received.sender, received.topic, received.payload['celsius'])
