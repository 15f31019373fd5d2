import logging
from collections.abc import Callable
from typing import Any, TypeVar

from ._rpc import (
    Event as Event,
    Notification as Notification,
    Reply as Reply,
    Request as Request,
    RpcException as RpcException,
    format_rpc_e_msg as format_rpc_e_msg,
)
from ._constants import (
    RPC_ERROR as RPC_ERROR,
    RPC_ERROR_CODE_INTERNAL as RPC_ERROR_CODE_INTERNAL,
    RPC_ERROR_CODE_INVALID_METHOD_PARAMS as RPC_ERROR_CODE_INVALID_METHOD_PARAMS,
    RPC_ERROR_CODE_INVALID_REQUEST as RPC_ERROR_CODE_INVALID_REQUEST,
    RPC_ERROR_CODE_METHOD_NOT_FOUND as RPC_ERROR_CODE_METHOD_NOT_FOUND,
    RPC_ERROR_CODE_PARSE as RPC_ERROR_CODE_PARSE,
    RPC_ERROR_REPLY_HEADER as RPC_ERROR_REPLY_HEADER,
    RPC_NOTIFICATION as RPC_NOTIFICATION,
    RPC_NOTIFICATION_HEADER as RPC_NOTIFICATION_HEADER,
    RPC_REPLY as RPC_REPLY,
    RPC_REPLY_HEADER as RPC_REPLY_HEADER,
    RPC_REQUEST as RPC_REQUEST,
    RPC_REQUEST_HEADER as RPC_REQUEST_HEADER,
)
from .client import (
    ERR_IO as ERR_IO,
    ERR_TIMEOUT as ERR_TIMEOUT,
    OP_MESSAGE as OP_MESSAGE,
    RESPONSE_OK as RESPONSE_OK,
    Client,
    ClientFrame,
    Frame,
    _Payload,
    on_frame_default as on_frame_default,
)

_Handler = TypeVar("_Handler", bound=Callable[[Event], _Payload])

logger: logging.Logger

def on_call_default(event: Event) -> _Payload: ...
def on_notification_default(event: Event) -> None: ...

class Rpc:
    client: Client
    on_frame: Callable[[Frame], object]
    on_call: Callable[[Event], _Payload]
    on_notification: Callable[[Event], object]
    def __init__(self, client: Client) -> None: ...
    def is_connected(self) -> bool: ...
    def notify(self, target: str, notification: Notification) -> ClientFrame: ...
    def call0(self, target: str, request: Request) -> ClientFrame: ...
    def call(self, target: str, request: Request) -> RpcCallEvent: ...
    def call_method(
        self, target: str, method: str | bytes, params: _Payload = b"", timeout: float | None = None, qos: int = 1
    ) -> bytes: ...
    def method(self, name: str | None = None) -> Callable[[_Handler], _Handler]: ...

class RpcCallEvent:
    @property
    def completed(self) -> Any: ...
    @completed.setter
    def completed(self, value: Any) -> None: ...
    @property
    def frame(self) -> Any: ...
    @frame.setter
    def frame(self, value: Any) -> None: ...
    @property
    def error(self) -> Exception | None: ...
    @error.setter
    def error(self, value: Exception | None) -> None: ...
    def __init__(self) -> None: ...
    def is_completed(self) -> bool: ...
    def wait_completed(self, timeout: float | None = None) -> RpcCallEvent: ...
    def get_payload(self) -> bytes: ...
    def is_empty(self) -> bool: ...
