"""The coding of payloads, parameters and results, in both modules."""

import json

from ._rpc import RpcException
from ._rpc_constants import RPC_ERROR_CODE_PARSE


class _Bytes:
    """No coding: overrides the codec of a client or an Rpc."""

    name = 'bytes'

    @staticmethod
    def dumps(value):
        return value

    loads = dumps


class _Json:
    name = 'json'

    @staticmethod
    def dumps(value):
        return json.dumps(value, separators=(',', ':')).encode()

    loads = staticmethod(json.loads)


class _MsgPack:
    name = 'msgpack'

    def __init__(self):
        try:
            import msgpack
        except ImportError:
            raise ImportError("the codec 'msgpack' needs the package msgpack: pip install 'busrt[msgpack]'") from None
        self.dumps = msgpack.packb
        self._unpackb = msgpack.unpackb

    def loads(self, data):
        return self._unpackb(data, strict_map_key=False)


_made = {'bytes': _Bytes, 'json': _Json}


def find(codec, default=None):
    """The codec of that name: 'msgpack', 'json' or 'bytes', which is no coding; or an object that has `dumps` (which
    returns bytes) and `loads`. For None the default."""
    if codec is None:
        return default
    try:
        made = _made.get(codec)
    except TypeError:
        made = None
    if made is not None:
        return made
    if codec == 'msgpack':
        made = _made[codec] = _MsgPack()
        return made
    if hasattr(codec, 'dumps') and hasattr(codec, 'loads'):
        return codec
    raise ValueError(f'unknown codec: {codec!r}')


def encode(codec, value):
    """The bytes of a value. Without a codec the value is returned; None and empty bytes are empty."""
    if codec is None:
        return value
    return b'' if value is None or isinstance(value, bytes) and not value else codec.dumps(value)


def decode(codec, data):
    """The value of bytes. Without a codec the bytes are returned; empty bytes are None."""
    if codec is None or codec is _Bytes:
        return data
    return codec.loads(data) if data else None


def decode_params(codec, event):
    """What the handler of a method gets: the event, or its decoded parameters."""
    if codec is None:
        return event
    try:
        return decode(codec, event.get_payload())
    except Exception as e:
        raise RpcException(f'invalid parameters: {e}', RPC_ERROR_CODE_PARSE) from e


class Decoded:
    """A received frame or notification whose payload is decoded: what handlers and queues with a codec get.

    `payload` is the value, None if the payload is empty. `frame` is the received frame; `sender`, `primary_sender` and
    `topic` are those of the frame.
    """

    def __init__(self, frame, payload):
        self.frame = frame
        self.payload = payload

    @property
    def sender(self):
        """The name of the client that has sent the frame."""
        return self.frame.sender

    @property
    def primary_sender(self):
        """The same without the suffix of a secondary client."""
        return self.frame.primary_sender

    @property
    def topic(self):
        """The topic of a publication, else None."""
        return self.frame.topic

    def __repr__(self):
        return f'<Decoded from {self.sender!r} topic={self.topic!r} payload={self.payload!r}>'
