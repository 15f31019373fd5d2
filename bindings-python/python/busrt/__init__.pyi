from types import TracebackType
from typing import Any

from . import client as client, rpc as rpc
from ._codec import Decoded as Decoded
from ._constants import QoS as QoS
from ._cursors import Cursor as Cursor
from ._errors import (
    AccessError as AccessError,
    BusConnectionError as BusConnectionError,
    BusError as BusError,
    BusOSError as BusOSError,
    BusTimeoutError as BusTimeoutError,
    InvalidDataError as InvalidDataError,
    NotDeliveredError as NotDeliveredError,
    NotRegisteredError as NotRegisteredError,
    NotSupportedError as NotSupportedError,
    RegistrationError as RegistrationError,
)
from ._events import ConnectionEvent as ConnectionEvent
from ._feeds import TopicCallback as TopicCallback, TopicQueue as TopicQueue
from ._connect import connect as connect
from .client import Client as Client, ClientFrame as ClientFrame, Frame as Frame
from ._remote_items import RemoteItems as RemoteItems
from .rpc import Rpc as Rpc, RpcException as RpcException
from typing_extensions import Self, final

__version__: str

@final
class Broker:
    def __new__(
        cls,
        *,
        timeout: float = ...,
        queue_size: int = ...,
        queue_bytes: int = ...,
        queue_total: int = ...,
        slow: str = ...,
        hold: float = ...,
        stall: float = ...,
        max_payload: int = ...,
        max_name: int = ...,
        max_topic: int = ...,
        max_levels: int = ...,
        max_subscriptions: int = ...,
        max_connections: int | None = ...,
        max_handshakes: int = ...,
        force_register: bool = ...,
        buf_size: int = ...,
        socket_mode: int | None = ...,
        drain: float = ...,
    ) -> Self: ...
    def listen(self, address: str) -> str: ...
    def clients(self) -> list[str]: ...
    def client_stats(self) -> list[dict[str, Any]]: ...
    def stats(self) -> dict[str, int]: ...
    def disconnect(self, name: str) -> bool: ...
    def shutdown(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc: BaseException | None = None,
        traceback: TracebackType | None = None,
        /,
    ) -> None: ...
