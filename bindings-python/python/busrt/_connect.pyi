import os
from collections.abc import Callable
from .client import Client, Frame, _HasFileno

def connect(
    path: str | os.PathLike[str], name: str, *, on_frame: Callable[[Frame], object] | None = None,
        reconnect: bool | tuple[float, float, int | None] = ..., timeout: float | None = ...,
        while_down: str | tuple[str, float] = ..., write_through: bool = ..., overflow: str = ...,
        inbox_bytes: int = ..., queue_size: int = ..., queue_bytes: int = ..., silence: float | None = ...,
        busy_poll: float | None = ..., fd: int | _HasFileno | None = ...,
) -> Client: ...
