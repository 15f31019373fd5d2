"""A broker within a test or a program of one process. It listens on a free port of this machine."""

import busrt

with busrt.Broker() as broker:
    address = broker.listen('127.0.0.1:0')
    with busrt.connect(address, 'first') as first, busrt.connect(address, 'second') as second:
        second.send_message('first', b'hello')
        for frame in first:
            print(frame.sender, frame.payload)
            break
        print(sorted(broker.clients()))
