"""Client of the message bus BUS/RT, for plain threads. `busrt_async` is the same for asyncio."""

# First: it refuses interpreters in which the extension module must not be loaded.
from . import _life
from ._busrt import Broker, __version__

from . import client, rpc
from ._codec import Decoded
from ._constants import QoS
from ._cursors import Cursor
from ._errors import (
    AccessError,
    BusConnectionError,
    BusError,
    BusOSError,
    BusTimeoutError,
    InvalidDataError,
    NotDeliveredError,
    NotRegisteredError,
    NotSupportedError,
    RegistrationError,
)
from ._events import ConnectionEvent
from ._feeds import TopicCallback, TopicQueue
from ._connect import connect
from .client import Client, ClientFrame, Frame
from ._remote_items import RemoteItems
from .rpc import Rpc, RpcException
