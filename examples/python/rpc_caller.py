"""Calls the methods of rpc_server.py."""

import sys

import busrt

address = sys.argv[1] if len(sys.argv) > 1 else '/tmp/busrt.sock'

with busrt.connect(address, 'example.caller') as client:
    rpc = busrt.Rpc(client)
    print(rpc.call_method('example.math', 'square', '12').decode())
    # Many calls in progress: `call` returns when the broker has acknowledged the request, and the replies are awaited
    # later.
    calls = [rpc.call('example.math', busrt.rpc.Request('square', str(n))) for n in range(5)]
    print([int(call.wait_completed(timeout=5).get_payload()) for call in calls])
    for method, params in (('divide', '1 0'), ('divide', 'one two'), ('cube', '3')):
        try:
            rpc.call_method('example.math', method, params)
        except busrt.RpcException as e:
            print(method, params, '->', e)
