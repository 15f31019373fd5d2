"""The clients of PyPI work on each frame on the thread or in the loop that reads: everything sent to them one-to-one
arrives, everything published arrives or is counted as dropped, and no one is disconnected.

The frames are large and few, so that they fill the queue of a receiver and its socket within seconds. With
BUSY_FRAMES=100000 the broker has all its defaults; BUSY_SIZE is then the size of a payload."""

import asyncio
import os
import threading
import time

import msgpack
import pytest
from busrt import client as c
from busrt_async import client as ac

from conftest import PATIENCE

FRAMES = int(os.environ.get('BUSY_FRAMES', 2000))
SIZE = int(os.environ.get('BUSY_SIZE', 4000))
OPTIONS = () if 'BUSY_FRAMES' in os.environ else ('--queue-size', '200')
# The data sent must be much more than the broker's queue and the socket hold.
assert 'BUSY_FRAMES' in os.environ or FRAMES * SIZE > 6_000_000

TIMES = pytest.mark.parametrize('time_of_work', [0.0005, 0.002], ids=['500us', '2ms'])
KINDS = pytest.mark.parametrize('kind', ['message', 'publication'])


def connected(broker, name):
    client = c.Client(broker.socket, name)
    client.timeout = PATIENCE
    client.connect()
    return client


def payload(number):
    return b'%-*d' % (SIZE, number)


def send_all(broker, kind):
    """Sends on a thread, and returns the client, which must stay: if it left while held, its frames would be lost."""
    sender = connected(broker, 'sender')

    def send():
        for number in range(FRAMES):
            if kind == 'message':
                sender.send('busy', c.Frame(payload(number)))
            else:
                sender.send('t', c.Frame(payload(number), tp=c.OP_PUBLISH))

    sender.thread = threading.Thread(target=send, daemon=True)
    sender.thread.start()
    return sender


class Dropped:
    """Asks the broker for the number of frames that it has dropped."""

    def __init__(self, broker):
        from busrt import rpc as r
        self.rpc = r.Rpc(connected(broker, 'asker'))
        self.request = r.Request

    def __call__(self):
        result = self.rpc.call('.broker', self.request('stats')).wait_completed(timeout=PATIENCE)
        return msgpack.loads(result.get_payload(), raw=False)['dropped']


def check(broker, kind, receiver, taken, wait):
    """Waits until everything has been taken or dropped; `taken` is the list of the received numbers."""
    sender, dropped = send_all(broker, kind), Dropped(broker)
    last, moved = 0, time.monotonic()
    while len(taken) + dropped() < FRAMES:
        assert receiver.is_connected(), f'disconnected after {len(taken)} frames: {broker.log()}'
        if len(taken) != last:
            last, moved = len(taken), time.monotonic()
        assert time.monotonic() - moved < PATIENCE, f'{len(taken)} taken, {dropped()} dropped: {broker.log()}'
        wait(0.1)
    sender.thread.join(PATIENCE)
    wait(0.2)
    assert receiver.is_connected() and sender.is_connected()
    assert len(taken) + dropped() == FRAMES
    assert taken == sorted(taken)
    if kind == 'message':
        assert dropped() == 0, f'{dropped()} messages were dropped: {broker.log()}'
    for client in (sender, dropped.rpc.client):
        client.disconnect()


@TIMES
@KINDS
def test_the_sync_client(start, kind, time_of_work):
    broker = start(*OPTIONS)
    receiver, taken = connected(broker, 'busy'), []

    def work(frame):
        if frame.sender != 'sender':
            return
        time.sleep(time_of_work)
        taken.append(int(frame.payload))

    receiver.on_frame = work
    if kind == 'publication':
        frame = c.Frame(tp=c.OP_SUBSCRIBE, qos=1)
        frame.topic = 't'
        assert receiver.send(None, frame).wait_completed(timeout=PATIENCE) == c.RESPONSE_OK
    check(broker, kind, receiver, taken, time.sleep)
    receiver.disconnect()


@TIMES
@KINDS
def test_the_async_client(start, kind, time_of_work):
    """Its handlers are tasks: only work that blocks its event loop keeps it busy."""
    broker = start(*OPTIONS)
    loop, taken = asyncio.new_event_loop(), []
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def run(coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(PATIENCE)

    async def work(frame):
        if frame.sender != 'sender':
            return
        time.sleep(time_of_work)
        taken.append(int(frame.payload))

    async def connect():
        receiver = ac.Client(broker.socket, 'busy')
        receiver.timeout = PATIENCE
        receiver.on_frame = work
        await receiver.connect()
        if kind == 'publication':
            frame = ac.Frame(tp=ac.OP_SUBSCRIBE, qos=1)
            frame.topic = 't'
            result = await receiver.send(None, frame)
            assert await result.wait_completed(timeout=PATIENCE) == ac.RESPONSE_OK
        return receiver

    receiver = run(connect())
    check(broker, kind, receiver, taken, time.sleep)
    run(receiver.disconnect())
    loop.call_soon_threadsafe(loop.stop)
    thread.join(PATIENCE)
    loop.close()
