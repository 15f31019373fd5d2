import logging
from collections.abc import Callable, Iterator
from typing import Any

from ._remote_items import RemoteItems
from ._base import _Payload
from ._codec import _Codec
from ._rpc import (
    Event as Event,
    Notification as Notification,
    Reply as Reply,
    Request as Request,
    RpcException as RpcException,
    format_rpc_e_msg as format_rpc_e_msg,
)
from ._rpc_base import RpcBase, RpcCallEventBase
from ._rpc_constants import *
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

def on_call_default(event: Event) -> _Payload: ...
def on_notification_default(event: Event) -> None: ...

class Rpc(RpcBase[None, ClientFrame]):
    client: Client
    on_frame: Callable[[Frame], object]
    on_call: Callable[[Event], _Payload]
    on_notification: Callable[[Event], object]
    def call(self, target: str, request: Request) -> RpcCallEvent: ...
    def call_method(
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
    def completed(self) -> Any: ...
    @completed.setter
    def completed(self, value: Any) -> None: ...
    def wait_completed(self, timeout: float | None = None) -> RpcCallEvent: ...
