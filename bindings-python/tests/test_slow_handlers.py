"""Handlers that need longer than frames take to come, with little room for what waits: messages to one receiver all
arrive, of publications those that did not are counted by the broker, and the receiver stays connected.

Scaled down here. BUSRT_TESTS=full takes 100,000 frames for each delay, which needs hours for the longest ones."""

import asyncio
import threading
import time

import pytest

import busrt_async
from busrt.client import OP_PUBLISH, OP_SUBSCRIBE, Client, Frame
from busrt.rpc import Notification, Rpc
from conftest import Busrtd, dropped, subscribed
from running import IS_FULL

INBOX_BYTES = 1024 * 1024
# For each delay in milliseconds, the number of frames and the size of each in bytes. The inbox is much smaller.
SCALE = {0.1: (8000, 1000), 0.5: (2500, 2000), 5: (250, 20_000), 50: (25, 200_000)}
if IS_FULL:
    SCALE = {delay: (100_000, 100 if delay < 1 else 1000) for delay in SCALE}
# Without progress for so long, the test fails.
STILL = 30


class Receiver:
    """A client whose handler sleeps for each frame."""

    def __init__(self, path, name, way, delay):
        self.got, self.way, self.loop = [], way, None
        make = busrt_async.Client if 'asyncio' in way else Client
        self.client = client = make(path, name, inbox_bytes=INBOX_BYTES)
        self.name = name
        if 'asyncio' in way:
            self.loop = asyncio.new_event_loop()
            threading.Thread(target=self.loop.run_forever, daemon=True).start()

            # Handlers of asyncio are tasks: one that blocks is what is slow.
            async def on_frame(frame):
                time.sleep(delay)
                self.got.append(int(frame.payload[:8]))

            if way == 'asyncio':
                client.on_frame = on_frame
            self.run(client.connect())
            if way == 'iteration with asyncio':

                async def iterate():
                    async for frame in client:
                        await on_frame(frame)

                self.iteration = asyncio.run_coroutine_threadsafe(iterate(), self.loop)
            topics = Frame(tp=OP_SUBSCRIBE, qos=1)
            topics.topic = 'slow'
            assert self.run(self.run(client.send(None, topics)).wait_completed()) == 1
            return

        def handle(payload):
            time.sleep(delay)
            self.got.append(int(payload[:8]))

        client.connect()
        if way == 'iteration':
            subscribed(client, 'slow')
            threading.Thread(target=lambda: [handle(frame.payload) for frame in client], daemon=True).start()
            return
        if way == 'Client.on_frame':
            client.on_frame = lambda frame: handle(frame.payload)
        else:
            rpc = Rpc(client)
            rpc.on_frame = lambda frame: handle(frame.payload)
            rpc.on_notification = lambda event: handle(event.get_payload())
        subscribed(client, 'slow')

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(60)

    def wait(self, is_complete):
        """Waits until `is_complete` holds, as long as there is progress."""
        before, since = -1, time.monotonic()
        while not is_complete():
            if len(self.got) != before:
                before, since = len(self.got), time.monotonic()
            assert time.monotonic() - since < STILL, f'{before} frames, and no more: from {self.got[:1]} on'
            time.sleep(0.05)

    def close(self):
        if self.loop is None:
            self.client.disconnect()
        else:
            self.run(self.client.disconnect())
            self.loop.call_soon_threadsafe(self.loop.stop)
            while self.loop.is_running():
                time.sleep(0.001)
            self.loop.close()


@pytest.fixture
def sender(path, name):
    client = Client(path, name + '.from')
    # A slow receiver makes its sender wait for as long as it needs for what it has.
    client.timeout = 60 if not IS_FULL else 600
    client.connect()
    yield Rpc(client)
    client.disconnect()


@pytest.fixture
def receiver(path, name):
    made = []

    def receiver(way, delay):
        made.append(Receiver(path, name + '.to', way, delay / 1000))
        return made[0]

    yield receiver
    for each in made:
        each.close()


@pytest.mark.parametrize('delay', SCALE)
@pytest.mark.parametrize('way', ['Client.on_frame', 'Rpc.on_notification', 'asyncio'])
def test_messages_all_arrive(sender, receiver, way, delay):
    receiver, (count, size) = receiver(way, delay), SCALE[delay]
    for number in range(count):
        payload = b'%08d' % number + bytes(size)
        if way == 'Rpc.on_notification':
            notification = Notification(payload)
            notification.qos = 0
            sender.notify(receiver.name, notification)
        else:
            sender.client.send(receiver.name, Frame(payload))
    receiver.wait(lambda: len(receiver.got) == count)
    assert receiver.got == list(range(count))
    assert receiver.client.is_connected() and dropped(sender, receiver.name) == 0


@pytest.mark.parametrize('delay', SCALE)
@pytest.mark.parametrize('way', ['Client.on_frame', 'Rpc.on_frame', 'asyncio'])
def test_publications_arrive_or_are_counted(sender, receiver, way, delay):
    receiver, (count, size) = receiver(way, delay), SCALE[delay]
    for number in range(count):
        sender.client.send('slow', Frame(b'%08d' % number + bytes(size), tp=OP_PUBLISH))
    receiver.wait(lambda: len(receiver.got) + dropped(sender, receiver.name) >= count)
    assert len(receiver.got) + dropped(sender, receiver.name) == count
    assert receiver.got == sorted(set(receiver.got))
    assert receiver.client.is_connected()


@pytest.mark.parametrize('way', ['Client.on_frame', 'Rpc.on_notification', 'iteration', 'asyncio', 'iteration with asyncio'])
def test_slow_handlers_take_few_frames_at_a_time(name, way):
    """A broker drops messages for a receiver that takes nothing for the hold time, which is shorter here than many frames
    need: to the broker, what was taken is handled. There is more to send than anything holds."""
    broker = Busrtd('--hold-ms', '150', '--queue-bytes', '65536')
    receiver = Receiver(broker.path, name + '.to', way, 0.02)
    client, observer = Client(broker.path, name + '.from'), Client(broker.path, name + '.observer')
    client.timeout = observer.timeout = 30

    def send():
        sent = Notification() if way == 'Rpc.on_notification' else Frame()
        sent.qos = 0
        try:
            for number in range(20_000):
                sent.payload = b'%08d' % number + bytes(1000)
                client.send(receiver.name, sent)
            ends.append('everything was sent')
        except OSError:
            pass

    client.connect()
    observer.connect()
    ends, thread = [], threading.Thread(target=send)
    thread.start()
    try:
        receiver.wait(lambda: len(receiver.got) >= 50)
        assert dropped(Rpc(observer), receiver.name) == 0 and not ends
        assert receiver.got == list(range(len(receiver.got)))
    finally:
        broker.kill()
        thread.join(30)
        receiver.close()
        broker.stop()
