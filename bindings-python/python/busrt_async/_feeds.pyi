from collections.abc import AsyncIterator, Coroutine, Generator
from types import TracebackType
from typing import Any
from typing_extensions import Self

from busrt._base import ClientBase
from busrt._codec import Decoded
from busrt._events import ConnectionEvent
from busrt._topics import QueueHandler, TopicHandler
from busrt.client import Frame

from .client import ClientFrame

class TopicCallback(TopicHandler):
    def __await__(self) -> Generator[Any, Any, Self]: ...
    async def close(self) -> None: ...
    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc: BaseException | None = None,
        traceback: TracebackType | None = None,
        /,
    ) -> None: ...

class TopicQueue(QueueHandler, TopicCallback):
    def __init__(self, client: Any, mask: str, subscribe: bool, maxsize: int, codec: Any) -> None: ...
    async def get(self, timeout: float | None = None) -> Frame | Decoded: ...
    def __aiter__(self) -> AsyncIterator[Frame | Decoded]: ...

class Feeds(ClientBase[Coroutine[Any, Any, None], Coroutine[Any, Any, ClientFrame], TopicCallback, TopicQueue]):
    def events(self, timeout: float | None = None) -> AsyncIterator[ConnectionEvent]: ...
