"""The client for asyncio. A client is used in the event loop that it was connected in; it may be connected again in
another one."""

import asyncio
import logging
import os as _os
import socket  # noqa: F401 - star imports of programs have it
import time  # noqa: F401
from time import monotonic as _monotonic

from busrt._busrt import Frame, Link as _Link
from busrt import _life  # noqa: F401
from busrt._constants import (
    ERR_BUSY, ERR_CLIENT_NOT_REGISTERED, ERR_DATA, ERR_IO, ERR_NOT_DELIVERED, ERR_NOT_SUPPORTED, ERR_OTHER,
    ERR_TIMEOUT, GREETINGS, OP_ACK, OP_BROADCAST, OP_EXCLUDE, OP_MESSAGE, OP_NOP, OP_PUBLISH, OP_PUBLISH_FOR,
    OP_SUBSCRIBE, OP_UNEXCLUDE, OP_UNSUBSCRIBE, PING_FRAME, PROTOCOL_VERSION, RESPONSE_OK, QoS)
from busrt._errors import BusConnectionError as _BusConnectionError, of_code as _of_code
from busrt._pace import next_size as _next_size
from busrt.client import _CallFrame, _MIN_BUF_SIZE, _server_of

from . import _session
from ._session import Session as _Session, finished as _finished, wait_among as _wait_among, wait_event as _wait_event

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


class Client:
    """A client of a broker.

    `path` is a socket's path (it starts with / or ends in .sock, .socket or .ipc) or host:port, `name` the name to
    register. Nothing is opened before `connect`.

    Attributes: `timeout` (seconds, None is no limit; read whenever something waits), `ping_interval` (seconds, read at
    each ping), `buf_size` (bytes, read at `connect`), `on_frame` (a coroutine function of the received frame; each
    frame is handled by a task of its own), `connected`. The options of the constructor are those of `busrt.Client`.
    """

    _bus_session = None
    _bus_options = {}
    # If true, frames wait while nothing takes them. Else they are discarded.
    _bus_keeps = False
    on_frame = staticmethod(on_frame_default)
    buf_size = 8192
    timeout = 1
    ping_interval = 1

    def __init__(self, path, name, **options):
        self.path = path
        self.name = name
        self.buf_size = 8192
        self.ping_interval = 1
        self.timeout = options.pop('timeout', 1)
        self._bus_options = options

    def __setattr__(self, name, value):
        object.__setattr__(self, name, value)
        if name == 'on_frame':
            self._bus_attach()
        elif name == 'ping_interval':
            session = self._bus_session
            if session is not None:
                session.link.set_ping_interval(value)

    def __getstate__(self):
        return {k: v for k, v in self.__dict__.items() if k != '_bus_session'}

    def __setstate__(self, state):
        self.__dict__.update(state)

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

    def is_connected(self):
        """Whether the client is connected."""
        return self.connected

    async def connect(self):
        """Connects and registers, within `timeout`; else as that of `busrt.Client`."""
        await self.disconnect()
        options = dict(self._bus_options)
        fd = options.pop('fd', None)
        options.update(
            timeout=self.timeout, ping_interval=self.ping_interval, buf_size=max(int(self.buf_size), _MIN_BUF_SIZE))
        if hasattr(fd, 'fileno'):
            fd = fd.fileno()
        self._bus_adopt(await _finished(_Link.connect_task(_os.fspath(self.path), self.name, options, fd)))

    def _bus_adopt(self, link):
        self._bus_session = _Session(link, asyncio.get_running_loop())
        self._bus_attach()

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
        return await self._bus_send(session, target, frame, None)

    async def _bus_send(self, session, target, frame, receiver):
        operation = ClientFrame(frame.qos)
        if operation.qos & 1:
            if frame.type in _CHANGES and frame.topic == []:
                operation._bus_complete(RESPONSE_OK)
                return operation
            operation._is_ours = True
            token = session.register(operation)
        else:
            token = 0
        try:
            link, completions = session.link, session.completions
            if session.has_senders() or not link.send_to(target, frame, completions, token, receiver):
                await session.send_later(
                    lambda: link.send_to(target, frame, completions, token, receiver), self.timeout)
        except BaseException:
            session.pending.pop(token, None)
            raise
        return operation

    def subscribe(self, topics):
        """Subscribes to topics, a str or a list of str."""
        frame = Frame(tp=OP_SUBSCRIBE)
        frame.topic = topics
        return self.send(None, frame)

    def unsubscribe(self, topics):
        """Ends subscriptions to topics, a str or a list of str."""
        frame = Frame(tp=OP_UNSUBSCRIBE)
        frame.topic = topics
        return self.send(None, frame)

    # Receiving.

    def _bus_attach(self):
        session = self._bus_session
        if session is None:
            return
        serving = _server_of(self.on_frame)
        if self._bus_keeps and self.on_frame is on_frame_default:
            return
        if session.source is not None and serving is session.serving:
            return
        session.serving = serving
        if serving is None:
            self._bus_take_plain(session, self._bus_start_handlers)
            return
        # One source for all, so that tasks are started in the order received.
        source = session.link.loop_serve()
        session.unwatch()
        session.source, session.is_plain = source, False
        session.watch(source, serving._bus_starter(session))

    def _bus_take_plain(self, session, handle):
        session.watch(self._bus_plain_source(session), handle)

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

    async def publish(self, topic, payload=b'', qos=QoS.PROCESSED, timeout=None):
        """Publishes to `topic`. With a QoS that asks for it, waits for the acknowledgement, at most `timeout` seconds
        (the client's timeout unless given). Raises BusError."""
        await self._bus_complete(topic, Frame(payload, OP_PUBLISH, qos), timeout)

    async def send_message(self, target, payload=b'', qos=QoS.PROCESSED, timeout=None):
        """Sends to the client of exactly that name; else as `publish`."""
        await self._bus_complete(target, Frame(payload, OP_MESSAGE, qos), timeout)

    async def broadcast(self, mask, payload=b'', qos=QoS.PROCESSED, timeout=None):
        """Sends to all clients whose name matches `mask`; else as `publish`."""
        await self._bus_complete(mask, Frame(payload, OP_BROADCAST, qos), timeout)

    async def publish_for(self, topic, receiver, payload=b'', qos=QoS.PROCESSED, timeout=None):
        """Publishes for one client only; else as `publish`."""
        frame = Frame(payload, OP_PUBLISH_FOR, qos)
        operation = await self._bus_send(_session.of(self), topic, frame, receiver)
        await self._bus_wait(operation, topic, timeout)

    async def exclude(self, topics, qos=QoS.PROCESSED, timeout=None):
        """Excludes topics, a str or a list of str, from what the subscriptions match; else as `publish`."""
        await self._bus_topics(OP_EXCLUDE, topics, qos, timeout)

    async def unexclude(self, topics, qos=QoS.PROCESSED, timeout=None):
        """Ends exclusions; else as `publish`."""
        await self._bus_topics(OP_UNEXCLUDE, topics, qos, timeout)

    async def _bus_topics(self, tp, topics, qos, timeout):
        frame = Frame(None, tp, qos)
        frame.topic = topics
        await self._bus_complete(None, frame, timeout)

    async def _bus_complete(self, target, frame, timeout):
        await self._bus_wait(await self.send(target, frame), target, timeout)

    async def _bus_wait(self, operation, subject, timeout):
        code = await operation.wait_completed(self.timeout if timeout is None else timeout)
        if code != RESPONSE_OK:
            raise _of_code(code, subject)

    async def flush(self):
        """Waits until what was sent is with the kernel."""
        return await _finished(_session.of(self).link.flush_task())

    async def drain(self, timeout=5):
        """Goes in good order: lets RPC handlers finish, writes what was sent, and disconnects, within `timeout` seconds.
        Returns whether that was done in time."""
        return await _finished(_session.of(self).link.drain_task(timeout))

    def stats(self):
        """What the client has done so far: a dict of r_frames, r_bytes, w_frames, w_bytes, queue, dropped, unhandled."""
        return _session.of(self).link.stats()

    async def secondary(self, suffix=None):
        """Connects a secondary client NAME%%SUFFIX; a number unless given. It ends with this one."""
        link = await _finished(_session.of(self).link.secondary_task(suffix))
        other = type(self).__new__(type(self))
        Client.__init__(other, self.path, link.name(), **self._bus_options)
        other.timeout = self.timeout
        other._bus_adopt(link)
        return other

    async def batches(self, most=64):
        """Iterates over received frames in lists of up to `most`, until the connection ends. `on_frame` gets none from
        here on. One task at a time may iterate. A broker takes all frames of a list for handled: one that takes long
        should be short."""
        session = _session.of(self)
        source = self._bus_take_over(session)
        while True:
            batch = await session.next_batch(source, most)
            if batch is None:
                return
            yield batch

    async def __aiter__(self):
        """Iterates over received frames until the connection ends. `on_frame` gets none from here on."""
        session = _session.of(self)
        source, size = self._bus_take_over(session), 1
        while True:
            batch = await session.next_batch(source, size)
            if batch is None:
                return
            began = _monotonic()
            for frame in batch:
                yield frame
            size = _next_size(size, _monotonic() - began, _MAX_BATCH)

    def _bus_take_over(self, session):
        if session.serving is not _ITERATION:
            session.loop.remove_reader(self._bus_plain_source(session).fileno())
            session.serving = _ITERATION
        return session.source


# Marks a session whose frames are iterated over.
_ITERATION = object()
_CHANGES = (OP_SUBSCRIBE, OP_UNSUBSCRIBE, OP_EXCLUDE, OP_UNEXCLUDE)
