import logging
import os
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Protocol, Union
from typing_extensions import Self, TypeAlias, disjoint_base

from ._constants import (
    ERR_BUSY as ERR_BUSY,
    ERR_CLIENT_NOT_REGISTERED as ERR_CLIENT_NOT_REGISTERED,
    ERR_DATA as ERR_DATA,
    ERR_IO as ERR_IO,
    ERR_NOT_DELIVERED as ERR_NOT_DELIVERED,
    ERR_NOT_SUPPORTED as ERR_NOT_SUPPORTED,
    ERR_OTHER as ERR_OTHER,
    ERR_TIMEOUT as ERR_TIMEOUT,
    GREETINGS as GREETINGS,
    OP_ACK as OP_ACK,
    OP_BROADCAST as OP_BROADCAST,
    OP_EXCLUDE as OP_EXCLUDE,
    OP_MESSAGE as OP_MESSAGE,
    OP_NOP as OP_NOP,
    OP_PUBLISH as OP_PUBLISH,
    OP_PUBLISH_FOR as OP_PUBLISH_FOR,
    OP_SUBSCRIBE as OP_SUBSCRIBE,
    OP_UNEXCLUDE as OP_UNEXCLUDE,
    OP_UNSUBSCRIBE as OP_UNSUBSCRIBE,
    PING_FRAME as PING_FRAME,
    PROTOCOL_VERSION as PROTOCOL_VERSION,
    RESPONSE_OK as RESPONSE_OK,
    QoS as QoS,
)

logger: logging.Logger

_Payload: TypeAlias = Union[bytes, bytearray, memoryview, str, None]

class _HasFileno(Protocol):
    def fileno(self) -> int: ...

def on_frame_default(frame: Frame) -> None: ...

class Frame:
    payload: Any
    type: int
    qos: int
    header: bytes | None
    topic: Any
    sender: str
    primary_sender: str
    def __new__(cls, *_args: Any, **_kwargs: Any) -> Self: ...
    def __init__(self, payload: _Payload = None, tp: int | None = None, qos: int | None = None) -> None: ...
    def __getstate__(self) -> dict[str, Any]: ...
    def __setstate__(self, state: dict[str, Any]) -> None: ...

@disjoint_base
class ClientFrame:
    qos: int
    result: Any
    completed: Any
    def __new__(cls, *_args: Any, **_kwargs: Any) -> Self: ...
    def __init__(self, qos: int) -> None: ...
    def is_completed(self) -> bool: ...
    def wait_completed(self, timeout: float | None = None) -> int: ...

class Client:
    path: str | os.PathLike[str]
    name: str
    buf_size: int
    timeout: float | None
    ping_interval: float
    on_frame: Callable[[Frame], object]
    @property
    def connected(self) -> bool: ...
    @connected.setter
    def connected(self, value: bool) -> None: ...
    def __init__(
        self, path: str | os.PathLike[str], name: str, *,
        reconnect: bool | tuple[float, float, int | None] = ..., timeout: float | None = ...,
        while_down: str | tuple[str, float] = ..., write_through: bool = ..., overflow: str = ...,
        inbox_bytes: int = ..., queue_size: int = ..., queue_bytes: int = ..., silence: float | None = ...,
        busy_poll: float | None = ..., fd: int | _HasFileno | None = ...,
    ) -> None: ...
    def __getstate__(self) -> dict[str, Any]: ...
    def __setstate__(self, state: dict[str, Any]) -> None: ...
    def __setattr__(self, name: str, value: Any) -> None: ...
    def is_connected(self) -> bool: ...
    def connect(self) -> None: ...
    def disconnect(self) -> None: ...
    def send(self, target: str | None = None, frame: Any = None) -> ClientFrame: ...
    def subscribe(self, topics: str | list[str]) -> ClientFrame: ...
    def unsubscribe(self, topics: str | list[str]) -> ClientFrame: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, exc_type: type[BaseException] | None = None, exc: BaseException | None = None,
        traceback: TracebackType | None = None, /,
    ) -> None: ...
    def publish(
        self, topic: str, payload: _Payload = b"", qos: int = ..., timeout: float | None = None
    ) -> None: ...
    def send_message(
        self, target: str, payload: _Payload = b"", qos: int = ..., timeout: float | None = None
    ) -> None: ...
    def broadcast(
        self, mask: str, payload: _Payload = b"", qos: int = ..., timeout: float | None = None
    ) -> None: ...
    def publish_for(
        self, topic: str, receiver: str, payload: _Payload = b"", qos: int = ..., timeout: float | None = None
    ) -> None: ...
    def exclude(self, topics: str | list[str], qos: int = ..., timeout: float | None = None) -> None: ...
    def unexclude(self, topics: str | list[str], qos: int = ..., timeout: float | None = None) -> None: ...
    def flush(self, timeout: float | None = None) -> bool: ...
    def drain(self, timeout: float = 5) -> bool: ...
    def stats(self) -> dict[str, int]: ...
    def secondary(self, suffix: str | None = None) -> Self: ...
    def batches(self, most: int = ..., timeout: float | None = None) -> Iterator[list[Frame]]: ...
    def __iter__(self) -> Iterator[Frame]: ...

def connect(
    path: str | os.PathLike[str], name: str, *, on_frame: Callable[[Frame], object] | None = None,
        reconnect: bool | tuple[float, float, int | None] = ..., timeout: float | None = ...,
        while_down: str | tuple[str, float] = ..., write_through: bool = ..., overflow: str = ...,
        inbox_bytes: int = ..., queue_size: int = ..., queue_bytes: int = ..., silence: float | None = ...,
        busy_poll: float | None = ..., fd: int | _HasFileno | None = ...,
) -> Client: ...
