"""What the clients of both modules share: attributes, options, handlers of topics, and what they send.

Methods that return what `_complete` or `send` returns wait in `busrt`, and return a coroutine in `busrt_async`.
"""

from . import _codec
from ._busrt import Broker, Frame
from ._constants import (
    OP_BROADCAST,
    OP_EXCLUDE,
    OP_MESSAGE,
    OP_PUBLISH,
    OP_PUBLISH_FOR,
    OP_SUBSCRIBE,
    OP_UNEXCLUDE,
    OP_UNSUBSCRIBE,
    QoS,
)
from ._topics import TopicTable

# The smallest size of one read, in bytes.
_MIN_BUF_SIZE = 65536

# Marks a client whose frames are iterated over.
ITERATION = object()


def log_exception(logger, text):
    """Logs the exception that is handled. What a filter of the program raises ends no thread of ours."""
    try:
        logger.exception(text)
    except BaseException:
        pass


class CallFrame:
    """The request of a call on its way through `Client.send`, which may be overridden: to that it is the request."""

    def __init__(self, request, event):
        self._bus_request = request
        self.payload = request.payload
        self.type = OP_MESSAGE
        self.qos = request.qos
        self.method = request.method
        self.header = getattr(request, 'header', None)
        self._event = event

    @property
    def __class__(self):
        return type(self._bus_request)

    def __getattr__(self, name):
        if name.startswith('__') or name == '_bus_request':
            raise AttributeError(name)
        return getattr(self._bus_request, name)


def server_of(handler):
    """The Rpc whose handler of frames this is, if it is one."""
    rpc = getattr(handler, '__self__', None)
    if rpc is None or not getattr(type(rpc), '_bus_is_busrt_rpc', False):
        return None
    return rpc if getattr(handler, '__name__', None) == '_handle_frame' else None


class ClientBase:
    """The attributes of a client, and what it sends."""

    # A subclass that does not call __init__ has these values, and so has an instance before it.
    buf_size = 8192
    timeout = 1
    ping_interval = 1
    _bus_options = {}
    _bus_codec = None
    # If true, frames wait while nothing takes them. Else they are discarded.
    _bus_keeps = False
    _bus_topics = None
    _bus_event_callbacks = ()
    # The attributes that are not copied and not pickled.
    _bus_UNSHARED = ('_bus_topics', '_bus_event_callbacks')

    def __init__(self, path, name, **options):
        self.path = path
        self.name = name
        self.buf_size = 8192
        self.ping_interval = 1
        self.timeout = options.pop('timeout', 1)
        codec = _codec.find(options.pop('codec', None))
        if codec is not None:
            self._bus_codec = codec
        self._bus_options = options

    def __setattr__(self, name, value):
        object.__setattr__(self, name, value)
        if name == 'on_frame':
            self._bus_attach()
        elif name == 'ping_interval':
            link = self._bus_link_now()
            if link is not None:
                link.set_ping_interval(value)

    # A client is not copied with its connection, and not sent to other processes with it.
    def __getstate__(self):
        return {k: v for k, v in self.__dict__.items() if k not in self._bus_UNSHARED}

    def __setstate__(self, state):
        self.__dict__.update(state)

    def is_connected(self):
        """Whether the client is connected."""
        return self.connected

    def _bus_link_options(self):
        """The options of a new connection, and the descriptor of the inherited socket, if it is made over one."""
        options = dict(self._bus_options)
        fd = options.pop('fd', None)
        options.update(timeout=self.timeout, ping_interval=self.ping_interval, buf_size=max(int(self.buf_size), _MIN_BUF_SIZE))
        return options, fd.fileno() if hasattr(fd, 'fileno') else fd

    def _bus_embedded_broker(self):
        """The broker of this process that the client connects to, if `path` is one."""
        broker = getattr(self.path, '_broker', self.path)
        return broker if isinstance(broker, Broker) else None

    def _bus_like_this(self, name):
        """A client with the attributes of this one and another name."""
        other = type(self).__new__(type(self))
        ClientBase.__init__(other, self.path, name, timeout=self.timeout, codec=self._bus_codec, **self._bus_options)
        other._bus_keeps = self._bus_keeps
        return other

    # Sending.

    def subscribe(self, topics):
        """Subscribes to topics, a str or a list of str. Returns as `send`."""
        return self.send(None, _change(OP_SUBSCRIBE, topics, 0))

    def unsubscribe(self, topics):
        """Ends subscriptions to topics, a str or a list of str. Returns as `send`."""
        return self.send(None, _change(OP_UNSUBSCRIBE, topics, 0))

    # Names that no program in the field uses.

    def publish(self, topic, payload=b'', qos=QoS.PROCESSED, timeout=None, codec=None):
        """Publishes to `topic`. With a QoS that asks for it, waits for the acknowledgement, at most `timeout` seconds
        (the client's timeout unless given).

        `codec` is 'msgpack', 'json', 'bytes' (no coding) or an object with `dumps` and `loads`; the client's unless given.
        With one the payload is any value that it can encode; None is an empty payload. Raises BusError: TimeoutError,
        ConnectionError, PermissionError; and what the codec raises.
        """
        return self._bus_send_payload(OP_PUBLISH, topic, payload, qos, timeout, codec)

    def send_message(self, target, payload=b'', qos=QoS.PROCESSED, timeout=None, codec=None):
        """Sends to the client of exactly that name; else as `publish`. Raises LookupError when there is none."""
        return self._bus_send_payload(OP_MESSAGE, target, payload, qos, timeout, codec)

    def broadcast(self, mask, payload=b'', qos=QoS.PROCESSED, timeout=None, codec=None):
        """Sends to all clients whose name matches `mask`; else as `publish`."""
        return self._bus_send_payload(OP_BROADCAST, mask, payload, qos, timeout, codec)

    def publish_for(self, topic, receiver, payload=b'', qos=QoS.PROCESSED, timeout=None, codec=None):
        """Publishes for the client `receiver` only; else as `publish`."""
        return self._bus_send_payload(OP_PUBLISH_FOR, topic, payload, qos, timeout, codec, receiver)

    def exclude(self, topics, qos=QoS.PROCESSED, timeout=None):
        """Excludes topics, a str or a list of str, from what the subscriptions match. Waits and raises as `publish`."""
        return self._bus_complete(None, _change(OP_EXCLUDE, topics, qos), timeout)

    def unexclude(self, topics, qos=QoS.PROCESSED, timeout=None):
        """Ends exclusions; else as `exclude`."""
        return self._bus_complete(None, _change(OP_UNEXCLUDE, topics, qos), timeout)

    def _bus_send_payload(self, tp, target, payload, qos, timeout, codec, receiver=None):
        codec = self._bus_codec if codec is None else _codec.find(codec)
        if codec is not None:
            payload = _codec.encode(codec, payload)
        return self._bus_complete(target, Frame(payload, tp, qos), timeout, receiver)

    def _bus_subscribe_masks(self, masks):
        return self._bus_complete(None, _change(OP_SUBSCRIBE, masks, QoS.PROCESSED), None)

    def _bus_unsubscribe_masks(self, masks):
        return self._bus_complete(None, _change(OP_UNSUBSCRIBE, masks, QoS.PROCESSED), None)

    def stats(self):
        """What the client has done so far: a dict of r_frames, r_bytes, w_frames, w_bytes, queue (frames that wait), dropped
        and unhandled (frames). Raises ConnectionError before the first `connect`."""
        return self._bus_need_link().stats()

    # Topics and events.

    def on_topic(self, mask, callback=None, *, subscribe=True, codec=None):
        """Has `callback` called with each publication whose topic matches `mask`; without it, returns a decorator.

        Subscribes to the mask, now and at each `connect`, unless told not to. The publications of a callback are handed
        over in the order received; `on_frame` gets what matches no mask, and what matches several is given to each. With a
        `codec` (as of `publish`; the client's unless given) the callback gets a Decoded instead of the frame. An exception,
        also of the codec, is logged. Returns a handle whose `close` ends the callback. Raises BusError when the broker
        refuses the subscription.

        busrt: the callbacks run one after another on the thread that calls `on_frame`. The handle is a context manager.
        May be called from any thread.

        busrt_async: the callback is a coroutine function or a plain one; each publication is handled by a task of its own.
        `await` the handle to know that the subscription is in force, and to get the exception if it is refused; it is also
        an asynchronous context manager.
        """
        if callback is None:

            def decorate(function):
                self.on_topic(mask, function, subscribe=subscribe, codec=codec)
                return function

            return decorate
        handler = self._bus_callback_class(self, mask, callback, subscribe, _codec.find(codec, self._bus_codec))
        return self._bus_add_handler(handler)

    def open_queue(self, mask, maxsize=1024, *, subscribe=True, codec=None):
        """Opens a queue of the publications whose topic matches `mask`; else as `on_topic`.

        `get(timeout=None)` takes one, iteration takes all, until the connection ends for good. When `maxsize` frames wait,
        the client takes no more until the program has: the bound of the client's own inbox and its policy (`inbox_bytes`,
        `overflow`) then hold for everything that comes.
        """
        return self._bus_add_handler(self._bus_queue_class(self, mask, subscribe, maxsize, _codec.find(codec, self._bus_codec)))

    def on_event(self, callback):
        """Has `callback` called with each ConnectionEvent, the present state first if the client is connected. It stays for
        further connections. Returns the callback, so that this is also a decorator.

        busrt: it runs on a thread of its own; an exception is logged. busrt_async: it may be a coroutine function; each
        event is handled by a task of its own.
        """
        self._bus_event_callbacks = (*self._bus_event_callbacks, callback)
        if self._bus_link_now() is not None:
            self._bus_watch_events(callback)
        return callback

    def _bus_insert(self, handler):
        if self._bus_topics is None:
            self._bus_topics = TopicTable()
        self._bus_topics.add(handler)

    def _bus_end_topics(self):
        if self._bus_topics is not None:
            for handler in self._bus_topics.all():
                handler._end()

    def _bus_begin_topics(self):
        """The client is connected. Returns the masks to subscribe to."""
        if self._bus_topics is None:
            return []
        for handler in self._bus_topics.all():
            handler._begin()
        return self._bus_topics.masks()


def _change(tp, topics, qos):
    frame = Frame(None, tp, qos)
    frame.topic = topics
    return frame
