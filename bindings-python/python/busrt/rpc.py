"""RPC for plain threads."""

import logging
import threading
import time as _time

from ._constants import (
    RPC_ERROR, RPC_ERROR_CODE_INTERNAL, RPC_ERROR_CODE_INVALID_METHOD_PARAMS, RPC_ERROR_CODE_INVALID_REQUEST,
    RPC_ERROR_CODE_METHOD_NOT_FOUND, RPC_ERROR_CODE_PARSE, RPC_ERROR_REPLY_HEADER, RPC_NOTIFICATION,
    RPC_NOTIFICATION_HEADER, RPC_REPLY, RPC_REPLY_HEADER, RPC_REQUEST, RPC_REQUEST_HEADER)
from ._errors import BusTimeoutError as _BusTimeoutError
from ._rpc import (
    Event, Notification, Reply, Request, RpcException, answer_error as _answer_error, format_rpc_e_msg, parse as _parse)
from .client import ERR_IO, ERR_TIMEOUT, OP_MESSAGE, RESPONSE_OK, _CallFrame, _log, on_frame_default

logger = logging.getLogger('busrt.rpc')


def on_call_default(event):
    raise RpcException('RPC Engine not initialized', RPC_ERROR_CODE_METHOD_NOT_FOUND)


def on_notification_default(event):
    pass


class Rpc:
    """Calls methods of other clients and answers their calls, over a client that it takes over.

    Handlers, to be set on the instance or on the class: `on_frame(frame)` for publications and broadcasts,
    `on_notification(event)`, and `on_call(event)`, whose result (bytes, str or None) is the reply and whose exception is
    an error reply. Frames and notifications are each handled in the order received, calls concurrently, all of them on
    threads of the client.
    """

    _bus_is_busrt_rpc = True
    on_frame = staticmethod(on_frame_default)
    on_call = staticmethod(on_call_default)
    on_notification = staticmethod(on_notification_default)
    _bus_methods = None

    def __init__(self, client):
        self.client = client
        client.on_frame = self._handle_frame

    def is_connected(self):
        """Whether the client is connected."""
        return self.client.is_connected()

    def notify(self, target, notification):
        """Sends a notification. Returns a ClientFrame."""
        return self.client.send(target, notification)

    def call0(self, target, request):
        """Calls a method that sends no reply. Returns a ClientFrame."""
        request.header = RPC_REQUEST_HEADER + b'\x00\x00\x00\x00' + request.method + b'\x00'
        return self.client.send(target, request)

    def call(self, target, request):
        """Calls a method. Returns an RpcCallEvent, whose `wait_completed` raises what has gone wrong."""
        event = RpcCallEvent()
        try:
            # How long the acknowledgement is awaited, and how long that takes from now on.
            timeout = self.client.timeout
            event._until = None if timeout is None else _time.monotonic() + timeout
            self.client.send(target, _CallFrame(request, event))
        except Exception as e:
            event._fail(RpcException(str(e), code=-32000 - ERR_IO))
        return event

    # Names that no program in the field uses.

    def call_method(self, target, method, params=b'', timeout=None, qos=1):
        """Calls a method and returns the payload of its reply. Waits at most `timeout` seconds, the client's timeout
        unless given. Raises RpcException, or TimeoutError."""
        request = Request(method, params)
        request.qos = qos
        return self.call(target, request).wait_completed(
            self.client.timeout if timeout is None else timeout).get_payload()

    def method(self, name=None):
        """Decorator: the function answers calls of that method. It is called with the event; what it returns is the
        reply. Calls of other methods go to `on_call`."""
        def register(function):
            methods = dict(self._bus_methods or {})
            methods[(name or function.__name__).encode()] = function
            self._bus_methods = methods
            return function
        return register

    # The client calls these methods.

    def _handle_frame(self, frame):
        """Handles a frame that came through another client, or before the client knew of this."""
        kind = _parse(frame)
        if kind is None or kind.tp == RPC_NOTIFICATION:
            try:
                self.on_frame(frame) if kind is None else self.on_notification(kind)
            except BaseException:
                _log(logger, 'a handler has raised')
        elif kind.tp == RPC_REQUEST:
            threading.Thread(
                target=self._bus_answer, args=(kind, _SentReply(self, frame.sender, kind.call_id)), name='busrt',
                daemon=True).start()

    def _bus_on_frame_of(self, client):
        return lambda frame: self.on_frame(frame)

    def _bus_on_notification_of(self, client):
        return lambda frame: self.on_notification(Event(RPC_NOTIFICATION, frame, 1))

    def _bus_serve_calls(self, client, source):
        while True:
            request = source.take_request()
            if request is None:
                return
            if source.idle() == 0:
                threading.Thread(target=self._bus_serve_calls, args=(client, source), name='busrt', daemon=True).start()
            frame, responder, method, call_id, position = request
            event = Event(RPC_REQUEST, frame, position)
            event.call_id = call_id
            event.method = method
            self._bus_answer(event, responder)
            request = event = frame = responder = None
            if source.idle() >= _MAX_IDLE:
                return

    def _bus_answer(self, event, responder):
        try:
            methods = self._bus_methods
            handler = methods.get(event.method) if methods else None
            result = self.on_call(event) if handler is None else handler(event)
            if event.call_id != 0:
                responder.reply(result)
        except BaseException as e:
            if event.call_id == 0:
                _log(logger, 'the handler of a call has raised')
                return
            _answer_error(responder, e)


# A thread that has handled a call ends if so many others wait for one.
_MAX_IDLE = 8


class _SentReply:
    """Answers a request by a message."""

    def __init__(self, rpc, target, call_id):
        self._rpc, self._target, self._id = rpc, target, call_id.to_bytes(4, 'little')

    def reply(self, result):
        reply = Reply(b'' if result is None else result)
        reply.header = RPC_REPLY_HEADER + self._id
        self._rpc.client.send(self._target, reply)

    def error(self, code, data):
        reply = Reply(data)
        reply.header = RPC_ERROR_REPLY_HEADER + self._id + code.to_bytes(2, 'little', signed=True)
        self._rpc.client.send(self._target, reply)


class RpcCallEvent:
    """A call under way."""

    # Set once the request is sent.
    _call = None
    _until = None
    _done = False
    _frame = None
    _error = None
    _event = None

    def __init__(self):
        pass

    def _start(self, link, target, request, timeout):
        method = request.method
        self._call = link.call(target, method.encode() if isinstance(method, str) else method, request, timeout)
        return _CallAcknowledgement(self)

    def _fail(self, error):
        self._error = error
        self._finish()

    def _finish(self):
        self._call = None
        self._done = True
        event = self._event
        if event is not None:
            event.set()

    def _acknowledged(self):
        """Waits for the acknowledgement of the request, within the client's timeout at the time of the call."""
        call = self._call
        if call is None:
            return
        left = None if self._until is None else max(self._until - _time.monotonic(), 0)
        code = call.acknowledged(left)
        if self._done:
            return
        if code is None:
            self._fail(RpcException('RPC timeout', code=-32000 - ERR_TIMEOUT))
        elif code != RESPONSE_OK:
            self._fail(RpcException('RPC error', code=-32000 - code))

    def _settle(self, timeout):
        """Waits for the outcome. Returns whether there is one."""
        if self._done:
            return True
        call = self._call
        if call is None:
            return self._own_event().wait(timeout) or self._done
        if not call.is_completed():
            self._acknowledged()
            if self._done:
                return True
        outcome = call.outcome(timeout)
        if outcome is None:
            return False
        frame, code, data = outcome
        if not self._done:
            self._frame = frame
            if data is None:
                self._finish()
            else:
                self._fail(RpcException(data.decode() if frame is None else data, code=code))
        return True

    def _own_event(self):
        event = self._event
        if event is None:
            event = self._event = threading.Event()
            if self._done:
                event.set()
        return event

    @property
    def completed(self):
        """An event that is set when the call is completed."""
        if self._call is None:
            return self._own_event()
        return _CallCompleted(self)

    @completed.setter
    def completed(self, value):
        self._event = value

    @property
    def frame(self):
        """The frame of the reply, or None."""
        self._settle(0)
        return self._frame

    @frame.setter
    def frame(self, value):
        self._frame = value

    @property
    def error(self):
        """The failure of the call, or None."""
        self._settle(0)
        return self._error

    @error.setter
    def error(self, value):
        self._error = value

    def is_completed(self):
        """Whether the reply is there or the call has failed."""
        return self._settle(0) or (self._event is not None and self._event.is_set())

    def wait_completed(self, timeout=None):
        """Waits for the reply, at most `timeout` seconds (None is no limit), and returns itself. Raises RpcException, or
        TimeoutError."""
        if not self._settle(timeout):
            raise _BusTimeoutError()
        if self._error is not None:
            raise self._error
        return self

    def get_payload(self):
        """The payload of the reply, bytes."""
        return self.frame.payload[5:]

    def is_empty(self):
        """Whether the payload of the reply is empty."""
        return len(self.frame.payload) <= 5


class _CallCompleted:
    """The event of a call: as `threading.Event`, but set by the call."""

    def __init__(self, call):
        self._call = call

    def is_set(self):
        return self._call.is_completed()

    def wait(self, timeout=None):
        return self._call._settle(timeout)

    def set(self):
        self._call._finish()


class _CallAcknowledgement:
    """What `Client.send` returns for the request of a call, to an override of it."""

    def __init__(self, event):
        self._event = event
        self.qos = 1

    @property
    def result(self):
        return self._code(0) or 0

    def _code(self, timeout):
        call = self._event._call
        return RESPONSE_OK if call is None else call.acknowledged(timeout)

    def is_completed(self):
        return self._code(0) is not None

    def wait_completed(self, timeout=None):
        code = self._code(timeout)
        if code is None:
            raise _BusTimeoutError()
        return code
