"""What RPC is made of, in both modules."""

from ._constants import OP_MESSAGE
from ._errors import BusError
from ._rpc_constants import (
    RPC_ERROR_CODE_INTERNAL,
    RPC_ERROR_REPLY_HEADER,
    RPC_NOTIFICATION,
    RPC_NOTIFICATION_HEADER,
    RPC_REPLY_HEADER,
    RPC_REQUEST,
)


class RpcException(BusError):
    """The failure of a call. `rpc_error_code` is its code, `rpc_error_payload` what came with it: bytes from a peer."""

    def __init__(self, msg='', code=RPC_ERROR_CODE_INTERNAL):
        self.rpc_error_code = code
        self.rpc_error_payload = msg
        if isinstance(msg, (bytes, bytearray, memoryview)):
            msg = bytes(msg).decode(errors='backslashreplace')
        super().__init__(msg)

    def __reduce__(self):
        return type(self)._remake, (type(self), self.args, dict(self.__dict__))

    @staticmethod
    def _remake(cls, args, state):
        error = cls.__new__(cls, *args)
        error.__dict__.update(state)
        return error

    def __str__(self):
        return f'{super().__str__()} (code: {self.rpc_error_code})'


def format_rpc_e_msg(e):
    """What an error reply for this exception carries."""
    if isinstance(e, RpcException):
        return e.rpc_error_payload
    return str(e)


def error_of(e):
    """Code and data of the error reply for an exception."""
    code = getattr(e, 'rpc_error_code', None)
    if not isinstance(code, int) or not -0x8000 <= code <= 0x7FFF:
        code = RPC_ERROR_CODE_INTERNAL
    return code, format_rpc_e_msg(e)


def answer_error(responder, e):
    """Answers a request with an exception, whatever that is."""
    try:
        responder.error(*error_of(e))
        return
    except Exception:
        pass
    # The code or the text of the exception cannot be sent.
    try:
        text = repr(e)
    except Exception:
        text = type(e).__name__
    responder.error(RPC_ERROR_CODE_INTERNAL, text)


def parse(frame):
    """The event in a message; None in everything that is no message, and an event of type None in what is no request and
    no notification."""
    if frame.type != OP_MESSAGE:
        return None
    payload = bytes(frame.payload)
    if payload[:1] == b'\x00':
        return Event(RPC_NOTIFICATION, frame, 1)
    if payload[:1] == b'\x01':
        end = payload.find(b'\x00', 5)
        if end >= 0:
            event = Event(RPC_REQUEST, frame, end + 1)
            event.call_id = int.from_bytes(payload[1:5], 'little')
            event.method = payload[5:end]
            return event
    return Event(None, frame, 0)


class Event:
    """A notification or a request. A request has `method` (bytes) and `call_id`, 0 if it wants no reply."""

    def __init__(self, tp, frame, payload_pos):
        self.tp = tp
        self.frame = frame
        self._payload_pos = payload_pos

    def get_payload(self):
        """The payload, bytes."""
        return self.frame.payload[self._payload_pos :]


class Notification:
    """A notification to be sent."""

    def __init__(self, payload=b''):
        self.payload = payload
        self.type = OP_MESSAGE
        self.qos = 1
        self.header = RPC_NOTIFICATION_HEADER


class Request:
    """A call to be made."""

    def __init__(self, method, params=b''):
        self.payload = b'' if params is None else params
        self.type = OP_MESSAGE
        self.qos = 1
        self.method = method.encode() if isinstance(method, str) else method
        self.header = None


class Reply:
    """A reply to be sent."""

    def __init__(self, result=b''):
        self.payload = result
        self.type = OP_MESSAGE
        self.qos = 1
        self.header = None


class SentReply:
    """Holds the answer to a request until it is sent as a message."""

    _header, _payload, _code = RPC_REPLY_HEADER, b'', b''

    def reply(self, result):
        self._payload = _sendable(result)

    def error(self, code, data):
        self._header, self._payload = RPC_ERROR_REPLY_HEADER, _sendable(data)
        self._code = code.to_bytes(2, 'little', signed=True)

    def made(self, call_id):
        reply = Reply(self._payload)
        reply.header = self._header + call_id.to_bytes(4, 'little') + self._code
        return reply


def _sendable(data):
    """What can be a payload. Raises TypeError for anything else."""
    if data is None:
        return b''
    return data if isinstance(data, str) else memoryview(data)
