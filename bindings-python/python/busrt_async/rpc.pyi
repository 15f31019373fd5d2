import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

from busrt._base import _Payload
from busrt._codec import _Codec
from busrt._rpc import (
    Event as Event,
    Notification as Notification,
    Reply as Reply,
    Request as Request,
    RpcException as RpcException,
    format_rpc_e_msg as format_rpc_e_msg,
)
from busrt._rpc_base import RpcBase, RpcCallEventBase
from busrt._rpc_constants import *

from ._remote_items import RemoteItems
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

logger: logging.Logger

async def on_call_default(event: Event) -> _Payload: ...
async def on_notification_default(event: Event) -> None: ...

class Rpc(RpcBase[Coroutine[Any, Any, None], Coroutine[Any, Any, ClientFrame]]):
    client: Client
    on_frame: Callable[[Frame], Awaitable[object] | None]
    on_call: Callable[[Event], Awaitable[_Payload]]
    on_notification: Callable[[Event], Awaitable[object] | None]
    async def call(self, target: str, request: Request) -> RpcCallEvent: ...
    async def call_method(
        self,
        target: str,
        method: str | bytes,
        params: Any = b'',
        timeout: float | None = None,
        qos: int = 1,
        codec: _Codec = None,
    ) -> Any: ...
    def cursor(
        self, target: str, method: str | bytes, params: Any = b'', bulk: int = 100, codec: _Codec = None
    ) -> RemoteItems: ...

class RpcCallEvent(RpcCallEventBase):
    @property
    def completed(self) -> asyncio.Event: ...
    @completed.setter
    def completed(self, event: asyncio.Event) -> None: ...
    def __del__(self) -> None: ...
    async def wait_completed(self, timeout: float | None = None) -> RpcCallEvent: ...
