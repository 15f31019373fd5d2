"""The other side of a measurement: a bare socket that costs almost nothing, so that only the client is measured.

raw.py PATH flood TARGET KIND BYTES    sends frames as fast as they are read
raw.py PATH sink NAME                  reads and discards
"""

import socket
import sys

from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / 'tests' / 'python'))

from wire import MESSAGE, Wire, operation  # noqa: E402

CHUNK_BYTES = 256 * 1024
PING_INTERVAL = 1


def flood(path, target, kind, size):
    wire = Wire(path, 'bench.flood')
    wire.socket.settimeout(None)
    payload = (b'\0' if kind == 'notification' else b'') + b'x' * size
    frame = operation(MESSAGE, target.encode() + b'\0' + payload, 0, 0)
    chunk = frame * max(1, CHUNK_BYTES // len(frame))
    try:
        while True:
            wire.socket.sendall(chunk)
    except OSError:
        pass


def sink(path, name):
    wire = Wire(path, name)
    print('ready', flush=True)
    buffer = bytearray(1024 * 1024)
    wire.socket.settimeout(PING_INTERVAL)
    while True:
        try:
            if not wire.socket.recv_into(buffer):
                return
        except socket.timeout:
            wire.socket.sendall(bytes(9))


def main():
    path, what, name, *rest = sys.argv[1:]
    if what == 'flood':
        flood(path, name, rest[0], int(rest[1]))
    else:
        sink(path, name)


main()
