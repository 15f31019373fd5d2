from typing import Any

class ConnectionEvent:
    kind: str | None
    reason: str | None
    last: bool | None
    attempt: int | None
    delay: float | None
    frames: int | None
    def __init__(self, **attributes: Any) -> None: ...
    def __eq__(self, other: object) -> bool: ...
    __hash__: None  # type: ignore[assignment]
