import logging
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any
from typing_extensions import Self

from ._base import ClientBase
from ._codec import Decoded
from ._events import ConnectionEvent
from ._topics import QueueHandler, TopicHandler
from .client import ClientFrame, Frame

logger: logging.Logger

def start_thread(target: Callable[..., object], *args: Any) -> None: ...

class TopicCallback(TopicHandler):
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc: BaseException | None = None,
        traceback: TracebackType | None = None,
        /,
    ) -> None: ...

class TopicQueue(QueueHandler, TopicCallback):
    def __init__(self, client: Any, mask: str, subscribe: bool, maxsize: int, codec: Any) -> None: ...
    def get(self, timeout: float | None = None) -> Frame | Decoded: ...
    def __iter__(self) -> Iterator[Frame | Decoded]: ...

class Feeds(ClientBase[None, ClientFrame, TopicCallback, TopicQueue]):
    def events(self, timeout: float | None = None) -> Iterator[ConnectionEvent]: ...
