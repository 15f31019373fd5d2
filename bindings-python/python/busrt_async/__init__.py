"""Client of the message bus BUS/RT, for asyncio. `busrt` is the same for plain threads."""

from busrt import (
    AccessError, Broker, BusConnectionError, BusError, BusOSError, BusTimeoutError, InvalidDataError,
    NotDeliveredError, NotRegisteredError, NotSupportedError, QoS, RegistrationError, __version__)

from . import client, rpc
from ._connect import connect
from .client import Client, ClientFrame, Frame
from .rpc import Rpc, RpcException
