from busrt import (
    AccessError as AccessError,
    BusConnectionError as BusConnectionError,
    BusError as BusError,
    BusOSError as BusOSError,
    BusTimeoutError as BusTimeoutError,
    ConnectionEvent as ConnectionEvent,
    Cursor as Cursor,
    Decoded as Decoded,
    InvalidDataError as InvalidDataError,
    NotDeliveredError as NotDeliveredError,
    NotRegisteredError as NotRegisteredError,
    NotSupportedError as NotSupportedError,
    RegistrationError as RegistrationError,
    QoS as QoS,
    __version__ as __version__,
)

from . import client as client, rpc as rpc
from ._broker import Broker as Broker
from ._feeds import TopicCallback as TopicCallback, TopicQueue as TopicQueue
from ._connect import connect as connect
from .client import Client as Client, ClientFrame as ClientFrame, Frame as Frame
from ._remote_items import RemoteItems as RemoteItems
from .rpc import Rpc as Rpc, RpcException as RpcException
