"""The constants of the protocol, in both modules: `busrt.client` and `busrt_async.client` have all of them."""

from enum import IntEnum as _IntEnum

GREETINGS = 0xEB
PROTOCOL_VERSION = 1

OP_NOP = 0
OP_PUBLISH = 1
OP_SUBSCRIBE = 2
OP_UNSUBSCRIBE = 3
OP_EXCLUDE = 4
OP_UNEXCLUDE = 5
OP_PUBLISH_FOR = 6
OP_MESSAGE = 0x12
OP_BROADCAST = 0x13
OP_ACK = 0xFE

RESPONSE_OK = 0x01
ERR_CLIENT_NOT_REGISTERED = 0x71
ERR_DATA = 0x72
ERR_IO = 0x73
ERR_OTHER = 0x74
ERR_NOT_SUPPORTED = 0x75
ERR_BUSY = 0x76
ERR_NOT_DELIVERED = 0x77
ERR_TIMEOUT = 0x78
ERR_ACCESS = 0x79

PING_FRAME = b'\x00' * 9


class QoS(_IntEnum):
    """How an operation is sent: acknowledged by the broker or not, flushed at once on every hop (realtime) or not."""

    NO = 0
    PROCESSED = 1
    REALTIME = 2
    REALTIME_PROCESSED = 3
