"""The client for asyncio. A client is used in the event loop that it was connected in; it may be connected again in
another one."""

import asyncio
import logging
import os as _os
import socket  # noqa: F401 - star imports of programs have it
import time  # noqa: F401
from time import monotonic as _monotonic

from busrt import _life  # noqa: F401
from busrt._base import ITERATION as _ITERATION, CallFrame as _CallFrame, server_of as _server_of
from busrt._busrt import Frame, Link as _Link
from busrt._constants import *
from busrt._errors import BusConnectionError as _BusConnectionError, of_code as _of_code
from busrt._pace import next_size as _next_size

from ._feeds import Feeds as _Feeds
from ._session import (
    Session as _Session,
    finished as _finished,
    of as _session_of,
    wait_among as _wait_among,
    wait_event as _wait_event,
)

logger = logging.getLogger('busrt.client')

# The frames that an iteration takes at once.
_MAX_BATCH = 64


async def on_frame_default(frame):
    pass


class ClientFrame:
    """An operation that was sent."""

    _event = None
    _waiters = None
    _is_ours = False
    _done = False

    def __init__(self, qos):
        self.qos = qos
        self.result = 0

    def _bus_complete(self, code):
        self.result = ERR_IO if code is None else code
        self._done = True
        waiters = self._waiters
        if waiters is not None:
            self._waiters = None
            for future in waiters:
                if not future.done():
                    future.set_result(None)
        if self._event is not None:
            self._event.set()

    @property
    def completed(self):
        """An asyncio.Event that is set when the operation is completed; None when its QoS asks for no answer."""
        if self.qos & 1 == 0:
            return None
        if self._event is None:
            self._event = asyncio.Event()
            if self._done:
                self._event.set()
        return self._event

    @completed.setter
    def completed(self, event):
        self._event = event

    def is_completed(self):
        """Whether the broker has answered, the operation has failed, or its QoS asks for no answer."""
        return self.qos & 1 == 0 or self._done or (self._event is not None and self._event.is_set())

    async def wait_completed(self, timeout=None):
        """Waits for the result code: 1 is success. `timeout` is in seconds, None and 0 are no limit. Raises
        asyncio.TimeoutError. May be called again."""
        if self.qos & 1 == 0:
            return RESPONSE_OK
        if not self._done:
            if self._is_ours:
                if self._waiters is None:
                    self._waiters = {}
                await _wait_among(timeout, self._waiters)
            else:
                await _wait_event(timeout, self.completed)
        return self.result


class Client(_Feeds):
    """A client of a broker.

    `path` is a socket's path (it starts with / or ends in .sock, .socket or .ipc), host:port, or a Broker of this
    process; `name` is the name to register. Nothing is opened before `connect`. It is used in the event loop that has
    connected it; `connect` may be called again in another one.

    Attributes: `timeout` (seconds, None is no limit; read whenever something waits), `ping_interval` (seconds, read at
    each ping), `buf_size` (bytes, read at `connect`), `on_frame` (a coroutine function of the received frame; each
    frame is handled by a task of its own), `connected`. The options of the constructor are those of `busrt.Client`.
    """

    _bus_session = None
    _bus_UNSHARED = (*_Feeds._bus_UNSHARED, '_bus_session')
    on_frame = staticmethod(on_frame_default)

    def _bus_link_now(self):
        session = self._bus_session
        return None if session is None else session.link

    @property
    def connected(self):
        """Whether the client is connected."""
        session = self._bus_session
        return session is not None and session.link.is_connected()

    @connected.setter
    def connected(self, value):
        session = self._bus_session
        if not value and session is not None:
            self._bus_session = None
            session.link.close()
            session.end_soon()

    async def connect(self):
        """Connects and registers, within `timeout`. Raises RuntimeError when the broker refuses the name or is none, an
        OSError (FileNotFoundError, ConnectionRefusedError, ...) when it cannot be reached, asyncio.TimeoutError."""
        await self.disconnect()
        options, fd = self._bus_link_options()
        broker = self._bus_embedded_broker()
        if broker is not None:
            task = broker._link_task(self.name, options)
        else:
            task = _Link.connect_task(_os.fspath(self.path), self.name, options, fd)
        await self._bus_adopt(await _finished(task))

    async def _bus_adopt(self, link):
        self._bus_session = _Session(link, asyncio.get_running_loop())
        self._bus_attach()
        try:
            await self._bus_begin_feeds()
        except BaseException:
            await self.disconnect()
            raise

    async def disconnect(self):
        """Ends the connection, after what was sent is written. May be repeated, and called by handlers."""
        session = self._bus_session
        if session is None:
            return
        self._bus_session = None
        timeout = self.timeout
        if session.link.is_connected():
            try:
                await asyncio.wait_for(_finished(session.link.disconnect_task()), timeout)
            except asyncio.TimeoutError:
                pass
            finally:
                session.link.close()
        session.end()

    async def send(self, target=None, frame=None):
        """Sends `frame` to `target`: what it does follows from `frame.type`. Returns a ClientFrame.

        Waits for room, at most `timeout`, then raises asyncio.TimeoutError. Raises an OSError when the client is not
        connected. What is given is copied.
        """
        session = self._bus_session
        if session is None:
            raise _BusConnectionError('the client is not connected')
        if type(frame) is _CallFrame:
            return await frame._event._start(session, target, frame, self.timeout)
        operation, token = _send_now(session, target, frame, None)
        if token is not None:
            await _send_later(session, target, frame, None, token, self.timeout)
        return operation

    # Receiving.

    def _bus_attach(self):
        """Has received frames handled as `on_frame` says: by an Rpc, or one by one."""
        session = self._bus_session
        if session is None:
            return
        serving = _server_of(self.on_frame)
        if self._bus_keeps and self.on_frame is on_frame_default and self._bus_topics is None:
            return
        if session.source is not None and serving is session.serving:
            return
        session.serving = serving
        if serving is None:
            session.feed.watch(self, self._bus_plain_source(session), self._bus_start_handlers)
            return
        # One source for all, so that tasks are started in the order received.
        source = session.link.loop_serve()
        session.unwatch()
        session.source, session.is_plain = source, False
        session.feed.watch(self, source, serving._bus_starter(session))

    def _bus_attach_topics(self):
        session = self._bus_session
        if session is not None and session.serving is not _ITERATION:
            self._bus_attach()

    def _bus_plain_source(self, session):
        if not session.is_plain:
            session.unwatch()
            session.source, session.is_plain = session.link.loop_frames(), True
        return session.source

    def _bus_start_handlers(self, frames):
        session = self._bus_session
        if session is not None:
            start = session.start
            for frame in frames:
                start(self.on_frame, frame)

    # Names that no program in the field uses.

    async def __aenter__(self):
        self._bus_keeps = True
        if not self.is_connected():
            await self.connect()
        return self

    async def __aexit__(self, *_):
        await self.disconnect()

    async def _bus_complete(self, target, frame, timeout, receiver=None):
        if receiver is None:
            operation = await self.send(target, frame)
        else:
            session = _session_of(self)
            operation, token = _send_now(session, target, frame, receiver)
            if token is not None:
                await _send_later(session, target, frame, receiver, token, self.timeout)
        code = await operation.wait_completed(self.timeout if timeout is None else timeout)
        if code != RESPONSE_OK:
            raise _of_code(code, target)

    def _bus_need_link(self):
        return _session_of(self).link

    async def flush(self, timeout=None):
        """Waits until what was sent is with the kernel, at most `timeout` seconds. Returns whether it is."""
        try:
            return await asyncio.wait_for(_finished(self._bus_need_link().flush_task()), timeout)
        except asyncio.TimeoutError:
            return False

    async def drain(self, timeout=5):
        """Goes in good order: lets RPC handlers finish, writes what was sent, and disconnects, within `timeout` seconds.
        Returns whether that was done in time."""
        return await _finished(self._bus_need_link().drain_task(timeout))

    async def secondary(self, suffix=None):
        """Connects a secondary client NAME%%SUFFIX; a number unless given. It ends with this one. Raises BusError."""
        link = await _finished(self._bus_need_link().secondary_task(suffix))
        other = self._bus_like_this(link.name())
        await other._bus_adopt(link)
        return other

    def batches(self, most=64, timeout=None):
        """Iterates over received frames in lists of up to `most`, until the connection ends, or until none has come for
        `timeout` seconds (None is no limit). `on_frame` gets none from here on. One task at a time may iterate. A broker
        takes all frames of a list for handled: one that takes long should be short. Raises ConnectionError before the first
        `connect`."""
        session = _session_of(self)
        return self._bus_batches(session, self._bus_take_over(session), most, timeout)

    async def _bus_batches(self, session, source, most, timeout):
        held, most = session.held, max(most, 1)
        if self._bus_topics is not None:
            # What an earlier reader has left.
            held.extend(await session.feed.dispatch([]))
        while held:
            yield [held.popleft() for _ in range(min(most, len(held)))]
        while True:
            try:
                batch = await session.next_batch(source, most, timeout)
            except asyncio.TimeoutError:
                return
            if batch is None:
                session.feed.end()
                return
            if self._bus_topics is not None:
                batch = await session.feed.dispatch(batch)
            if batch:
                yield batch

    def __aiter__(self):
        """Iterates over received frames until the connection ends. `on_frame` gets none from here on."""
        session = _session_of(self)
        return self._bus_each(session, self._bus_take_over(session))

    async def _bus_each(self, session, source):
        held = session.held
        if self._bus_topics is not None:
            # What an earlier reader has left.
            held.extend(await session.feed.dispatch([]))
        while held:
            yield held.popleft()
        size = 1
        while True:
            batch = await session.next_batch(source, size)
            if batch is None:
                session.feed.end()
                return
            began = _monotonic()
            if self._bus_topics is not None:
                batch = await session.feed.dispatch(batch)
            held.extend(batch)
            batch = None
            while held:
                yield held.popleft()
            size = _next_size(size, _monotonic() - began, _MAX_BATCH)

    def _bus_take_over(self, session):
        if session.serving is not _ITERATION:
            self._bus_plain_source(session)
            session.feed.iterate(self)
            session.serving = _ITERATION
        return session.source


_CHANGES = (OP_SUBSCRIBE, OP_UNSUBSCRIBE, OP_EXCLUDE, OP_UNEXCLUDE)


def _send_now(session, target, frame, receiver):
    """Sends a frame if there is room. Returns the operation, and its token if it was not sent."""
    operation = ClientFrame(frame.qos)
    token = 0
    if operation.qos & 1:
        if frame.type in _CHANGES and frame.topic == []:
            operation._bus_complete(RESPONSE_OK)
            return operation, None
        operation._is_ours = True
        token = session.register(operation)
    try:
        if not session.senders and session.link.send_to(target, frame, session.completions, token, receiver):
            return operation, None
    except BaseException:
        session.pending.pop(token, None)
        raise
    return operation, token


async def _send_later(session, target, frame, receiver, token, timeout):
    """Sends a frame when there is room."""
    try:
        await session.send_later(lambda: session.link.send_to(target, frame, session.completions, token, receiver), timeout)
    except BaseException:
        session.pending.pop(token, None)
        raise
