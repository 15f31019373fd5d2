"""RPC for plain threads."""

import asyncio as _asyncio
import contextvars as _contextvars
import logging
import threading
import time as _time

from . import _codec
from ._base import log_exception as _log
from ._errors import BusTimeoutError as _BusTimeoutError
from ._feeds import start_thread as _start_thread
from ._rpc import (
    Event,
    Notification,
    Reply,
    Request,
    RpcException,
    SentReply as _SentReply,
    answer_error as _answer_error,
    error_of as _error_of,
    format_rpc_e_msg,
    parse as _parse,
)
from ._remote_items import RemoteItems as _RemoteItems
from ._rpc_base import (
    RpcBase as _RpcBase,
    RpcCallEventBase as _RpcCallEventBase,
    notification_event as _notification_event,
    request_event as _request_event,
)
from ._rpc_constants import *
from .client import ERR_IO, ERR_TIMEOUT, OP_MESSAGE, RESPONSE_OK, _CallFrame, on_frame_default

logger = logging.getLogger('busrt.rpc')


def on_call_default(event):
    raise RpcException('RPC Engine not initialized', RPC_ERROR_CODE_METHOD_NOT_FOUND)


def on_notification_default(event):
    pass


class Rpc(_RpcBase):
    """Calls methods of other clients and answers their calls, over a client that it takes over.

    Handlers, to be set on the instance or on the class: `on_frame(frame)` for publications and broadcasts,
    `on_notification(event)`, and `on_call(event)`, whose result (bytes, str or None) is the reply and whose exception is
    an error reply. Frames and notifications are each handled in the order received, calls concurrently, all of them on
    threads of the client.
    """

    on_frame = staticmethod(on_frame_default)
    on_call = staticmethod(on_call_default)
    on_notification = staticmethod(on_notification_default)

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

    def call_method(self, target, method, params=b'', timeout=None, qos=1, codec=None):
        """Calls a method and returns the payload of its reply. Waits at most `timeout` seconds, the client's timeout
        unless given.

        With a `codec` ('msgpack', 'json', 'bytes', or an object with `dumps` and `loads`; the Rpc's unless given) `params`
        is any value and the result is decoded; None and an empty payload stand for each other. Raises RpcException (what
        the handler has raised, or a lost connection), TimeoutError, and what the codec raises.
        """
        request, codec = self._bus_request(method, params, qos, codec)
        payload = self.call(target, request).wait_completed(self.client.timeout if timeout is None else timeout).get_payload()
        return _codec.decode(codec, payload)

    def cursor(self, target, method, params=b'', bulk=100, codec=None):
        """Calls a method that returns a cursor. Returns an iterable of its items: bytes that are MessagePack, or values
        with `codec='msgpack'`, which encodes the parameters, too; the Rpc's codec unless given. `bulk` items are asked for
        at once. The client's timeout holds for each call. Raises RpcException, TimeoutError, ConnectionError, here and
        while iterating."""
        arguments, codec = self._bus_cursor_arguments(target, method, params, codec)
        return _RemoteItems(self.client._bus_need_link().cursor(*arguments), bulk, codec)

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
            _start_thread(self._bus_answer_by_message, kind)

    def _bus_answer_by_message(self, event):
        reply = _SentReply()
        self._bus_answer(event, reply)
        if event.call_id != 0:
            self.client.send(event.frame.sender, reply.made(event.call_id))

    def _bus_on_frame_of(self, client):
        return lambda frame: self.on_frame(frame)

    def _bus_on_notification_of(self, client):
        return lambda frame: self.on_notification(_notification_event(frame))

    def _bus_serve_calls(self, client, source):
        context = _contextvars.copy_context()
        while True:
            request = source.take_request()
            if request is None:
                return
            if source.idle() == 0:
                context.run(_start_thread, self._bus_serve_calls, client, source)
            event, responder = _request_event(request)
            # What a handler sets in its context is not seen by others.
            context.copy().run(self._bus_answer, event, responder)
            request = event = responder = None
            if source.idle() >= _MAX_IDLE:
                return

    def _bus_answer(self, event, responder):
        try:
            result, codec = self._bus_invoke(event)
            if hasattr(result, '__await__'):
                result = _asyncio.run(_awaited(result))
            result = self._bus_reply_of(result, codec)
            if event.call_id != 0:
                responder.reply(result)
        except BaseException as e:
            if event.call_id == 0:
                _log(logger, 'the handler of a call has raised')
                return
            _answer_error(responder, e)

    @staticmethod
    def _bus_supply(answering):
        """Supplies the items that a call for items asks for. Returns the reply."""
        while True:
            step = answering.step()
            if isinstance(step, bytes):
                return step
            source, count = step
            try:
                answering.supply(source.take(count))
            except Exception as e:
                answering.fail(*_error_of(e))


async def _awaited(awaitable):
    return await awaitable


# A thread that has handled a call ends if so many others wait for one.
_MAX_IDLE = 8


class RpcCallEvent(_RpcCallEventBase):
    """A call under way. May be used from any thread."""

    # Set once the request is sent.
    _call = None
    _until = None

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

    def _look(self):
        return self._settle(0)

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
