"""Which handlers the publications of a topic go to, in both modules. The matching is that of the core."""

import collections
import threading

from . import _codec
from ._busrt import TopicMatcher


class TopicHandler:
    """A handler of the publications that match a topic mask: `mask`. See `Client.on_topic`."""

    def __init__(self, client, mask, callback, subscribe, codec):
        self.mask = mask
        self.callback = callback
        self._client = client
        self._subscribe = subscribe
        self._bus_codec = codec
        self._id = None

    def _content(self, frame):
        """What the handler gets for a frame: the frame, or with a codec the decoded one."""
        if self._bus_codec is None:
            return frame
        return _codec.Decoded(frame, _codec.decode(self._bus_codec, frame.payload))

    def _is_full(self):
        return False

    def _begin(self):
        """The client is connected."""

    def _end(self):
        """The connection has ended."""

    def __repr__(self):
        return f'<{type(self).__name__} {self.mask!r}>'


class QueueHandler:
    """What the queues of both modules share."""

    def __init__(self, client, mask, subscribe, maxsize, codec):
        super().__init__(client, mask, None, subscribe, codec)
        self._maxsize = max(maxsize, 1)
        self._frames = collections.deque()
        self._is_closed = False
        self._has_ended = False

    def _begin(self):
        self._has_ended = False

    def __len__(self):
        """The number of publications that wait."""
        return len(self._frames)

    def __bool__(self):
        # An empty queue is a queue.
        return True


class TopicTable:
    """The handlers of one client. May be used from any thread."""

    def __init__(self):
        self._matcher = TopicMatcher()
        self._handlers = {}
        self._bus_lock = threading.Lock()
        self._last = 0

    def add(self, handler):
        with self._bus_lock:
            self._last += 1
            handler._id = self._last
            self._handlers[handler._id] = handler
            self._matcher.insert(handler.mask, handler._id)

    def remove(self, handler):
        """Removes a handler. Returns whether its mask is to be unsubscribed: no other handler has subscribed to it."""
        with self._bus_lock:
            if self._handlers.pop(handler._id, None) is None:
                return False
            self._matcher.remove(handler.mask, handler._id)
            return handler._subscribe and handler.mask not in self._masks()

    def find(self, topic):
        """The handlers of a topic, in the order in which they were added."""
        if topic is None:
            return ()
        handlers = [self._handlers.get(number) for number in self._matcher.find(topic)]
        # Another thread may have removed a handler since it was found.
        return [handler for handler in handlers if handler is not None]

    def all(self):
        with self._bus_lock:
            return list(self._handlers.values())

    def masks(self):
        """The masks that handlers have subscribed to."""
        with self._bus_lock:
            return sorted(self._masks())

    def _masks(self):
        return {handler.mask for handler in self._handlers.values() if handler._subscribe}
