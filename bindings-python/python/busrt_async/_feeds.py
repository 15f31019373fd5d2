"""Topics and events of the client for asyncio."""

import asyncio

from busrt._base import ClientBase
from busrt._errors import AsyncTimeoutError, BusConnectionError
from busrt._events import ConnectionEvent
from busrt._topics import QueueHandler, TopicHandler

from ._session import of, readable, within


class TopicCallback(TopicHandler):
    """A callback for the publications that match a topic mask, see `Client.on_topic`. Used in the event loop of the client.
    `mask` and `callback` are what it was made with."""

    # The subscription under way.
    _subscribing = None

    def _take(self, frame, session):
        session.start(self.callback, self._content(frame))

    def __await__(self):
        """Waits until the broker has acknowledged the subscription. Returns itself. Raises BusError when it is refused."""
        return self._subscribed().__await__()

    async def _subscribed(self):
        if self._subscribing is not None:
            await asyncio.shield(self._subscribing)
        return self

    async def close(self):
        """Ends the callback, and the subscription unless another handler has the same mask. May be repeated. Raises BusError
        when the broker does not acknowledge the end of the subscription."""
        await self._client._bus_remove_handler(self)

    async def __aenter__(self):
        return await self

    async def __aexit__(self, *_):
        await self.close()


class TopicQueue(QueueHandler, TopicCallback):
    """A queue of the publications that match a topic mask, see `Client.open_queue`. Used in the event loop of the client.
    `len` is the number of publications that wait."""

    def __init__(self, client, mask, subscribe, maxsize, codec):
        super().__init__(client, mask, subscribe, maxsize, codec)
        self._getters = []

    def _is_full(self):
        return len(self._frames) >= self._maxsize and not self._is_closed

    def _take(self, frame, session):
        content = self._content(frame)
        if not self._is_closed:
            self._frames.append(content)
            self._wake()

    def _wake(self):
        getters, self._getters = self._getters, []
        for getter in getters:
            # A program that has closed the loop waits no more.
            if not getter.done() and not getter.get_loop().is_closed():
                getter.set_result(None)

    def _end(self):
        self._has_ended = True
        self._wake()

    async def get(self, timeout=None):
        """Waits for the next frame (with a codec: Decoded), at most `timeout` seconds, None is no limit. Raises
        asyncio.TimeoutError, and ConnectionError when the connection has ended for good, or the queue is closed, and nothing
        is left."""
        loop = asyncio.get_running_loop()
        until = None if timeout is None else loop.time() + timeout
        while not self._frames:
            if self._is_closed or self._has_ended:
                raise BusConnectionError('the queue has ended')
            left = None if until is None else until - loop.time()
            if left is not None and left <= 0:
                raise AsyncTimeoutError()
            getter = loop.create_future()
            self._getters.append(getter)
            try:
                await within(left, getter)
            finally:
                if getter in self._getters:
                    self._getters.remove(getter)
        frame = self._frames.popleft()
        self._resume()
        return frame

    def _resume(self):
        """There is room: a source that waits for it is read again."""
        session = self._client._bus_session
        if session is not None:
            session.feed.resume()

    async def __aiter__(self):
        """Iterates over frames until the connection ends for good or the queue is closed."""
        while True:
            try:
                frame = await self.get()
            except BusConnectionError:
                return
            yield frame

    async def close(self):
        """Ends the queue, and the subscription unless another handler has the same mask. Frames that wait can still be
        taken. May be repeated. Raises BusError when the broker does not acknowledge the end of the subscription."""
        self._is_closed = True
        self._wake()
        self._resume()
        await super().close()


class Feeds(ClientBase):
    """What a client for asyncio offers beyond the handler of all frames."""

    _bus_callback_class = TopicCallback
    _bus_queue_class = TopicQueue

    def _bus_add_handler(self, handler):
        self._bus_insert(handler)
        if handler._subscribe and self.is_connected():
            handler._subscribing = self._bus_session.loop.create_task(self._bus_subscribe_handler(handler))
        self._bus_attach_topics()
        return handler

    async def _bus_subscribe_handler(self, handler):
        try:
            await self._bus_subscribe_masks([handler.mask])
        except BaseException:
            self._bus_topics.remove(handler)
            handler._end()
            raise

    async def _bus_remove_handler(self, handler):
        if self._bus_topics.remove(handler) and self.is_connected():
            await self._bus_unsubscribe_masks([handler.mask])

    async def _bus_begin_feeds(self):
        """The client is connected."""
        for callback in self._bus_event_callbacks:
            self._bus_watch_events(callback)
        masks = self._bus_begin_topics()
        if masks:
            await self._bus_subscribe_masks(masks)

    def _bus_watch_events(self, callback):
        session = of(self)
        stream = session.link.loop_events()
        fd = stream.fileno()

        def take():
            events, is_last = stream.take()
            if is_last:
                session.loop.remove_reader(fd)
            for attributes in events:
                session.start(callback, ConnectionEvent(**attributes))

        session.add_reader(fd, take)

    def events(self, timeout=None):
        """Iterates asynchronously over the ConnectionEvents of the connection, the present state first, until it has ended
        for good. Raises asyncio.TimeoutError when none happens for `timeout` seconds (None is no limit), ConnectionError
        before `connect`. Up to 256 events wait, the newest ones."""
        return _events(of(self).link.loop_events(), timeout)


async def _events(stream, timeout):
    while True:
        events, is_last = stream.take()
        for attributes in events:
            yield ConnectionEvent(**attributes)
        if is_last:
            return
        if not events:
            await readable(stream.fileno(), timeout)
