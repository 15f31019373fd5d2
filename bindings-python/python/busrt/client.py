"""The client for plain threads. All methods may be called from any thread."""

import logging
import os as _os
import socket  # noqa: F401 - star imports of programs have it
import threading
import time

from . import _life
from ._busrt import ClientFrame, Frame, Link as _Link
from ._constants import (
    ERR_BUSY, ERR_CLIENT_NOT_REGISTERED, ERR_DATA, ERR_IO, ERR_NOT_DELIVERED, ERR_NOT_SUPPORTED, ERR_OTHER,
    ERR_TIMEOUT, GREETINGS, OP_ACK, OP_BROADCAST, OP_EXCLUDE, OP_MESSAGE, OP_NOP, OP_PUBLISH, OP_PUBLISH_FOR,
    OP_SUBSCRIBE, OP_UNEXCLUDE, OP_UNSUBSCRIBE, PING_FRAME, PROTOCOL_VERSION, RESPONSE_OK, QoS)
from ._errors import BusConnectionError as _BusConnectionError, of_code as _of_code
from ._pace import next_size as _next_size

logger = logging.getLogger('busrt.client')
# What the handlers of an Rpc raise.
_rpc_logger = logging.getLogger('busrt.rpc')

_life.install()

# A handler that needs longer for a batch gets smaller ones: to the broker, a frame that was taken is handled.
_LONG_BATCH = 0.005
_SHORT_BATCH = 0.001
_MAX_BATCH = 512
# The smallest size of one read, in bytes.
_MIN_BUF_SIZE = 65536


def on_frame_default(frame):
    pass


def _log(logger, text):
    """Logs the exception that is handled. What a filter of the program raises ends no thread of ours."""
    try:
        logger.exception(text)
    except BaseException:
        pass


class _CallFrame:
    """The request of a call on its way through `Client.send`, which may be overridden: to that it is the request."""

    def __init__(self, request, event):
        self._request = request
        self.payload = request.payload
        self.type = OP_MESSAGE
        self.qos = request.qos
        self.method = request.method
        self.header = getattr(request, 'header', None)
        self._event = event

    @property
    def __class__(self):
        return type(self._request)

    def __getattr__(self, name):
        if name.startswith('__') or name == '_request':
            raise AttributeError(name)
        return getattr(self._request, name)


class Client:
    """A client of a broker.

    `path` is a socket's path (it starts with / or ends in .sock, .socket or .ipc) or host:port, `name` the name to
    register. Nothing is opened before `connect`.

    Attributes: `timeout` (seconds, None is no limit; read whenever something waits), `ping_interval` (seconds, read at
    each ping), `buf_size` (bytes, read at `connect`), `on_frame` (called with each received frame, on a thread of the
    client), `connected`. `options` of the constructor: `reconnect`, `while_down`, `write_through`, `overflow`,
    `inbox_bytes`, `queue_size`, `queue_bytes`, `silence`, `busy_poll`, and `fd`, an inherited socket to connect over.
    """

    # A subclass that does not call __init__ has these values, and so has an instance before it.
    _bus_link = None
    _bus_source = None
    _bus_serving = None
    _bus_options = {}
    _bus_pid = None
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
            link = self._bus_link
            if link is not None:
                link.set_ping_interval(value)

    # A client is not copied with its connection, and not sent to other processes with it.
    def __getstate__(self):
        return {k: v for k, v in self.__dict__.items() if k not in _UNSHARED}

    def __setstate__(self, state):
        self.__dict__.update(state)

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

    def is_connected(self):
        """Whether the client is connected."""
        return self.connected

    def connect(self):
        """Connects and registers, within `timeout`.

        Raises RuntimeError when the broker refuses the name or is none, an OSError (FileNotFoundError,
        ConnectionRefusedError, ...) when it cannot be reached, TimeoutError.
        """
        with self._bus_mutex():
            self._bus_drop_link()
            options = dict(self._bus_options)
            fd = options.pop('fd', None)
            options.update(
                timeout=self.timeout, ping_interval=self.ping_interval,
                buf_size=max(int(self.buf_size), _MIN_BUF_SIZE))
            if hasattr(fd, 'fileno'):
                fd = fd.fileno()
            self._bus_adopt(_Link.connect(_os.fspath(self.path), self.name, options, fd))

    def _bus_adopt(self, link):
        self._bus_link = link
        self._bus_attach()

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
        """Has received frames handled as `on_frame` says: by an Rpc, or one by one."""
        if self._bus_link is None or self._bus_pid not in (None, _os.getpid()):
            return
        with self._bus_mutex():
            link = self._bus_link
            if link is None:
                return
            serving = _server_of(self.on_frame)
            if self._bus_keeps and self.on_frame is on_frame_default:
                return
            if self._bus_source is not None and self._bus_source[0] is link and serving is self._bus_serving:
                return
            self._bus_serving = serving
            if serving is None:
                source = self._bus_plain_source(link)
                _start(self._bus_read_frames, source, self._bus_call_on_frame)
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

    def _bus_read_frames(self, source, handle):
        # The fast path: the handler is looked up for each frame, as it may be set at any time.
        plain = handle.__func__ is Client._bus_call_on_frame if hasattr(handle, '__func__') else False
        most, clock = 1, time.monotonic
        while True:
            batch = source.take(most)
            if batch is None:
                return
            began = clock()
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

    # Names that no program in the field uses.

    def __enter__(self):
        self._bus_keeps = True
        if not self.is_connected():
            self.connect()
        return self

    def __exit__(self, *_):
        self.disconnect()

    def publish(self, topic, payload=b'', qos=QoS.PROCESSED, timeout=None):
        """Publishes to `topic`. With a QoS that asks for it, waits for the acknowledgement, at most `timeout` seconds
        (the client's timeout unless given). Raises BusError."""
        self._bus_complete(topic, Frame(payload, OP_PUBLISH, qos), timeout)

    def send_message(self, target, payload=b'', qos=QoS.PROCESSED, timeout=None):
        """Sends to the client of exactly that name; else as `publish`."""
        self._bus_complete(target, Frame(payload, OP_MESSAGE, qos), timeout)

    def broadcast(self, mask, payload=b'', qos=QoS.PROCESSED, timeout=None):
        """Sends to all clients whose name matches `mask`; else as `publish`."""
        self._bus_complete(mask, Frame(payload, OP_BROADCAST, qos), timeout)

    def publish_for(self, topic, receiver, payload=b'', qos=QoS.PROCESSED, timeout=None):
        """Publishes for one client only; else as `publish`."""
        frame = Frame(payload, OP_PUBLISH_FOR, qos)
        self._bus_wait(self._bus_need_link().send(topic, frame, self.timeout, receiver), topic, timeout)

    def exclude(self, topics, qos=QoS.PROCESSED, timeout=None):
        """Excludes topics, a str or a list of str, from what the subscriptions match; else as `publish`."""
        self._bus_topics(OP_EXCLUDE, topics, qos, timeout)

    def unexclude(self, topics, qos=QoS.PROCESSED, timeout=None):
        """Ends exclusions; else as `publish`."""
        self._bus_topics(OP_UNEXCLUDE, topics, qos, timeout)

    def _bus_topics(self, tp, topics, qos, timeout):
        frame = Frame(None, tp, qos)
        frame.topic = topics
        self._bus_complete(None, frame, timeout)

    def _bus_complete(self, target, frame, timeout):
        self._bus_wait(self.send(target, frame), target, timeout)

    def _bus_wait(self, operation, subject, timeout):
        code = operation.wait_completed(self.timeout if timeout is None else timeout)
        if code != RESPONSE_OK:
            raise _of_code(code, subject)

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

    def stats(self):
        """What the client has done so far: a dict of r_frames, r_bytes, w_frames, w_bytes, queue, dropped, unhandled."""
        return self._bus_need_link().stats()

    def secondary(self, suffix=None):
        """Connects a secondary client NAME%%SUFFIX; a number unless given. It ends with this one."""
        link = self._bus_need_link().secondary(suffix)
        other = type(self).__new__(type(self))
        Client.__init__(other, self.path, link.name(), **self._bus_options)
        other.timeout = self.timeout
        with other._bus_mutex():
            other._bus_adopt(link)
        return other

    def batches(self, most=_MAX_BATCH, timeout=None):
        """Iterates over received frames in lists of up to `most`, until the connection ends, or until none has come for
        `timeout` seconds. `on_frame` gets none from here on. One thread at a time may iterate. A broker takes all frames of
        a list for handled: one that takes long should be short."""
        source = self._bus_take_over()
        while True:
            batch = source.take(most, timeout)
            if not batch:
                return
            yield batch

    def __iter__(self):
        """Iterates over received frames until the connection ends. `on_frame` gets none from here on."""
        source, size = self._bus_take_over(), 1
        while True:
            batch = source.take(size)
            if not batch:
                return
            began = time.monotonic()
            yield from batch
            size = _next_size(size, time.monotonic() - began, _MAX_BATCH)

    def _bus_take_over(self):
        with self._bus_mutex():
            link = self._bus_need_link()
            if self._bus_source is not None and self._bus_source[0] is link and self._bus_serving is _ITERATION:
                return self._bus_source[1]
            self._bus_serving = _ITERATION
            return self._bus_plain_source(link)


# Marks a client whose frames are iterated over.
_ITERATION = object()
_UNSHARED = ('_bus_link', '_bus_source', '_bus_serving', '_bus_lock', '_bus_pid', '_bus_inherited')


def _server_of(handler):
    """The Rpc whose handler of frames this is, if it is one."""
    rpc = getattr(handler, '__self__', None)
    if rpc is None or not getattr(type(rpc), '_bus_is_busrt_rpc', False):
        return None
    return rpc if getattr(handler, '__name__', None) == '_handle_frame' else None


def _start(target, *args):
    threading.Thread(target=target, args=args, name='busrt', daemon=True).start()
