"""RPC for asyncio."""

import asyncio
import logging

from busrt import _codec
from busrt._rpc import (
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
from busrt._rpc_base import (
    RpcBase as _RpcBase,
    RpcCallEventBase as _RpcCallEventBase,
    notification_event as _notification_event,
    request_event as _request_event,
)
from busrt._rpc_constants import *

from ._remote_items import RemoteItems as _RemoteItems
from ._session import ended as _ended, wait_among as _wait_among, wait_event as _wait_event
from .client import ERR_IO, ERR_TIMEOUT, OP_MESSAGE, RESPONSE_OK, ClientFrame as _ClientFrame, _CallFrame, on_frame_default

logger = logging.getLogger('busrt.rpc')


async def on_call_default(event):
    raise RpcException('RPC Engine not initialized', RPC_ERROR_CODE_METHOD_NOT_FOUND)


async def on_notification_default(event):
    pass


class Rpc(_RpcBase):
    """Calls methods of other clients and answers their calls, over a client that it takes over.

    Handlers, to be set on the instance or on the class: `on_frame(frame)` for publications and broadcasts,
    `on_notification(event)`, and `on_call(event)`, whose result (bytes, str or None) is the reply and whose exception is
    an error reply. They are coroutine functions; each runs as a task of its own, started in the order received.
    """

    on_frame = staticmethod(on_frame_default)
    on_call = staticmethod(on_call_default)
    on_notification = staticmethod(on_notification_default)

    async def call(self, target, request):
        """Calls a method, and waits at most the client's timeout for the broker to acknowledge the request. Returns an
        RpcCallEvent, whose `wait_completed` raises what has gone wrong."""
        event = RpcCallEvent()
        try:
            operation = await self.client.send(target, _CallFrame(request, event))
            try:
                code = await operation.wait_completed(self.client.timeout)
            except asyncio.TimeoutError:
                event._fail(RpcException('RPC timeout', code=-32000 - ERR_TIMEOUT))
            else:
                if code != RESPONSE_OK and not event._done:
                    event._fail(RpcException('RPC error', code=-32000 - code))
        except Exception as e:
            event._fail(RpcException(str(e), code=-32000 - ERR_IO))
        except BaseException:
            event._forget()
            raise
        return event

    # Names that no program in the field uses.

    async def call_method(self, target, method, params=b'', timeout=None, qos=1, codec=None):
        """Calls a method and returns the payload of its reply. Waits at most `timeout` seconds, the client's timeout
        unless given. When it is cancelled, the call is forgotten.

        With a `codec` ('msgpack', 'json', 'bytes', or an object with `dumps` and `loads`; the Rpc's unless given) `params`
        is any value and the result is decoded; None and an empty payload stand for each other. Raises RpcException (what
        the handler has raised, or a lost connection), asyncio.TimeoutError, and what the codec raises.
        """
        request, codec = self._bus_request(method, params, qos, codec)
        event = await self.call(target, request)
        try:
            await event.wait_completed(self.client.timeout if timeout is None else timeout)
        except BaseException:
            event._forget()
            raise
        return _codec.decode(codec, event.get_payload())

    def cursor(self, target, method, params=b'', bulk=100, codec=None):
        """Calls a method that returns a cursor, when its first item is asked for. Returns an asynchronous iterable of its
        items: bytes that are MessagePack, or values with `codec='msgpack'`, which encodes the parameters, too; the Rpc's
        codec unless given. `bulk` items are asked for at once. The client's timeout holds for each call. Iterating raises
        RpcException, asyncio.TimeoutError, ConnectionError."""
        arguments, codec = self._bus_cursor_arguments(target, method, params, codec)
        return _RemoteItems(self.client, arguments, bulk, codec)

    # The client calls these methods.

    async def _handle_frame(self, frame):
        """Handles a frame that came through another client."""
        event = _parse(frame)
        if event is None:
            await self._bus_run(self.on_frame, frame)
        elif event.tp == RPC_NOTIFICATION:
            await self._bus_run(self.on_notification, event)
        elif event.tp == RPC_REQUEST:
            reply = _SentReply()
            await self._bus_answer(event, reply)
            if event.call_id != 0:
                await self.client.send(frame.sender, reply.made(event.call_id))

    def _bus_starter(self, session):
        def start(received):
            for each in received:
                if type(each) is not tuple:
                    session.start(self._bus_run_frame, each)
                elif len(each) == 1:
                    session.start(self._bus_run_notification, each[0])
                else:
                    session.start(self._bus_run_call, each)

        return start

    def _bus_run_frame(self, frame):
        return self._bus_run(self.on_frame, frame)

    def _bus_run_notification(self, frame):
        return self._bus_run(self.on_notification, _notification_event(frame))

    def _bus_run_call(self, request):
        return self._bus_answer(*_request_event(request))

    async def _bus_run(self, handler, argument):
        try:
            awaitable = handler(argument)
            if awaitable is not None:
                await awaitable
        except Exception:
            logger.exception('a handler has raised')

    async def _bus_answer(self, event, responder):
        try:
            result, codec = self._bus_invoke(event)
            if hasattr(result, '__await__'):
                result = await result
            result = self._bus_reply_of(result, codec)
            if event.call_id != 0:
                responder.reply(result)
        except BaseException as e:
            if event.call_id != 0:
                _answer_error(responder, e)
            elif isinstance(e, Exception):
                logger.exception('the handler of a call has raised')
            # One that is cancelled has answered, and is cancelled.
            if not isinstance(e, Exception):
                raise

    @staticmethod
    async def _bus_supply(answering):
        """Supplies the items that a call for items asks for. Returns the reply."""
        while True:
            step = answering.step_now()
            if step is None:
                task = answering.step_task()
                await _ended(task)
                step = answering.step_of(task)
            if isinstance(step, bytes):
                return step
            source, count = step
            try:
                answering.supply(await source.take_async(count))
            except Exception as e:
                answering.fail(*_error_of(e))


class _Reply:
    """The reply to a call, as the session knows it: it does not keep the event of a program that has dropped it."""

    __slots__ = ('value', 'done', 'waiters', 'event')

    def __init__(self):
        self.value = None
        self.done = False
        self.waiters = None
        self.event = None

    def _bus_complete(self, value):
        self.value = value
        self.done = True
        waiters, self.waiters = self.waiters, None
        for future in waiters or ():
            if not future.done():
                future.set_result(None)
        if self.event is not None:
            self.event.set()


class RpcCallEvent(_RpcCallEventBase):
    """A call under way."""

    _reply = None
    _bus_session = None
    _id = None
    _token = None

    async def _start(self, session, target, request, timeout):
        operation = _ClientFrame(request.qos)
        operation._is_ours = True
        ack = session.register(operation)
        reply = _Reply()
        token = session.register(reply)
        method = request.method
        if isinstance(method, str):
            method = method.encode()
        link, completions, tokens = session.link, session.completions, (ack, token)
        try:
            identifier = None
            if not session.senders:
                identifier = link.call_to(target, method, request, completions, tokens)
            if identifier is None:
                identifier = await session.send_later(lambda: link.call_to(target, method, request, completions, tokens), timeout)
        except BaseException:
            session.pending.pop(ack, None)
            session.pending.pop(token, None)
            raise
        if request.qos & 1 == 0:
            session.pending.pop(ack, None)
        self._reply, self._bus_session, self._id, self._token = reply, session, identifier, token
        return operation

    def _forget(self):
        session, self._bus_session = self._bus_session, None
        if session is not None and session.pending.pop(self._token, None) is not None:
            session.link.cancel(self._id)

    def __del__(self):
        self._forget()

    def _fail(self, error):
        self._error = error
        self._done = True
        self._forget()
        if self._event is not None:
            self._event.set()

    def _look(self):
        """Reads the outcome, if there is one. Returns whether there is."""
        if self._done:
            return True
        reply = self._reply
        if reply is None or not reply.done:
            return self._event is not None and self._event.is_set()
        self._done = True
        self._bus_session = None
        value = reply.value
        if value is None:
            self._error = RpcException('connection lost', code=-32000 - ERR_IO)
        elif isinstance(value, tuple):
            self._error = RpcException(value[1], code=value[0])
        else:
            self._frame = value
            payload = value.payload
            if payload[0] == RPC_ERROR:
                code = int.from_bytes(payload[5:7], 'little', signed=True)
                self._error = RpcException(payload[7:], code=code)
        return True

    @property
    def completed(self):
        """An asyncio.Event that is set when the call is completed."""
        if self._event is None:
            self._event = asyncio.Event()
            if self._look():
                self._event.set()
            elif self._reply is not None:
                self._reply.event = self._event
        return self._event

    @completed.setter
    def completed(self, event):
        self._event = event

    async def wait_completed(self, timeout=None):
        """Waits for the reply, at most `timeout` seconds (None and 0 are no limit), and returns itself. Raises
        RpcException, or asyncio.TimeoutError. May be called again."""
        if not self._look():
            reply = self._reply
            if reply is None:
                await _wait_event(timeout, self.completed)
            else:
                if reply.waiters is None:
                    reply.waiters = {}
                await _wait_among(timeout, reply.waiters)
                self._look()
        if self._error is not None:
            raise self._error
        return self
