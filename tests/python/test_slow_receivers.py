"""The synchronous client of PyPI, whose writes fail after one second, sends to receivers that do not keep
up: the broker never holds it for that long, and it stays connected."""

import threading
import time

import pytest
from busrt import client as c

from conftest import until
from wire import SUBSCRIBE, OK, Wire

# A receiver is full above the kernel's buffers plus this. All other options have their defaults.
OPTIONS = ('--queue-bytes', '1000000')
DEFAULT_BUDGET = 16 * 1024 * 1024
PAYLOAD = bytes(16000)
SECONDS = 8


class Receiver:
    """Reads at most this many bytes per second on its own thread; 0: nothing at all."""

    def __init__(self, broker, rate):
        self.wire = Wire(broker.socket, 'receiver')
        assert self.wire.do(SUBSCRIBE, b't') == OK[0]
        self.rate, self.taken, self.stop = rate, 0, False
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()
        self.pinger = threading.Thread(target=self.ping, daemon=True)
        self.pinger.start()

    def read(self):
        began = time.monotonic()
        while not self.stop:
            due = int((time.monotonic() - began) * self.rate) - self.taken
            if due < 1000:
                time.sleep(0.005)
                continue
            data = self.wire.socket.recv(min(due, 65536))
            if not data:
                return
            self.taken += len(data)

    def ping(self):
        try:
            while not self.stop:
                self.wire.send(bytes(9))
                time.sleep(1)
        except OSError:
            pass

    def close(self):
        self.stop = True
        self.thread.join()
        self.wire.close()


def client(broker, name):
    client = c.Client(broker.socket, name)
    assert client.timeout == 1
    client.connect()
    return client


@pytest.mark.parametrize('rate', [320_000, 0], ids=['slow', 'stuck'])
@pytest.mark.parametrize('kind', ['message', 'publication'])
def test_the_sender_survives(start, rate, kind):
    broker = start()
    receiver = Receiver(broker, rate)
    sender = client(broker, 'sender')
    began, longest, sent = time.monotonic(), 0, 0
    while time.monotonic() - began < SECONDS or (sent * len(PAYLOAD) < DEFAULT_BUDGET * 1.3 and rate == 0):
        before = time.monotonic()
        if kind == 'message':
            sender.send('receiver', c.Frame(PAYLOAD))
        else:
            sender.send('t', c.Frame(PAYLOAD, tp=c.OP_PUBLISH))
        longest = max(longest, time.monotonic() - before)
        sent += 1
        # Fast enough that the receiver is full nearly all the time, slow enough for a loaded machine.
        time.sleep(0.0005)
    assert sent * len(PAYLOAD) > DEFAULT_BUDGET, 'the receiver was never full'
    assert longest < 1
    assert sender.is_connected()
    # The sender works normally: its messages to another client arrive.
    with broker.wire('other') as other:
        result = sender.send('other', c.Frame(b'hello', qos=1))
        assert result.wait_completed(timeout=10) == c.RESPONSE_OK
        assert other.frame().endswith(b'hello')
    receiver.close()
    sender.disconnect()


def test_an_acknowledged_message_to_a_stuck_receiver_is_answered(start):
    broker = start(*OPTIONS)
    receiver = Receiver(broker, 0)
    sender = client(broker, 'sender')
    refused = []

    def is_refused():
        result = sender.send('receiver', c.Frame(PAYLOAD, qos=1)).wait_completed(timeout=3)
        if result != c.RESPONSE_OK:
            refused.append(result)
        return refused

    until(is_refused, 'a message is refused')
    assert refused[0] == c.ERR_NOT_DELIVERED
    assert sender.is_connected()
    receiver.close()
    sender.disconnect()
