import os
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar, Union, overload
from typing_extensions import TypeAlias

from . import Broker
from ._codec import _Codec
from ._events import ConnectionEvent

_Payload: TypeAlias = Union[bytes, bytearray, memoryview, str, None]
# What a method yields: in busrt_async it returns a coroutine of that.
_Done = TypeVar('_Done')
_Sent = TypeVar('_Sent')
_Callback = TypeVar('_Callback')
_Queue = TypeVar('_Queue')
_Function = TypeVar('_Function', bound=Callable[[Any], object])
_EventFunction = TypeVar('_EventFunction', bound=Callable[[ConnectionEvent], object])

class _HasFileno(Protocol):
    def fileno(self) -> int: ...

class _HoldsBroker(Protocol):
    _broker: Broker

_Address: TypeAlias = Union[str, os.PathLike[str], Broker, _HoldsBroker]

ITERATION: object

def log_exception(logger: Any, text: str) -> None: ...
def server_of(handler: Any) -> Any: ...

class CallFrame:
    payload: Any
    type: int
    qos: int
    method: bytes
    header: Any
    def __init__(self, request: Any, event: Any) -> None: ...
    def __getattr__(self, name: str) -> Any: ...

class ClientBase(Generic[_Done, _Sent, _Callback, _Queue]):
    path: _Address
    name: str
    buf_size: int
    timeout: float | None
    ping_interval: float
    def __init__(
        self,
        path: _Address,
        name: str,
        *,
        reconnect: bool | tuple[float, float, int | None] = ...,
        timeout: float | None = ...,
        while_down: str | tuple[str, float] = ...,
        write_through: bool = ...,
        overflow: str = ...,
        inbox_bytes: int = ...,
        queue_size: int = ...,
        queue_bytes: int = ...,
        silence: float | None = ...,
        busy_poll: float | None = ...,
        fd: int | _HasFileno | None = ...,
        codec: _Codec = ...,
    ) -> None: ...
    def __getstate__(self) -> dict[str, Any]: ...
    def __setstate__(self, state: dict[str, Any]) -> None: ...
    def __setattr__(self, name: str, value: Any) -> None: ...
    def is_connected(self) -> bool: ...
    def subscribe(self, topics: str | list[str]) -> _Sent: ...
    def unsubscribe(self, topics: str | list[str]) -> _Sent: ...
    def publish(
        self, topic: str, payload: Any = b'', qos: int = ..., timeout: float | None = None, codec: _Codec = None
    ) -> _Done: ...
    def send_message(
        self, target: str, payload: Any = b'', qos: int = ..., timeout: float | None = None, codec: _Codec = None
    ) -> _Done: ...
    def broadcast(
        self, mask: str, payload: Any = b'', qos: int = ..., timeout: float | None = None, codec: _Codec = None
    ) -> _Done: ...
    def publish_for(
        self,
        topic: str,
        receiver: str,
        payload: Any = b'',
        qos: int = ...,
        timeout: float | None = None,
        codec: _Codec = None,
    ) -> _Done: ...
    def exclude(self, topics: str | list[str], qos: int = ..., timeout: float | None = None) -> _Done: ...
    def unexclude(self, topics: str | list[str], qos: int = ..., timeout: float | None = None) -> _Done: ...
    def stats(self) -> dict[str, int]: ...
    @overload
    def on_topic(
        self, mask: str, callback: Callable[[Any], object], *, subscribe: bool = True, codec: _Codec = None
    ) -> _Callback: ...
    @overload
    def on_topic(
        self, mask: str, callback: None = None, *, subscribe: bool = True, codec: _Codec = None
    ) -> Callable[[_Function], _Function]: ...
    def open_queue(self, mask: str, maxsize: int = 1024, *, subscribe: bool = True, codec: _Codec = None) -> _Queue: ...
    def on_event(self, callback: _EventFunction) -> _EventFunction: ...
