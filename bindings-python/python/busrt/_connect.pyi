from collections.abc import Callable
from ._base import _Address, _HasFileno
from ._codec import _Codec
from .client import Client, Frame

def connect(
    path: _Address,
    name: str,
    *,
    on_frame: Callable[[Frame], object] | None = None,
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
) -> Client: ...
