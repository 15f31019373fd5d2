from types import TracebackType
from typing import Any
from typing_extensions import Self

import busrt

class Broker:
    _broker: busrt.Broker
    def __init__(
        self,
        *,
        timeout: float = ...,
        queue_size: int = ...,
        queue_bytes: int = ...,
        queue_total: int = ...,
        slow: str = ...,
        hold: float = ...,
        stall: float = ...,
        max_payload: int = ...,
        max_name: int = ...,
        max_topic: int = ...,
        max_levels: int = ...,
        max_subscriptions: int = ...,
        max_connections: int | None = ...,
        max_handshakes: int = ...,
        force_register: bool = ...,
        buf_size: int = ...,
        socket_mode: int | None = ...,
        drain: float = ...,
    ) -> None: ...
    async def listen(self, address: str) -> str: ...
    def clients(self) -> list[str]: ...
    def client_stats(self) -> list[dict[str, Any]]: ...
    def stats(self) -> dict[str, int]: ...
    def disconnect(self, name: str) -> bool: ...
    async def shutdown(self) -> None: ...
    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc: BaseException | None = None,
        traceback: TracebackType | None = None,
        /,
    ) -> None: ...
