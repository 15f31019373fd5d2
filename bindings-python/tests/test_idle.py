"""An idle client sleeps: its threads of Python never wake, those of the runtime for pings only."""

import sys

import pytest

from running import run

PROGRAM = """
import asyncio, os, sys, time
import busrt, busrt_async
from busrt.rpc import Request

path, name, kind = sys.argv[1:4]
INTERVAL, SECONDS = 0.125, 1

def wake_ups():
    counts = {}
    for thread in os.listdir('/proc/self/task'):
        folder = f'/proc/self/task/{thread}'
        with open(folder + '/status') as status, open(folder + '/comm') as comm:
            counts[thread] = comm.read().strip(), int(status.read().split('\\nvoluntary_ctxt_switches:')[1].split()[0])
    return counts

def report(before):
    for thread, (comm, count) in wake_ups().items():
        print('runtime' if comm == 'busrt' and int(thread) != os.getpid() else 'python', count - before[thread][1])

def plain():
    client = busrt.Client(path, name)
    client.ping_interval = INTERVAL
    client.connect()
    if kind == 'rpc':
        rpc = busrt.Rpc(client)
        rpc.on_call = lambda event: b''
        rpc.call(name, Request('x')).wait_completed(10)
    time.sleep(0.15)
    before = wake_ups()
    time.sleep(SECONDS)
    report(before)

async def with_asyncio():
    client = busrt_async.Client(path, name)
    client.ping_interval = INTERVAL
    await client.connect()
    busrt_async.Rpc(client)
    await asyncio.sleep(0.15)
    before = wake_ups()
    await asyncio.sleep(SECONDS)
    report(before)
    await client.disconnect()

asyncio.run(with_asyncio()) if kind == 'asyncio' else plain()
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
@pytest.mark.parametrize('kind', ['frames', 'rpc', 'asyncio'])
def test_an_idle_client_wakes_for_pings_only(path, name, kind):
    lines = [line.split() for line in run(PROGRAM, path, name, kind, options=()).splitlines()]
    python = [int(count) for kind, count in lines if kind == 'python']
    runtime = sum(int(count) for kind, count in lines if kind == 'runtime')
    # Reading the counts itself, and the main thread's one wake at the end of its sleep.
    assert sum(python) <= 3, lines
    # 8 pings. The timer may wake once more for each, and the broker pings, too: once every 2.5 s.
    assert runtime <= 2 * 8 + 6, lines
