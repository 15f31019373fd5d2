"""Client of the message bus BUS/RT, for asyncio. `busrt` is the same for plain threads."""

from busrt import (
    AccessError,
    BusConnectionError,
    BusError,
    BusOSError,
    BusTimeoutError,
    ConnectionEvent,
    Cursor,
    Decoded,
    InvalidDataError,
    NotDeliveredError,
    NotRegisteredError,
    NotSupportedError,
    QoS,
    RegistrationError,
    __version__,
)

from . import client, rpc
from ._broker import Broker
from ._feeds import TopicCallback, TopicQueue
from ._connect import connect
from .client import Client, ClientFrame, Frame
from ._remote_items import RemoteItems
from .rpc import Rpc, RpcException
