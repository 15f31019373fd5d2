"""One measurement of the synchronous client, ours or that of PyPI, with the same program.

work_sync.py ROW PATH SECONDS      prints operations, seconds and processor seconds as JSON
"""

import json
import sys
import threading
import time
from collections import deque

from busrt.client import OP_PUBLISH, Client, Frame
from busrt.rpc import Request, Rpc

WARM_UP = 0.2
PAYLOAD = b'x' * 100
LARGE = b'x' * 1024 * 1024
WINDOW = 64
# Number of operations between two readings of the clock.
ROUND = 50


def connected(path):
    client = Client(path, 'bench')
    client.timeout = 60
    client.connect()
    return client


def measure(rounds, finish):
    """Calls `rounds()`, which returns the number of its operations, repeatedly for the measured time."""

    def run(seconds):
        done, end = 0, time.perf_counter() + seconds
        while time.perf_counter() < end:
            done += rounds()
        finish()
        return done

    run(WARM_UP)
    cpu, began = time.process_time(), time.perf_counter()
    done = run(SECONDS)
    return done, time.perf_counter() - began, time.process_time() - cpu


def sending(client, make, per_round=ROUND):
    def rounds():
        for _ in range(per_round):
            make()
        return per_round

    def finish():
        # Its acknowledgement shows that the broker has handled everything that was sent before.
        client.send('bench', Frame(b'', qos=1)).wait_completed(60)

    return measure(rounds, finish)


def windowed(start, wait):
    under_way = deque()

    def rounds():
        for _ in range(ROUND):
            under_way.append(start())
            if len(under_way) >= WINDOW:
                wait(under_way.popleft())
        return ROUND

    def finish():
        while under_way:
            wait(under_way.popleft())

    return measure(rounds, finish)


def counted(count):
    """Measures the count of a handler, starting with the first item."""
    print('ready', flush=True)
    while count() == 0:
        time.sleep(0.01)
    time.sleep(WARM_UP)
    before, cpu, began = count(), time.process_time(), time.perf_counter()
    time.sleep(SECONDS)
    after, cpu_after, ended = count(), time.process_time(), time.perf_counter()
    return after - before, ended - began, cpu_after - cpu


class Counter:
    def __init__(self):
        self.value = 0

    def __call__(self, _):
        self.value += 1

    def get(self):
        return self.value


def publish(path):
    client = connected(path)
    return sending(client, lambda: client.send('bench/topic', Frame(PAYLOAD, tp=OP_PUBLISH)))


def acknowledged(path):
    client = connected(path)
    return sending(client, lambda: client.send('bench/topic', Frame(PAYLOAD, tp=OP_PUBLISH, qos=1)).wait_completed(60))


def acknowledged_64(path):
    client = connected(path)
    return windowed(
        lambda: client.send('bench/topic', Frame(PAYLOAD, tp=OP_PUBLISH, qos=1)), lambda done: done.wait_completed(60)
    )


def receive(path):
    client, counter = connected(path), Counter()
    client.on_frame = counter
    return counted(counter.get)


def receive_rpc(path):
    client, counter = connected(path), Counter()
    Rpc(client).on_notification = counter
    return counted(counter.get)


def receive_iteration(path):
    import busrt

    client, counter = busrt.connect(path, 'bench'), Counter()

    def iterate():
        for _ in client:
            counter.value += 1

    threading.Thread(target=iterate, daemon=True).start()
    return counted(counter.get)


def receive_batches(path):
    import busrt

    client, counter = busrt.connect(path, 'bench'), Counter()

    def iterate():
        for batch in client.batches():
            counter.value += len(batch)

    threading.Thread(target=iterate, daemon=True).start()
    return counted(counter.get)


def receive_large(path):
    client, counter = connected(path), Counter()

    def on_frame(frame):
        counter.value += len(frame.payload) // len(LARGE)

    client.on_frame = on_frame
    return counted(counter.get)


def call(path):
    rpc = Rpc(connected(path))
    return measure(lambda: rpc.call('.broker', Request('test')).wait_completed(60) and 1, lambda: None)


def call_64(path):
    rpc = Rpc(connected(path))
    return windowed(lambda: rpc.call('.broker', Request('test')), lambda done: done.wait_completed(60))


def send_large(path):
    client = connected(path)
    return sending(client, lambda: client.send('bench.sink', Frame(LARGE)), 1)


def idle(path):
    client = connected(path)
    time.sleep(WARM_UP)
    before, began = wake_ups(), time.perf_counter()
    cpu = time.process_time()
    time.sleep(SECONDS * 4)
    done = wake_ups() - before, time.perf_counter() - began, time.process_time() - cpu
    client.disconnect()
    return done


def wake_ups():
    """Returns the voluntary context switches of all threads except this one."""
    import os

    total = 0
    for thread in os.listdir('/proc/self/task'):
        if int(thread) != os.getpid():
            with open(f'/proc/self/task/{thread}/status') as status:
                total += sum(int(line.split()[1]) for line in status if line.startswith('voluntary'))
    return total


row, address, SECONDS = sys.argv[1], sys.argv[2], float(sys.argv[3])
operations, seconds, processor = globals()[row](address)
print(json.dumps({'operations': operations, 'seconds': seconds, 'processor': processor}), flush=True)
# The interpreter does not exit normally, because the clients of PyPI can hang in a flood at its end.
import os  # noqa: E402

os.kill(os.getpid(), 9)
