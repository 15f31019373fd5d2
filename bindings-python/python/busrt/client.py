"""The client for plain threads. All methods may be called from any thread."""

import collections as _collections
import logging
import os as _os
import socket  # noqa: F401 - star imports of programs have it
import threading
import time

from . import _life
from ._base import ITERATION as _ITERATION, CallFrame as _CallFrame, log_exception as _log, server_of as _server_of
from ._busrt import ClientFrame, Frame, Link as _Link
from ._constants import *
from ._errors import BusConnectionError as _BusConnectionError, of_code as _of_code
from ._feeds import Feeds as _Feeds, start_thread as _start
from ._pace import next_size as _next_size

logger = logging.getLogger('busrt.client')
# What the handlers of an Rpc raise.
_rpc_logger = logging.getLogger('busrt.rpc')

_life.install()

# A handler that needs longer for a batch gets smaller ones: to the broker, a frame that was taken is handled.
_LONG_BATCH = 0.005
_SHORT_BATCH = 0.001
_MAX_BATCH = 512


def on_frame_default(frame):
    pass


class Client(_Feeds):
    """A client of a broker.

    `path` is a socket's path (it starts with / or ends in .sock, .socket or .ipc), host:port, or a Broker of this
    process; `name` is the name to register. Nothing is opened before `connect`. May be used from any thread.

    Attributes: `timeout` (seconds, None is no limit; read whenever something waits), `ping_interval` (seconds, read at
    each ping), `buf_size` (bytes, read at `connect`), `on_frame` (called with each received frame, on a thread of the
    client), `connected`.

    Options of the constructor, by keyword: `timeout`; `reconnect` (False; True; or shortest delay and longest delay in
    seconds and the number of tries, None is no limit); `while_down` (what sending does while the connection is lost:
    'fail', ('wait', seconds), ('queue', bytes)); `write_through` (writes before `send` returns); `inbox_bytes` (received
    frames that wait, in bytes) and `overflow` (what happens when they are more: 'wait', 'drop-old', 'drop-new');
    `queue_size` (frames) and `queue_bytes` that wait to be sent; `silence` (seconds without a byte from the broker after
    which the connection is lost, None is no limit); `busy_poll` (seconds); `fd`, an inherited socket to connect over (its
    number, or what has `fileno`); `codec` ('msgpack', 'json', or an object with `dumps` and `loads`), which encodes what
    `publish` and its like send, and decodes what handlers of topics and queues get. An unknown one raises TypeError at
    `connect`, an invalid value ValueError.
    """

    # A subclass that does not call __init__ has these values, and so has an instance before it.
    _bus_link = None
    _bus_source = None
    _bus_serving = None
    _bus_pid = None
    # The link of an iteration, and what was taken from it and not yet given out: the next iteration begins with it.
    _bus_held = (None, ())
    _bus_UNSHARED = (
        *_Feeds._bus_UNSHARED,
        *('_bus_link', '_bus_source', '_bus_serving', '_bus_lock', '_bus_pid', '_bus_inherited', '_bus_held'),
    )
    on_frame = staticmethod(on_frame_default)

    def _bus_link_now(self):
        return self._bus_link

    @property
    def connected(self):
        """Whether the client is connected."""
        link = self._bus_link
        return link is not None and link.is_connected()

    @connected.setter
    def connected(self, value):
        link = self._bus_link
        if not value and link is not None:
            self._bus_link = None
            link.close()

    def connect(self):
        """Connects and registers, within `timeout`.

        Raises RuntimeError when the broker refuses the name or is none, an OSError (FileNotFoundError,
        ConnectionRefusedError, ...) when it cannot be reached, TimeoutError.
        """
        with self._bus_mutex():
            self._bus_drop_link()
            options, fd = self._bus_link_options()
            broker = self._bus_embedded_broker()
            if broker is not None:
                link = broker._link(self.name, options)
            else:
                link = _Link.connect(_os.fspath(self.path), self.name, options, fd)
            self._bus_adopt(link)

    def _bus_adopt(self, link):
        self._bus_link = link
        self._bus_attach()
        try:
            self._bus_begin_feeds()
        except BaseException:
            self._bus_drop_link()
            raise

    def _bus_mutex(self):
        """The lock of connecting and of changing handlers; a new one in a child made by fork."""
        if self._bus_pid != _os.getpid():
            # Also what the parent has is not touched here.
            self.__dict__.update(_bus_lock=threading.RLock(), _bus_pid=_os.getpid(), _bus_source=None, _bus_serving=None)
            if self.__dict__.get('_bus_link') is not None and not self._bus_link.is_connected():
                self.__dict__['_bus_inherited'] = self.__dict__.pop('_bus_link')
        return self._bus_lock

    def _bus_drop_link(self):
        link = self._bus_link
        if link is not None:
            self._bus_link = None
            timeout = self.timeout
            link.disconnect(5 if timeout is None else timeout)

    def disconnect(self):
        """Ends the connection, after what was sent is written. May be repeated, and called by handlers."""
        link = self._bus_link
        if link is not None:
            timeout = self.timeout
            link.disconnect(5 if timeout is None else timeout)

    def send(self, target=None, frame=None):
        """Sends `frame` to `target`: what it does follows from `frame.type`. Returns a ClientFrame.

        Waits for room, at most `timeout`, then raises TimeoutError. Raises an OSError when the client is not connected.
        What is given is copied.
        """
        link = self._bus_link
        if link is None:
            raise _BusConnectionError('the client is not connected')
        if type(frame) is _CallFrame:
            return frame._event._start(link, target, frame, self.timeout)
        return link.send(target, frame, self.timeout)

    # Receiving.

    def _bus_attach(self):
        """Has received frames handled as `on_frame` says: by an Rpc, or one by one."""
        if self._bus_link is None or self._bus_pid not in (None, _os.getpid()):
            return
        with self._bus_mutex():
            link = self._bus_link
            if link is None:
                return
            serving = _server_of(self.on_frame)
            if self._bus_keeps and self.on_frame is on_frame_default and self._bus_topics is None:
                return
            if self._bus_source is not None and self._bus_source[0] is link and serving is self._bus_serving:
                return
            self._bus_serving = serving
            if serving is None:
                source = self._bus_plain_source(link)
                owner, held = self._bus_held
                self._bus_held = (None, ())
                # Moved, so that a former iteration does not give it out again.
                held = [held.popleft() for _ in range(len(held))] if owner is link else []
                _start(self._bus_read_frames, source, self._bus_call_on_frame, held)
                return
            before = self._bus_source
            frames, notifications, calls = link.serve()
            self._bus_source = (link, frames, notifications, calls)
            if before is not None and before[0] is link:
                for source in before[1:]:
                    source.stop()
            _start(self._bus_read_frames, frames, serving._bus_on_frame_of(self))
            _start(self._bus_read_frames, notifications, serving._bus_on_notification_of(self))
            _start(serving._bus_serve_calls, self, calls)

    def _bus_attach_topics(self):
        if self._bus_serving is not _ITERATION:
            self._bus_attach()

    def _bus_plain_source(self, link):
        """The source of all frames, which is taken over from whatever takes them."""
        before = self._bus_source
        source = None
        if before is not None and before[0] is link:
            if len(before) == 2:
                source = before[1].move_on()
            else:
                for taken in before[1:]:
                    taken.stop()
        if source is None:
            source = link.frames()
        self._bus_source = (link, source)
        return source

    def _bus_call_on_frame(self, frame):
        self.on_frame(frame)

    def _bus_read_frames(self, source, handle, held=()):
        # The fast path: the handler is looked up for each frame, as it may be set at any time.
        plain = handle.__func__ is Client._bus_call_on_frame if hasattr(handle, '__func__') else False
        most, clock = 1, time.monotonic
        while True:
            batch, held = held or source.take(most), None
            if batch is None:
                self._bus_source_ended(source)
                return
            began = clock()
            if self._bus_topics is not None:
                batch = [frame for frame in batch if not self._bus_dispatch(frame)]
            if plain:
                for frame in batch:
                    try:
                        self.on_frame(frame)
                    except BaseException:
                        _log(logger, 'the handler of a frame has raised')
            else:
                for frame in batch:
                    try:
                        handle(frame)
                    except BaseException:
                        _log(_rpc_logger, 'a handler has raised')
            # Nothing is kept while this waits.
            frame = batch = None
            spent = clock() - began
            if spent < _SHORT_BATCH:
                most = min(most * 2, _MAX_BATCH)
            elif spent > _LONG_BATCH:
                most = max(most // 4, 1)

    def _bus_source_ended(self, source):
        """A source yields no more: the connection has ended, unless another one has taken over."""
        with self._bus_mutex():
            has_ended = self._bus_source is not None and self._bus_source[1] is source
        if has_ended:
            self._bus_end_topics()

    # Names that no program in the field uses.

    def __enter__(self):
        self._bus_keeps = True
        if not self.is_connected():
            self.connect()
        return self

    def __exit__(self, *_):
        self.disconnect()

    def _bus_complete(self, target, frame, timeout, receiver=None):
        if receiver is None:
            operation = self.send(target, frame)
        else:
            operation = self._bus_need_link().send(target, frame, self.timeout, receiver)
        code = operation.wait_completed(self.timeout if timeout is None else timeout)
        if code != RESPONSE_OK:
            raise _of_code(code, target)

    def _bus_need_link(self):
        link = self._bus_link
        if link is None:
            raise _BusConnectionError('the client is not connected')
        return link

    def flush(self, timeout=None):
        """Waits until what was sent is with the kernel, at most `timeout` seconds. Returns whether it is."""
        return self._bus_need_link().flush(timeout)

    def drain(self, timeout=5):
        """Goes in good order: lets RPC handlers finish, writes what was sent, and disconnects, within `timeout` seconds.
        Returns whether that was done in time."""
        return self._bus_need_link().drain(timeout)

    def secondary(self, suffix=None):
        """Connects a secondary client NAME%%SUFFIX; a number unless given. It ends with this one. Raises BusError."""
        link = self._bus_need_link().secondary(suffix)
        other = self._bus_like_this(link.name())
        with other._bus_mutex():
            other._bus_adopt(link)
        return other

    def batches(self, most=_MAX_BATCH, timeout=None):
        """Iterates over received frames in lists of up to `most`, until the connection ends, or until none has come for
        `timeout` seconds (None is no limit). `on_frame` gets none from here on. One thread at a time may iterate. A broker
        takes all frames of a list for handled: one that takes long should be short. Raises ConnectionError before the first
        `connect`."""
        source, held = self._bus_take_over()
        return self._bus_batches(source, held, max(most, 1), timeout)

    def _bus_batches(self, source, held, most, timeout):
        while True:
            batch = [held.popleft() for _ in range(min(most, len(held)))] or source.take(most, timeout)
            if batch is None:
                self._bus_source_ended(source)
            if not batch:
                return
            if self._bus_topics is not None:
                batch = [frame for frame in batch if not self._bus_dispatch(frame)]
                if not batch:
                    continue
            yield batch

    def __iter__(self):
        """Iterates over received frames until the connection ends. `on_frame` gets none from here on."""
        return self._bus_each(*self._bus_take_over())

    def _bus_each(self, source, held):
        size = 1
        while True:
            if not held:
                batch = source.take(size)
                if batch is None:
                    self._bus_source_ended(source)
                if not batch:
                    return
                held.extend(batch)
                batch = None
            began = time.monotonic()
            while held:
                frame = held.popleft()
                if self._bus_topics is None or not self._bus_dispatch(frame):
                    yield frame
            size = _next_size(size, time.monotonic() - began, _MAX_BATCH)

    def _bus_take_over(self):
        with self._bus_mutex():
            link = self._bus_need_link()
            if self._bus_source is not None and self._bus_source[0] is link and self._bus_serving is _ITERATION:
                return self._bus_source[1], self._bus_held[1]
            self._bus_serving = _ITERATION
            if self._bus_held[0] is not link:
                self._bus_held = (link, _collections.deque())
            return self._bus_plain_source(link), self._bus_held[1]
