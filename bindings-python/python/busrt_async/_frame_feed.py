"""Received frames on their way to the handlers of their topics, and to the handler of all."""

import logging
from time import monotonic

from busrt._base import log_exception
from busrt._pace import next_size

logger = logging.getLogger('busrt.client')

# Frames that are handled before the loop does something else.
_FRAMES = 64


class FrameFeed:
    """Hands over what a source yields: publications to the handlers of their topics, the rest to a handler of all.

    When the queue of a topic is full, the source is not read until there is room: the client's own inbox fills up then,
    and its bound and policy hold.
    """

    def __init__(self, session):
        self._bus_session = session
        self._client = None
        self._bus_source = None
        self._handle = None
        # What was taken from the source and waits for room in a queue.
        self._waiting = []
        self._is_resuming = False
        self._has_ended = False
        # Tasks that keep the loop for long get smaller batches. While more frames wait, `_take` is called right after them.
        self._most, self._was_full, self._began = 1, False, 0
        # Wakes an iteration that waits for room.
        self._room = None

    def watch(self, client, source, handle):
        """Has `handle` called with each list of frames from `source` that no topic of `client` takes."""
        self._client, self._bus_source, self._handle = client, source, handle
        if handle == client._bus_start_handlers:
            self._waiting[:0] = self._bus_session.held
            self._bus_session.held.clear()
        if self._waiting:
            # An iteration may have left frames for which there is room now.
            self._resume_soon()
        else:
            self._read()

    def unwatch(self):
        """Reads the source no more."""
        source, self._bus_source = self._bus_source, None
        if source is not None:
            self._bus_session.loop.remove_reader(source.fileno())

    def iterate(self, client):
        """The program takes the frames itself from here on."""
        self.unwatch()
        self._client = client

    def _read(self):
        if self._bus_source is not None:
            self._bus_session.add_reader(self._bus_source.fileno(), self._take)

    def _take(self):
        if self._was_full:
            self._most = next_size(self._most, monotonic() - self._began, _FRAMES)
        batch = self._bus_source.take(self._most)
        if batch is None:
            self.unwatch()
            self.end()
            return
        self._was_full = len(batch) == self._most
        if self._was_full:
            self._began = monotonic()
        if batch:
            self._hand_over(batch)

    def _hand_over(self, received):
        if self._client._bus_topics is not None:
            received, self._waiting = self._bus_dispatch(received)
            if self._waiting and self._bus_source is not None:
                self._bus_session.loop.remove_reader(self._bus_source.fileno())
        if received:
            self._handle(received)

    def _bus_dispatch(self, received, is_bounded=True):
        """Gives frames to the handlers of their topics, until a queue is full. Returns those without a handler, and those
        that are left."""
        find, rest = self._client._bus_topics.find, []
        for at, frame in enumerate(received):
            # A notification or a request is a tuple.
            handlers = () if type(frame) is tuple else find(frame.topic)
            if not handlers:
                rest.append(frame)
                continue
            if is_bounded and any(handler._is_full() for handler in handlers):
                return rest, received[at:]
            for handler in handlers:
                try:
                    handler._take(frame, self._bus_session)
                except Exception:
                    log_exception(logger, 'the callback for a topic has raised')
        return rest, []

    def resume(self):
        """A queue has room."""
        self._wake_iteration()
        # An iteration takes what waits itself.
        if self._waiting and self._bus_source is not None:
            self._resume_soon()

    def _wake_iteration(self):
        if self._room is not None and not self._room.done() and not self._bus_session.loop.is_closed():
            self._room.set_result(None)

    def _resume_soon(self):
        if not self._is_resuming:
            self._is_resuming = True
            self._bus_session.call_soon(self._resume)

    def _resume(self):
        self._is_resuming = False
        waiting, self._waiting = self._waiting, []
        if waiting:
            self._hand_over(waiting)
            if not self._waiting:
                self._read()

    async def dispatch(self, batch):
        """Gives frames that a program iterates over to the handlers of their topics, waiting for room. Returns the
        rest."""
        # What an earlier reader has left comes first.
        left, self._waiting = [*self._waiting, *batch], []
        rest = []
        while True:
            others, left = self._bus_dispatch(left, is_bounded=not self._has_ended)
            rest += others
            if not left:
                return rest
            self._room = self._bus_session.loop.create_future()
            try:
                await self._room
            except BaseException:
                # The next reader takes them.
                self._waiting = [*rest, *left]
                raise

    def end(self):
        """The connection has ended: hands over what waits, whatever room there is."""
        client = self._client
        if self._has_ended or client is None:
            return
        self._has_ended = True
        self._wake_iteration()
        waiting, self._waiting = self._waiting, []
        if client._bus_session not in (None, self._bus_session):
            # The client has another connection already.
            return
        if waiting and not self._bus_session.loop.is_closed():
            rest, _ = self._bus_dispatch(waiting, is_bounded=False)
            if rest and self._handle is not None:
                self._handle(rest)
        client._bus_end_topics()
