"""The end of a program: what was sent before it arrives, whichever way it ends, and nothing crashes or hangs."""

import signal
import subprocess
import sys
import time

import pytest

from busrt.client import Client
from busrt.rpc import Rpc
from conftest import dropped, until
from running import Program, run

COUNT = 20_000

# Each program sends numbered frames to its third argument without waiting for anything, and then ends.
SYNC = """
import multiprocessing, os, sys, threading, time
from busrt.client import Client, Frame

path, name, target, end = sys.argv[1:5]

def burst(name, first=0):
    client = Client(path, name)
    client.connect()
    for n in range(first, first + 20_000):
        client.send(target, Frame(b'%06d' % n + b'.' * 94))
    return client

def child(name):
    burst(name)

if __name__ == '__main__':
    if end == 'in a fork':
        burst(name)
        if os.fork() == 0:
            burst(name + '.child', 20_000)
            os._exit(0)
        os.wait()
    elif end == 'in a thread':
        thread = threading.Thread(target=burst, args=(name,))
        thread.start()
    elif end.startswith('multiprocessing'):
        context = multiprocessing.get_context(end.split()[1])
        process = context.Process(target=child, args=(name,))
        process.start()
        process.join()
        sys.exit(process.exitcode)
    elif end == 'an exit handler':
        import atexit
        atexit.register(burst, name)
    else:
        client = burst(name)
        if end == 'an exception':
            raise ValueError('the end')
        if end == 'sys.exit':
            sys.exit(3)
        if end == 'os._exit':
            os._exit(4)
        if end == 'no reference':
            del client
        if end == 'an interrupt':
            raise KeyboardInterrupt
        if end == 'a kind of interrupt':
            raise type('Stop', (KeyboardInterrupt,), {})
"""

ASYNC = """
import asyncio, multiprocessing, os, sys
from busrt_async.client import Client, Frame

path, name, target, end = sys.argv[1:5]

async def burst(name, first=0):
    client = Client(path, name)
    await client.connect()
    for n in range(first, first + 20_000):
        await client.send(target, Frame(b'%06d' % n + b'.' * 94))
    return client

async def main(name):
    client = await burst(name)
    if end == 'an exception':
        raise ValueError('the end')
    if end == 'sys.exit':
        sys.exit(3)
    if end == 'os._exit':
        os._exit(4)
    if end == 'no reference':
        del client
    if end == 'an interrupt':
        raise KeyboardInterrupt
    if end == 'a kind of interrupt':
        raise type('Stop', (KeyboardInterrupt,), {})

def child(name):
    asyncio.run(main(name))

if __name__ == '__main__':
    if end == 'in a fork':
        asyncio.run(burst(name))
        if os.fork() == 0:
            asyncio.run(burst(name + '.child', 20_000))
            os._exit(0)
        os.wait()
    elif end.startswith('multiprocessing'):
        context = multiprocessing.get_context(end.split()[1])
        process = context.Process(target=child, args=(name,))
        process.start()
        process.join()
        sys.exit(process.exitcode)
    elif end == 'an exit handler':
        import atexit
        atexit.register(child, name)
    else:
        asyncio.run(main(name))
"""

# A new interpreter does not find the functions of a program of `-c`: only fork works there.
ENDS = {
    'the last line': 0,
    'an exception': 1,
    'sys.exit': 3,
    'os._exit': 4,
    'no reference': 0,
    'an interrupt': -signal.SIGINT,
    'a kind of interrupt': 1,
    'an exit handler': 0,
    'in a fork': 0,
    'multiprocessing fork': 0,
}


@pytest.fixture
def receiver(path, name):
    client = Client(path, name + '.to')
    client.got = []
    client.on_frame = lambda frame: client.got.append(int(frame.payload[:6]))
    client.connect()
    yield client
    client.disconnect()


def arrives(path, receiver, count):
    """All frames reach the broker. It may drop some for a receiver that is late once their sender is gone, and counts
    them."""
    client = Client(path, receiver.name + '.watch')
    client.connect()
    rpc = Rpc(client)
    until(lambda: len(receiver.got) + dropped(rpc, receiver.name) >= count, f'{count} frames arrive or are counted')
    assert len(receiver.got) + dropped(rpc, receiver.name) == count
    assert len(set(receiver.got)) == len(receiver.got)
    client.disconnect()


@pytest.mark.parametrize('end', ENDS)
@pytest.mark.parametrize('program', [SYNC, ASYNC], ids=['sync', 'asyncio'])
def test_a_burst_before_the_end_arrives(path, name, receiver, program, end):
    raises = end in ('an exception', 'an interrupt', 'a kind of interrupt')
    run(program, path, name, receiver.name, end, status=ENDS[end], quiet=not raises)
    count = COUNT * (2 if end == 'in a fork' else 1)
    arrives(path, receiver, count)


@pytest.mark.parametrize('end', ['the last line', 'an exception', 'an interrupt', 'a kind of interrupt', 'os._exit'])
@pytest.mark.parametrize('program', [SYNC, ASYNC], ids=['sync', 'asyncio'])
def test_the_end_waits_for_a_receiver_that_is_late(path, name, program, end):
    """Python ends by SIGINT after KeyboardInterrupt: no exit handler of the C library runs then."""
    receiver = Client(path, name + '.late', inbox_bytes=65536)
    receiver.got = []

    def on_frame(frame):
        if not receiver.got:
            time.sleep(1.0)
        receiver.got.append(int(frame.payload[:6]))

    receiver.on_frame = on_frame
    receiver.connect()
    program = program.replace('first + 20_000', 'first + 2_000').replace("b'.' * 94", "b'.' * 10_000")
    run(program, path, name, receiver.name, end, status=ENDS[end], quiet=False)
    arrives(path, receiver, 2000)
    receiver.disconnect()


def test_a_burst_of_a_thread_arrives(path, name, receiver):
    run(SYNC, path, name, receiver.name, 'in a thread')
    arrives(path, receiver, COUNT)


@pytest.mark.parametrize('method', ['spawn', 'forkserver'])
@pytest.mark.parametrize('program', [SYNC, ASYNC], ids=['sync', 'asyncio'])
def test_a_burst_of_a_child_with_an_interpreter_of_its_own_arrives(path, name, receiver, program, method, tmp_path):
    file = tmp_path / 'program.py'
    file.write_text(program)
    process = subprocess.run(
        [sys.executable, '-W', 'error', file, path, name, receiver.name, f'multiprocessing {method}'],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (process.returncode, process.stderr) == (0, '')
    arrives(path, receiver, COUNT)


@pytest.mark.parametrize('program', [SYNC, ASYNC], ids=['sync', 'asyncio'])
def test_a_broker_that_reads_nothing_holds_the_end_no_longer_than_the_timeout(broker, name, program):
    program = program.replace('first + 20_000', 'first + 200')
    program = program.replace('client.connect()\n', 'client.connect(); print("connected", flush=True); time.sleep(0.5)\n')
    with Program('import time\n' + program, broker.path, name, 'nobody', 'the last line') as running:
        assert running.line() == 'connected'
        broker.suspend()
        began = time.monotonic()
        status, errors = running.wait()
        # The client's timeout is 1 s, and the end itself takes some time.
        assert time.monotonic() - began < 8
        broker.kill()
        assert (status, errors) == (0, '')


# Ends while handlers, calls and waits are under way on all kinds of threads.
BUSY = """
import sys, threading, time
import busrt
from busrt.client import Client, Frame
from busrt.rpc import Request, Rpc

path, name, step = sys.argv[1], sys.argv[2], float(sys.argv[3])

def started(suffix):
    client = Client(path, name + suffix)
    client.connect()
    return client

a, b, c = Rpc(started('.a')), Rpc(started('.b')), started('.c')
a.on_call = lambda event: time.sleep(1000)
a.on_notification = lambda event: time.sleep(1000)
c.on_frame = lambda frame: None

def daemon(work):
    threading.Thread(target=work, daemon=True).start()

def flood():
    while True:
        b.client.send(c.name, Frame(b'x' * 100))

def acknowledged():
    while True:
        b.client.send(c.name, Frame(b'x', qos=1)).wait_completed()

def call():
    b.call(a.client.name, Request('x')).wait_completed()

def iterate():
    for frame in started('.d'):
        pass

for work in (flood, acknowledged, call, iterate, call):
    daemon(work)
time.sleep(step)
"""


@pytest.mark.parametrize('milliseconds', [0, 3, 20, 100, 200])
def test_an_end_with_everything_under_way(path, name, milliseconds):
    began = time.monotonic()
    run(BUSY, path, name, milliseconds / 1000)
    assert time.monotonic() - began < 15


def test_nothing_is_started_by_an_import():
    run("""
        import os, busrt, busrt_async
        assert len(os.listdir('/proc/self/task')) == 1
        """)


def test_stop_of_the_interpreter_without_a_client():
    run('import busrt, os; os._exit(0)')
    run('import busrt, sys; sys.exit(0)')
