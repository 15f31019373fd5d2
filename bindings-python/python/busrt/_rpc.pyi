from typing import Any

from ._base import _Payload
from ._errors import BusError
from .client import Frame

class RpcException(BusError):
    rpc_error_code: int
    rpc_error_payload: Any
    def __init__(self, msg: _Payload = '', code: int = -32603) -> None: ...

def format_rpc_e_msg(e: BaseException) -> Any: ...
def error_of(e: BaseException) -> tuple[int, Any]: ...
def answer_error(responder: Any, e: BaseException) -> None: ...
def parse(frame: Any) -> Event | None: ...

class Event:
    tp: int | None
    frame: Frame
    method: bytes
    call_id: int
    def __init__(self, tp: int | None, frame: Any, payload_pos: int) -> None: ...
    def get_payload(self) -> bytes: ...

class Notification:
    payload: _Payload
    type: int
    qos: int
    header: bytes | None
    def __init__(self, payload: _Payload = b'') -> None: ...

class Request:
    payload: _Payload
    type: int
    qos: int
    method: bytes
    header: bytes | None
    def __init__(self, method: str | bytes, params: _Payload = b'') -> None: ...

class Reply:
    payload: _Payload
    type: int
    qos: int
    header: bytes | None
    def __init__(self, result: _Payload = b'') -> None: ...

class SentReply:
    def reply(self, result: Any) -> None: ...
    def error(self, code: int, data: Any) -> None: ...
    def made(self, call_id: int) -> Reply: ...
