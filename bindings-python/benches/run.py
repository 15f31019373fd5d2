#!/usr/bin/env python3
"""Compares the Python modules with the packages of PyPI and other systems, and prints the table of
docs/performance-python.md. `make bench-python` builds and installs everything, and writes that page.

    run.py --broker FILE --ours PYTHON --pypi PYTHON [--runs 5] [--seconds 1] [--rows NAME,...] [--write FILE]
"""

import argparse
import json
import os
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
START_TIMEOUT = 15
RUN_TIMEOUT = 60

# Name, title, other side, whether PyPI's clients have the row, required factor over PyPI: sync, asyncio.
ROWS = [
    ('publish', 'publish, QoS 0', None, True, ('8x', '4x')),
    ('acknowledged', 'publish, acknowledged, one by one', None, True, ('1x', '2x')),
    ('acknowledged_64', 'publish, acknowledged, 64 under way', None, True, ('10x', '4x')),
    ('receive', 'receive, `on_frame` of a Client', ('flood', 'frame', 100), True, ('8x', '2x')),
    ('receive_rpc', 'receive, `on_notification` of an Rpc', ('flood', 'notification', 100), True, ('50x', '2x')),
    ('receive_iteration', 'receive, iteration', ('flood', 'frame', 100), False, ('1.5 M/s', '1 M/s')),
    ('receive_batches', 'receive, batches', ('flood', 'frame', 100), False, ('1.5 M/s', '1 M/s')),
    ('call', 'call, one by one', None, True, ('3x', '2x')),
    ('call_64', 'calls, 64 under way', None, True, ('20x', '5x')),
    ('send_large', 'send 1 MiB', ('sink',), True, ('1x', '1x')),
    ('receive_large', 'receive 1 MiB', ('flood', 'frame', 1024 * 1024), True, ('1.2x', '1.7x')),
]
OTHERS = {
    'Redis': ('redis-py', ['publish', 'acknowledged', 'receive']),
    'Nats': ('nats-py', ['publish', 'receive', 'call']),
    'Zmq': ('pyzmq', ['publish', 'receive', 'call']),
}
SAMPLE = {'operations', 'seconds', 'processor'}


class Server:
    """A broker, or another system's server, on its own socket."""

    def __init__(self, command, is_ready):
        null = subprocess.DEVNULL
        self.process = subprocess.Popen(command, stdin=null, stdout=null, stderr=null)
        end = time.monotonic() + START_TIMEOUT
        while not is_ready():
            if time.monotonic() > end or self.process.poll() is not None:
                self.stop()
                raise RuntimeError(f'{command[0]} does not start')
            time.sleep(0.02)

    def stop(self):
        self.process.kill()
        self.process.wait()


def accepts(address):
    if isinstance(address, int):
        with socket.socket() as probe:
            return probe.connect_ex(('127.0.0.1', address)) == 0
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(address) == 0


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def ended(process):
    process.kill()
    process.communicate()


def sample(worker, other):
    """Runs a worker, and the other side after it is ready. Returns operations and microseconds of processor per operation."""
    process = subprocess.Popen(
        [str(word) for word in worker], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    started = []
    try:
        if other:
            if process.stdout.readline() != 'ready\n':
                raise RuntimeError(process.communicate(timeout=5)[1][-500:])
            started.append(subprocess.Popen(other, stdout=subprocess.DEVNULL))
        printed, errors = process.communicate(timeout=RUN_TIMEOUT)
    finally:
        for each in (process, *started):
            ended(each)
    lines = printed.strip().splitlines()
    if not lines or not lines[-1].startswith('{'):
        raise RuntimeError(errors[-500:] or 'no figures')
    figures = json.loads(lines[-1])
    return figures['operations'] / figures['seconds'], 1e6 * figures['processor'] / max(figures['operations'], 1)


class Bench:
    def __init__(self, options):
        self.options = options
        self.folder = tempfile.mkdtemp(prefix='bench-')
        self.samples = {}

    def note(self, key, measured):
        try:
            rate, processor = measured()
            self.samples.setdefault(key, []).append((rate, processor))
            print(f'{key[0]:18} {key[1]:8} {key[2]:8} {rate:12,.0f}/s {processor:8.2f} us', file=sys.stderr)
        except Exception as e:
            print(f'{key}: {type(e).__name__} {e}', file=sys.stderr)

    def once(self, round_number):
        for name, _, other, has_pypi, _ in self.rows():
            for style in ('sync', 'asyncio'):
                for who in ('PyPI', 'ours') if has_pypi else ('ours',):
                    self.note((name, style, who), lambda: self.ours_or_pypi(name, other, style, who))
        if self.options.others:
            for system, (title, rows) in OTHERS.items():
                for row in rows:
                    if any(row == name for name, *_ in self.rows()):
                        self.note((row, 'other', title), lambda: self.other(system, row))

    def rows(self):
        chosen = self.options.rows.split(',') if self.options.rows else None
        return [row for row in ROWS if chosen is None or row[0] in chosen]

    def ours_or_pypi(self, name, other, style, who):
        path = os.path.join(self.folder, 'bus.sock')
        broker = Server([self.options.broker, '-B', path], lambda: accepts(path))
        sink = None
        try:
            raw = [sys.executable, str(HERE / 'raw.py'), path]
            if other == ('sink',):
                sink = subprocess.Popen([*raw, 'sink', 'bench.sink'], stdout=subprocess.PIPE)
                sink.stdout.readline()
                other = None
            elif other:
                other = [*raw, other[0], 'bench', *map(str, other[1:])]
            python = self.options.ours if who == 'ours' else self.options.pypi
            return sample([python, HERE / f'work_{style}.py', name, path, self.options.seconds], other)
        finally:
            if sink is not None:
                ended(sink)
            broker.stop()
            Path(path).unlink(missing_ok=True)

    def other(self, system, row):
        server, address = None, os.path.join(self.folder, 'other.sock')
        try:
            if system == 'Redis':
                program = shutil.which('redis-server')
                if not program:
                    raise RuntimeError('redis-server is not installed')
                server = Server(
                    [
                        program,
                        '--port',
                        '0',
                        '--unixsocket',
                        address,
                        '--save',
                        '',
                        '--appendonly',
                        'no',
                        '--client-output-buffer-limit',
                        'pubsub 0 0 0',
                        '--dir',
                        self.folder,
                    ],
                    lambda: accepts(address),
                )
            elif system == 'Nats':
                program = shutil.which('nats-server') or shutil.which('nats-server', path='/usr/sbin')
                if not program:
                    raise RuntimeError('nats-server is not installed')
                port = free_port()
                server = Server([program, '-a', '127.0.0.1', '-p', str(port)], lambda: accepts(port))
                address = f'nats://127.0.0.1:{port}'
            return sample([self.options.ours, HERE / 'others.py', system, row, address, self.options.seconds], None)
        finally:
            if server is not None:
                server.stop()
            Path(os.path.join(self.folder, 'other.sock')).unlink(missing_ok=True)

    def idle(self):
        """Measures the wake-ups per second of the threads of an idle client, including its pings."""
        for style in ('sync',):
            self.note(('idle', style, 'ours'), lambda: self.ours_or_pypi('idle', None, style, 'ours'))

    def median(self, key):
        samples = self.samples.get(key)
        if not samples:
            return None
        return statistics.median(rate for rate, _ in samples), statistics.median(cpu for _, cpu in samples)

    def table(self):
        lines = [
            '| | PyPI, sync | ours, sync | | asked for | PyPI, asyncio | ours, asyncio | | asked for |',
            '| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |',
        ]
        for name, title, _, _, asked in self.rows():
            cells = [title]
            for style, factor in zip(('sync', 'asyncio'), asked):
                pypi, ours = self.median((name, style, 'PyPI')), self.median((name, style, 'ours'))
                ratio = f'**{ours[0] / pypi[0]:.1f}x**' if pypi and ours else '–'
                cells += [cell(pypi), cell(ours), ratio, factor]
            lines.append(f'| {" | ".join(cells)} |')
        return '\n'.join(lines)

    def others_table(self):
        titles = {name: title for name, title, *_ in ROWS}
        lines = [
            '| | nats-py (TCP) | redis-py | pyzmq (no broker) | ours, sync | ours, asyncio |',
            '| --- | ---: | ---: | ---: | ---: | ---: |',
        ]
        for name in ('publish', 'acknowledged', 'receive', 'call'):
            if any(name == row[0] for row in self.rows()):
                cells = [cell(self.median((name, 'other', title))) for title in ('nats-py', 'redis-py', 'pyzmq')]
                cells += [cell(self.median((name, style, 'ours'))) for style in ('sync', 'asyncio')]
                lines.append(f'| {titles[name]} | {" | ".join(cells)} |')
        return '\n'.join(lines)


def cell(figures):
    if figures is None:
        return '–'
    rate, processor = figures
    number = f'{rate / 1e6:.2f} M' if rate >= 1e6 else f'{rate / 1e3:.3g} k' if rate >= 1e3 else f'{rate:.0f}'
    return f'{number} ({processor:.3g})'


PAGE = """# Performance of the Python modules

`make bench-python` writes this page. The figures are operations per second, and in parentheses the processor time of the client's
process for each operation, in microseconds. Payloads have 100 bytes unless the row says otherwise. Every run is a separate
process with its own broker (`busrtd -B SOCKET`, release build, UNIX socket); figures are medians of {runs} runs of {seconds} s.
The programs are the same for the packages of PyPI (`busrt` 0.1.2, `busrt-async` 0.1.3) and for ours:
`bindings-python/benches/work_sync.py` and `work_asyncio.py`. The other side of a receiver or a sender is a bare socket
(`raw.py`); calls go to the method `test` of the broker. "Asked for" is the project's minimum target: a ratio, or operations per
second.

{table}

## Beside others

For comparison: other systems, each with its usual client and its own operations. redis-py has no publication without an answer:
its first row is a pipeline of 50. nats-py is asyncio over TCP. pyzmq has no broker: its rows are PUSH/PULL and REQ/REP between
two processes. A call to NATS is answered by a second Python process, a call to ours by the broker.

{others}
{idle}
## Where

{machine}
"""


def machine():
    model = next((line.split(':', 1)[1].strip() for line in open('/proc/cpuinfo') if line.startswith('model name')), '')
    return f'{model}, {os.cpu_count()} cores, {platform.system()} {platform.release()}, load before the first run {LOAD:.2f}.' + (
        ' Other programs were running: the figures are provisional.' if LOAD > 1 else ''
    )


def main():
    global LOAD
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('--broker', required=True)
    parser.add_argument('--ours', required=True, help='a Python with our wheel')
    parser.add_argument('--pypi', required=True, help='a Python with the packages of PyPI')
    parser.add_argument('--runs', type=int, default=5)
    parser.add_argument('--seconds', type=float, default=1)
    parser.add_argument('--rows')
    parser.add_argument('--no-others', dest='others', action='store_false')
    parser.add_argument('--write', help='the page to write')
    options = parser.parse_args()
    LOAD = os.getloadavg()[0]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    bench = Bench(options)
    try:
        for number in range(options.runs):
            bench.once(number)
        if not options.rows:
            bench.idle()
    finally:
        shutil.rmtree(bench.folder, ignore_errors=True)
    idle = bench.median(('idle', 'sync', 'ours'))
    told = (
        ''
        if idle is None
        else (f'\nThe threads of an idle client wake {idle[0]:.1f} times a second, pings (one a second) included.\n')
    )
    versions = subprocess.run([options.ours, '--version'], capture_output=True, text=True).stdout.strip()
    page = PAGE.format(
        runs=options.runs,
        seconds=options.seconds,
        table=bench.table(),
        others=bench.others_table(),
        idle=told,
        machine=f'{versions}. {machine()}',
    )
    print(page)
    if options.write:
        Path(options.write).write_text(page)


if __name__ == '__main__':
    main()
