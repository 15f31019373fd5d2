"""Topics and events of the client for plain threads."""

import contextvars
import logging
import threading

from ._base import ClientBase, log_exception
from ._errors import BusConnectionError, BusTimeoutError
from ._events import ConnectionEvent
from ._topics import QueueHandler, TopicHandler

logger = logging.getLogger('busrt.client')


def start_thread(target, *args):
    """Starts a daemon thread in a copy of the context of the caller."""
    run = contextvars.copy_context().run
    threading.Thread(target=run, args=(target, *args), name='busrt', daemon=True).start()


class TopicCallback(TopicHandler):
    """A callback for the publications that match a topic mask, see `Client.on_topic`. May be used from any thread, and in a
    `with` statement to close it at the end. `mask` and `callback` are what it was made with."""

    def _take(self, frame):
        self.callback(self._content(frame))

    def close(self):
        """Ends the callback, and the subscription unless another handler has the same mask. May be repeated. Raises BusError
        when the broker does not acknowledge the end of the subscription."""
        self._client._bus_remove_handler(self)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class TopicQueue(QueueHandler, TopicCallback):
    """A queue of the publications that match a topic mask, see `Client.open_queue`. May be used from any thread, and in a
    `with` statement to close it at the end. `len` is the number of publications that wait."""

    def __init__(self, client, mask, subscribe, maxsize, codec):
        super().__init__(client, mask, subscribe, maxsize, codec)
        self._changed = threading.Condition()

    def _take(self, frame):
        content = self._content(frame)
        with self._changed:
            self._changed.wait_for(lambda: len(self._frames) < self._maxsize or self._is_closed)
            if not self._is_closed:
                self._frames.append(content)
                self._changed.notify_all()

    def _end(self):
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()

    def get(self, timeout=None):
        """Waits for the next frame (with a codec: Decoded), at most `timeout` seconds, None is no limit. Raises TimeoutError,
        and ConnectionError when the connection has ended for good, or the queue is closed, and nothing is left."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._frames or self._is_closed or self._has_ended, timeout):
                raise BusTimeoutError()
            if not self._frames:
                raise BusConnectionError('the queue has ended')
            frame = self._frames.popleft()
            self._changed.notify_all()
            return frame

    def __iter__(self):
        """Iterates over frames until the connection ends for good or the queue is closed."""
        while True:
            try:
                frame = self.get()
            except BusConnectionError:
                return
            yield frame

    def close(self):
        """Ends the queue, and the subscription unless another handler has the same mask. Frames that wait can still be
        taken. May be repeated. Raises BusError when the broker does not acknowledge the end of the subscription."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        super().close()


class Feeds(ClientBase):
    """What a client for plain threads offers beyond the handler of all frames."""

    _bus_callback_class = TopicCallback
    _bus_queue_class = TopicQueue

    def _bus_add_handler(self, handler):
        self._bus_insert(handler)
        try:
            if handler._subscribe and self.is_connected():
                self._bus_subscribe_masks([handler.mask])
        except BaseException:
            self._bus_topics.remove(handler)
            raise
        self._bus_attach_topics()
        return handler

    def _bus_remove_handler(self, handler):
        if self._bus_topics.remove(handler) and self.is_connected():
            self._bus_unsubscribe_masks([handler.mask])

    def _bus_begin_feeds(self):
        """The client is connected."""
        for callback in self._bus_event_callbacks:
            self._bus_watch_events(callback)
        masks = self._bus_begin_topics()
        if masks:
            self._bus_subscribe_masks(masks)

    def _bus_dispatch(self, frame):
        """Gives a frame to the handlers of its topic. Returns whether there are any."""
        handlers = self._bus_topics.find(frame.topic)
        for handler in handlers:
            try:
                handler._take(frame)
            except BaseException:
                log_exception(logger, 'the callback for a topic has raised')
        return bool(handlers)

    def _bus_watch_events(self, callback):
        start_thread(_tell_events, self._bus_need_link().events(), callback)

    def events(self, timeout=None):
        """Iterates over the ConnectionEvents of the connection, the present state first, until it has ended for good.
        Raises TimeoutError when none happens for `timeout` seconds (None is no limit), ConnectionError before `connect`. Up
        to 256 events wait, the newest ones."""
        return _events(self._bus_need_link().events(), timeout)


def _events(stream, timeout):
    while True:
        event = stream.wait(timeout)
        if event is None:
            return
        yield ConnectionEvent(**event)


def _tell_events(stream, callback):
    for event in _events(stream, None):
        try:
            callback(event)
        except BaseException:
            log_exception(logger, 'the callback for an event has raised')
