"""One connection within one event loop."""

import asyncio
from time import monotonic

from busrt._busrt import Completions
from busrt._errors import AsyncTimeoutError, BusConnectionError, BusTimeoutError
from busrt._pace import next_size

# Results and frames that are handled before the loop does something else.
_RESULTS = 256
_FRAMES = 64


async def finished(task):
    """Waits for work of the runtime, and returns what it yields."""
    loop = asyncio.get_running_loop()
    future = loop.create_future()
    fd = task.fileno()
    loop.add_reader(fd, _set, future)
    try:
        await future
    except BaseException:
        task.cancel()
        raise
    finally:
        loop.remove_reader(fd)
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
    future = asyncio.get_running_loop().create_future()
    waiters[future] = None
    try:
        await within(timeout, future)
    finally:
        waiters.pop(future, None)


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
        self.completions = Completions()
        self.pending = {}
        # What hands over frames, and whether it has all of them.
        self.source = None
        self.is_plain = False
        self.serving = None
        self.tasks = set()
        self.token = 0
        self._bus_lock = asyncio.Lock()
        self._senders = 0
        loop.add_reader(self.completions.fileno(), self._take_results)
        self._take_results()

    # Results.

    def _take_results(self):
        pop = self.pending.pop
        for token, value in self.completions.take(_RESULTS):
            waiting = pop(token, None)
            if waiting is not None:
                waiting._bus_complete(value)

    def register(self, waiting):
        self.token = token = self.token + 1
        self.pending[token] = waiting
        return token

    async def send_later(self, attempt, timeout):
        """Repeats an attempt to send until there is room, in the order of the callers."""
        until = None if timeout is None else self.loop.time() + timeout
        self._senders += 1
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
            self._senders -= 1

    def has_senders(self):
        return self._senders != 0

    # Frames.

    def watch(self, source, handle):
        """Has `handle` called with each list of frames from a source."""
        fd = source.fileno()
        # Tasks that keep the loop for long get smaller batches. While more frames wait, this is called right after them.
        most, was_full, began = 1, False, 0

        def take():
            nonlocal most, was_full, began
            if was_full:
                most = next_size(most, monotonic() - began, _FRAMES)
            batch = source.take(most)
            if batch is None:
                self.loop.remove_reader(fd)
                return
            was_full = len(batch) == most
            if was_full:
                began = monotonic()
            if batch:
                handle(batch)

        self.loop.add_reader(fd, take)

    async def next_batch(self, source, most):
        """Waits for up to `most` frames of a source; None when there will be no more. Lets other tasks run in any case."""
        await asyncio.sleep(0)
        while True:
            batch = source.take(most)
            if batch or batch is None:
                return batch
            future = self.loop.create_future()
            self.loop.add_reader(source.fileno(), _set, future)
            try:
                await future
            finally:
                self.loop.remove_reader(source.fileno())

    def start(self, handler, argument):
        """Starts a task with what a handler returns."""
        try:
            awaitable = handler(argument)
            if awaitable is None:
                return
            task = asyncio.ensure_future(awaitable)
        except Exception as e:
            self.loop.call_exception_handler({'message': 'a handler of the bus has raised', 'exception': e})
            return
        tasks = self.tasks
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def unwatch(self):
        source, self.source = self.source, None
        self.is_plain = False
        if source is not None:
            self.loop.remove_reader(source.fileno())
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
            self._take_results()
            self.loop.remove_reader(self.completions.fileno())
            self.unwatch()
        pending, self.pending = self.pending, {}
        for waiting in pending.values():
            waiting._bus_complete(None)


def of(client):
    """The session of a client."""
    session = client._bus_session
    if session is None:
        raise BusConnectionError('the client is not connected')
    return session
