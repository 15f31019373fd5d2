"""A long result, item by item. Items are MessagePack: pip install './bindings-python[msgpack]'."""

import sys

import busrt
from busrt.rpc import Event

address = sys.argv[1] if len(sys.argv) > 1 else '/tmp/busrt.sock'

with busrt.connect(address, 'example.archive') as a, busrt.connect(address, 'example.reader') as b:
    archive, reader = busrt.Rpc(a), busrt.Rpc(b)

    @archive.method('rows')
    def rows(event: Event) -> busrt.Cursor:
        # An item is made when it is asked for.
        return busrt.Cursor({'row': n, 'square': n * n} for n in range(1_000))

    print(sum(row['square'] for row in reader.cursor('example.archive', 'rows', codec='msgpack')))
    print(reader.cursor('example.archive', 'rows', codec='msgpack').take(2))
