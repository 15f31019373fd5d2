"""One connection within one event loop."""

import asyncio
import collections
import contextlib
import contextvars
import sys
from inspect import iscoroutine

from busrt._busrt import Completions
from busrt._errors import AsyncTimeoutError, BusConnectionError, BusTimeoutError
from ._frame_feed import FrameFeed

# Tasks can be started at once since Python 3.12.
_EAGER = sys.version_info >= (3, 12)
# Results that are handled before the loop does something else.
_RESULTS = 256
# The tasks of handlers that are not done yet: a loop does not keep them, and they may outlive their session.
_unfinished = set()


async def readable(fd, timeout=None):
    """Waits until a descriptor is readable, at most `timeout` seconds; None is no limit."""
    if timeout is not None and timeout <= 0:
        raise AsyncTimeoutError()
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    loop.add_reader(fd, _set, future)
    try:
        await within(timeout, future)
    finally:
        loop.remove_reader(fd)


async def ended(task):
    """Waits for the end of work of the runtime."""
    try:
        await readable(task.fileno())
    except BaseException:
        task.cancel()
        raise


async def finished(task):
    """Waits for work of the runtime, and returns what it yields."""
    await ended(task)
    try:
        return task.result()
    except BusTimeoutError as e:
        raise AsyncTimeoutError(*e.args) from None


def _set(future):
    if not future.done():
        future.set_result(None)


def _expire(future):
    if not future.done():
        future.set_exception(AsyncTimeoutError())


async def within(timeout, future):
    """Waits for `future`, at most `timeout` seconds; 0 and None are no limit."""
    if not timeout:
        return await future
    timer = future.get_loop().call_later(timeout, _expire, future)
    try:
        return await future
    finally:
        timer.cancel()


async def wait_among(timeout, waiters):
    """Waits, at most `timeout` seconds, for a new future in `waiters`, a dict without values, and takes it out."""
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    waiters[future] = None
    timer = loop.call_later(timeout, _expire, future) if timeout else None
    try:
        await future
    finally:
        waiters.pop(future, None)
        if timer is not None:
            timer.cancel()


async def wait_event(timeout, event):
    """Waits for an event that a program sets, at most `timeout` seconds; 0 and None are no limit."""
    try:
        await asyncio.wait_for(event.wait(), timeout or None)
    except asyncio.TimeoutError:
        raise AsyncTimeoutError() from None


class Session:
    """Sends over a connection, and hands over what comes, in the event loop that connected."""

    def __init__(self, link, loop):
        self.link = link
        self.loop = loop
        # Handlers run in copies of the context that has connected.
        self.context = contextvars.copy_context()
        self.completions = Completions()
        self.feed = FrameFeed(self)
        self.pending = {}
        # What hands over frames, and whether it has all of them.
        self.source = None
        self.is_plain = False
        self.serving = None
        # What an iteration has taken and not yet given out: the next one begins with it.
        self.held = collections.deque()
        # The tasks of handlers that were just started.
        self._started = []
        self.token = 0
        self._bus_lock = asyncio.Lock()
        self.senders = 0
        loop.add_reader(self.completions.fileno(), self._take_results)
        self._take_results()

    # Results.

    def _take_results(self):
        """Takes up to `_RESULTS` results. Returns whether there were any."""
        pop = self.pending.pop
        results = self.completions.take(_RESULTS)
        for token, value in results:
            waiting = pop(token, None)
            if waiting is not None:
                waiting._bus_complete(value)
        return bool(results)

    def register(self, waiting):
        self.token = token = self.token + 1
        self.pending[token] = waiting
        return token

    async def send_later(self, attempt, timeout):
        """Repeats an attempt to send until there is room, in the order of the callers."""
        until = None if timeout is None else self.loop.time() + timeout
        self.senders += 1
        try:
            async with self._bus_lock:
                while True:
                    sent = attempt()
                    if sent is not None and sent is not False:
                        return sent
                    room = asyncio.ensure_future(finished(self.link.room_task()))
                    left = None if until is None else max(until - self.loop.time(), 0)
                    try:
                        await asyncio.wait_for(room, left)
                    except asyncio.TimeoutError:
                        raise AsyncTimeoutError('the broker takes no more from this client') from None
        finally:
            self.senders -= 1

    # Frames.

    async def next_batch(self, source, most, timeout=None):
        """Waits for up to `most` frames of a source, at most `timeout` seconds; None when there will be no more. Lets other
        tasks run in any case. Raises asyncio.TimeoutError."""
        await asyncio.sleep(0)
        while True:
            batch = source.take(most)
            if batch or batch is None:
                return batch
            await readable(source.fileno(), timeout)

    def add_reader(self, fd, callback):
        self.context.copy().run(self.loop.add_reader, fd, callback)

    def call_soon(self, callback):
        self.loop.call_soon(callback, context=self.context.copy())

    def start(self, handler, argument):
        """Starts a task with what a handler returns."""
        try:
            awaitable = handler(argument)
            if awaitable is None:
                return
            if _EAGER and iscoroutine(awaitable) and self.loop.get_task_factory() is None:
                # The first step runs here, so that many a task is done already.
                task = asyncio.Task(awaitable, loop=self.loop, eager_start=True)
                if task.done():
                    return
            else:
                task = asyncio.ensure_future(awaitable)
        except Exception as e:
            self.loop.call_exception_handler({'message': 'a handler of the bus has raised', 'exception': e})
            return
        if not self._started:
            # Called after the first steps of all tasks that are started now.
            self.loop.call_soon(self.loop.call_soon, self._keep_unfinished)
        self._started.append(task)

    def _keep_unfinished(self):
        started, self._started = self._started, []
        for task in started:
            if not task.done():
                _unfinished.add(task)
                task.add_done_callback(_unfinished.discard)

    def unwatch(self):
        source, self.source = self.source, None
        self.is_plain = False
        self.feed.unwatch()
        if source is not None:
            source.stop()

    def end_soon(self):
        """Does the same as `end`, from any thread."""
        try:
            is_here = asyncio.get_running_loop() is self.loop
        except RuntimeError:
            is_here = False
        if is_here or self.loop.is_closed():
            self.end()
        else:
            self.loop.call_soon_threadsafe(self.end)

    def end(self):
        """Stops handing over. Results that are still under way are told that the connection is lost."""
        if not self.loop.is_closed():
            while self._take_results():
                pass
            self.loop.remove_reader(self.completions.fileno())
            self.unwatch()
        self.feed.end()
        pending, self.pending = self.pending, {}
        for waiting in pending.values():
            # A future of a closed loop cannot be completed: no task waits for it any more.
            with contextlib.suppress(RuntimeError):
                waiting._bus_complete(None)


def of(client):
    """The session of a client."""
    session = client._bus_session
    if session is None:
        raise BusConnectionError('the client is not connected')
    return session
