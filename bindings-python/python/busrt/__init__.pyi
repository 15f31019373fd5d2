from types import TracebackType

from . import client as client, rpc as rpc
from ._constants import QoS as QoS
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
from ._connect import connect as connect
from .client import Client as Client, ClientFrame as ClientFrame, Frame as Frame
from .rpc import Rpc as Rpc, RpcException as RpcException
from typing_extensions import Self, final

__version__: str

@final
class Broker:
    def __new__(cls) -> Self: ...
    def listen(self, address: str) -> str: ...
    def clients(self) -> list[str]: ...
    def disconnect(self, name: str) -> bool: ...
    def shutdown(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, exc_type: type[BaseException] | None = None, exc: BaseException | None = None,
        traceback: TracebackType | None = None, /,
    ) -> None: ...
