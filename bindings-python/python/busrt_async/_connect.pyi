from collections.abc import Awaitable, Callable, Generator
from types import TracebackType
from typing import Any
from busrt._base import _Address, _HasFileno
from busrt._codec import _Codec
from busrt.client import Frame as Frame
from .client import Client

class _Connecting:
    def __init__(self, client: Client) -> None: ...
    def __await__(self) -> Generator[Any, Any, Client]: ...
    async def __aenter__(self) -> Client: ...
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc: BaseException | None = None,
        traceback: TracebackType | None = None,
        /,
    ) -> None: ...

def connect(
    path: _Address,
    name: str,
    *,
    on_frame: Callable[[Frame], Awaitable[object] | None] | None = None,
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
) -> _Connecting: ...
