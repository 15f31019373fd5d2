import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from busrt._rpc import (
    Event as Event,
    Notification as Notification,
    Reply as Reply,
    Request as Request,
    RpcException as RpcException,
    format_rpc_e_msg as format_rpc_e_msg,
)
from busrt._constants import (
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
    on_frame_default as on_frame_default,
)
from busrt.client import _Payload

_Handler = TypeVar("_Handler", bound=Callable[[Event], Awaitable[_Payload] | _Payload])

logger: logging.Logger

async def on_call_default(event: Event) -> _Payload: ...
async def on_notification_default(event: Event) -> None: ...

class Rpc:
    client: Client
    on_frame: Callable[[Frame], Awaitable[object] | None]
    on_call: Callable[[Event], Awaitable[_Payload]]
    on_notification: Callable[[Event], Awaitable[object] | None]
    def __init__(self, client: Client) -> None: ...
    def is_connected(self) -> bool: ...
    def notify(self, target: str, notification: Notification) -> Coroutine[Any, Any, ClientFrame]: ...
    def call0(self, target: str, request: Request) -> Coroutine[Any, Any, ClientFrame]: ...
    async def call(self, target: str, request: Request) -> RpcCallEvent: ...
    async def call_method(
        self, target: str, method: str | bytes, params: _Payload = b"", timeout: float | None = None, qos: int = 1
    ) -> bytes: ...
    def method(self, name: str | None = None) -> Callable[[_Handler], _Handler]: ...

class RpcCallEvent:
    @property
    def completed(self) -> asyncio.Event: ...
    @completed.setter
    def completed(self, event: asyncio.Event) -> None: ...
    @property
    def frame(self) -> Any: ...
    @frame.setter
    def frame(self, value: Any) -> None: ...
    @property
    def error(self) -> Exception | None: ...
    @error.setter
    def error(self, value: Exception | None) -> None: ...
    def __init__(self) -> None: ...
    def __del__(self) -> None: ...
    def is_completed(self) -> bool: ...
    async def wait_completed(self, timeout: float | None = None) -> RpcCallEvent: ...
    def get_payload(self) -> bytes: ...
    def is_empty(self) -> bool: ...
