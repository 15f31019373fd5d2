"""Reads and writes the protocol of docs/protocol.md byte by byte, for tests without a client library."""

import socket
import struct

HELLO = b'\xeb\x01\x00'
OK, NOT_REGISTERED, DATA, NOT_SUPPORTED, BUSY = b'\x01', b'\x71', b'\x72', b'\x75', b'\x76'

NOP, PUBLISH, SUBSCRIBE, UNSUBSCRIBE, EXCLUDE, UNEXCLUDE, PUBLISH_FOR = range(7)
MESSAGE, BROADCAST, ACK = 0x12, 0x13, 0xFE


def operation(code, body=b'', qos=0, op_id=1):
    """Returns a frame from a client to the broker."""
    return struct.pack('<IBI', op_id, code | qos << 6, len(body)) + body


def delivery(kind, *parts, realtime=0):
    """Returns a frame from the broker to a client: parts are sender, (topic,) payload."""
    body = b'\0'.join(parts)
    return struct.pack('<BIB', kind, len(body), realtime) + body


def ack(op_id=1, code=1):
    return struct.pack('<BIB', ACK, op_id, code)


class Wire:
    """A connection, which registers if a name is given."""

    def __init__(self, address, name=None, timeout=20):
        if address.startswith('/'):
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(timeout)
            self.socket.connect(address)
        else:
            host, port = address.rsplit(':', 1)
            self.socket = socket.create_connection((host, int(port)), timeout)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.next_id = 1000
        if name is not None:
            assert self.greet() == OK
            assert self.register(name) == OK

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()

    def send(self, *chunks):
        self.socket.sendall(b''.join(chunks))

    def read(self, count):
        """Reads exactly `count` bytes, or fewer at the end of the stream."""
        data = b''
        while len(data) < count:
            try:
                chunk = self.socket.recv(count - len(data))
            except ConnectionResetError:
                chunk = b''
            if not chunk:
                break
            data += chunk
        return data

    def greet(self):
        assert self.read(3) == HELLO
        self.send(HELLO)
        return self.read(1)

    def register(self, name):
        name = name if isinstance(name, bytes) else name.encode()
        self.send(struct.pack('<H', len(name)), name)
        return self.read(1)

    def frame(self):
        """Returns the bytes of the next frame other than a ping; none at the end of the stream."""
        while True:
            header = self.read(6)
            if header[:1] == bytes([NOP]):
                assert header == bytes(6)
                continue
            if len(header) < 6 or header[0] == ACK:
                return header
            return header + self.read(struct.unpack('<I', header[1:5])[0])

    def frames(self, count):
        return [self.frame() for _ in range(count)]

    def do(self, code, body=b'', qos=1):
        """Performs an operation and returns the code of its acknowledgement, which must be the next frame."""
        self.next_id += 1
        self.send(operation(code, body, qos, self.next_id))
        frame = self.frame()
        assert frame[:5] == ack(self.next_id)[:5], frame
        return frame[5]

    def is_quiet(self):
        """Returns whether no unread frame has been delivered: the next frame must be the answer to
        a harmless operation."""
        self.next_id += 1
        self.send(operation(UNSUBSCRIBE, b'never/subscribed', 1, self.next_id))
        return self.frame() == ack(self.next_id)

    def ended(self):
        """Waits for the end of the stream, and returns whether no frame came before it."""
        return self.frame() == b''
