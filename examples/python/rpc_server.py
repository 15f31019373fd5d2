"""Serves calls until Ctrl-C. Calls are handled concurrently, on threads of the client."""

import sys
import threading

import busrt
from busrt.rpc import Event

address = sys.argv[1] if len(sys.argv) > 1 else '/tmp/busrt.sock'

with busrt.connect(address, 'example.math') as client:
    rpc = busrt.Rpc(client)

    @rpc.method('square')
    def square(event: Event) -> str:
        # The returned value is the reply; a raised exception is an error reply.
        return str(int(event.get_payload()) ** 2)

    @rpc.method('divide')
    def divide(event: Event) -> str:
        a, b = map(float, event.get_payload().split())
        if b == 0:
            raise busrt.RpcException('division by zero', code=-1)
        return str(a / b)

    print('serving', flush=True)
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        # Calls in progress are answered first.
        client.drain(5)
        print('drained')
