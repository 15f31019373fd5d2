"""The end of busrtd, its pid file, a log that is not read, and the limits of its numeric options."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest

from conftest import PATIENCE, until
from test_busrtd import has_ipv6, one_line_error, run
from wire import MESSAGE, Wire, delivery, operation


def test_sighup_ends_it_in_order(start, folder):
    broker = start('-B', f'fifo:{folder}/fifo', '-P', folder / 'pid', folder=folder)
    with broker.wire('a') as wire:
        assert broker.terminate(signal.SIGHUP) == 0
        assert b'.broker/warn' in wire.frame()
    assert [entry.name for entry in folder.iterdir()] == ['log']


def test_sighup_that_was_ignored_stays_ignored(program, folder):
    path = folder / 'bus.sock'
    process = subprocess.Popen([program, '-B', path], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    try:
        until(path.exists, 'it listens')
        process.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        Wire(str(path), 'a').close()
        process.terminate()
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize('first, second', [(signal.SIGTERM, signal.SIGHUP), (signal.SIGHUP, signal.SIGINT),
                                           (signal.SIGINT, signal.SIGTERM)])
def test_a_second_signal_ends_it_immediately(start, folder, first, second):
    broker = start('--drain-ms', '600000', '-P', folder / 'pid', folder=folder)
    with broker.wire('stuck'), broker.wire('sender') as sender:
        for _ in range(8):
            sender.send(operation(MESSAGE, b'stuck\0' + bytes(1_000_000)))
        assert sender.is_quiet()
        broker.process.send_signal(first)
        until(lambda: not os.path.exists(broker.socket), 'it drains')
        assert broker.process.poll() is None
        broker.terminate(second)
    assert [entry.name for entry in folder.iterdir()] == ['log']


def test_a_pid_file_that_is_a_link_is_refused(program, folder):
    (folder / 'precious').write_text('precious')
    (folder / 'pid').symlink_to(folder / 'precious')
    assert 'symbolic link' in one_line_error(run(program, '-B', folder / 'bus.sock', '-P', folder / 'pid'))
    assert (folder / 'precious').read_text() == 'precious'
    assert sorted(entry.name for entry in folder.iterdir()) == ['pid', 'precious']


def test_the_pid_file_of_another_broker_stays(start, folder):
    first = start('-P', folder / 'pid')
    second = start('-P', folder / 'pid')
    assert first.terminate() == 0
    assert int((folder / 'pid').read_text()) == second.process.pid
    (folder / 'pid').write_text('1\n')
    assert second.terminate() == 0
    assert (folder / 'pid').read_text() == '1\n'


HUGE = ['9223372036854775807', '18446744073709551615', '99999999999999999999999']


@pytest.mark.parametrize('number', HUGE)
def test_durations_of_any_size(start, number):
    broker = start('-t', number, '--stall-ms', number, '--hold-ms', number, '--drain-ms', number, '--queue-size', '1')
    with broker.wire('a') as a, broker.wire('b') as b:
        for i in range(100):
            a.send(operation(MESSAGE, b'b\0%d' % i))
        for i in range(100):
            assert b.frame() == delivery(MESSAGE, b'a', b'%d' % i)
        assert a.is_quiet()
    assert broker.terminate() == 0
    assert 'panicked' not in broker.log()


def free_port():
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


@pytest.mark.skipif(not has_ipv6(), reason='no IPv6 here')
@pytest.mark.parametrize('families', [('0.0.0.0', '[::]'), ('[::]', '0.0.0.0')])
def test_both_families_on_one_port(start, families):
    port = free_port()
    broker = start(*(word for host in families for word in ('-B', f'{host}:{port}')))
    # Two names, because the first may still be in use just after its connection is closed.
    for host, name in (('127.0.0.1', 'a'), ('::1', 'b')):
        Wire(f'{host}:{port}', name).close()
    for host in families:
        assert f'listening on {host}:{port}' in broker.log()


@pytest.mark.skipif(not has_ipv6(), reason='no IPv6 here')
def test_a_host_is_bound_on_all_its_addresses(program, folder):
    (folder / 'hosts').write_text('127.0.0.1 both.test\n::1 both.test\n')
    prefix = ['unshare', '-m', 'sh', '-c', 'mount --bind "$1" /etc/hosts && shift && exec "$@"', 'sh', folder / 'hosts']
    try:
        found = subprocess.run([*prefix, 'getent', 'ahosts', 'both.test'], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip('no unshare here')
    if '127.0.0.1' not in found.stdout or '::1' not in found.stdout:
        pytest.skip(f'no host of two addresses here: {found.stdout} {found.stderr}')
    process = subprocess.Popen([*prefix, program, '-B', 'both.test:0'], stdin=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True)
    try:
        lines = [process.stderr.readline() for _ in range(2)]
        ports = {re.search(r'listening on (\[::1\]|127\.0\.0\.1):(\d+) for both\.test:(\d+)', line).groups()
                 for line in lines}
        assert {host for host, _, _ in ports} == {'[::1]', '127.0.0.1'}
        port, = {port for _, *both in ports for port in both}
        for host, name in (('127.0.0.1', 'a'), ('::1', 'b')):
            Wire(f'{host}:{port}', name).close()
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 0


@pytest.mark.parametrize('address', ['[fe80::1%no-such-zone]:1', '[::1%]:1', '[::ffff:192.0.2.1]:1', '[%1]:1', '[1.2.3.4]:1',
                                     'no-such-host.invalid:1', '%:1', '[::1]:+1'])
def test_an_address_that_cannot_be_bound_is_an_error(program, address):
    assert address in one_line_error(run(program, '-B', address))


def test_an_ipv4_address_in_ipv6_form(start):
    port = free_port()
    start('-B', f'[::ffff:127.0.0.1]:{port}')
    Wire(f'127.0.0.1:{port}', 'a').close()


def test_a_log_that_is_not_read_delays_nothing(program, folder):
    path = folder / 'bus.sock'
    environment = {k: v for k, v in os.environ.items() if k != 'RUST_LOG'}
    process = subprocess.Popen([program, '-B', path, '--verbose'], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
                               env=environment)
    try:
        until(path.exists, 'it listens')
        # Each registration logs two lines; the pipe holds 64 KiB, the queue 1024 lines.
        for i in range(1500):
            Wire(str(path), f'client.{i}').close()
        with Wire(str(path), 'last') as wire:
            assert wire.is_quiet()
        # The log is read again: the lines for which there was room arrive, and the number of the others.
        os.set_blocking(process.stderr.fileno(), False)
        said = b''

        def read():
            nonlocal said
            said += process.stderr.read() or b''
            return b' log lines were dropped' in said
        until(read, 'the dropped lines are reported')
        assert b'client registered: client.0' in said
        assert said.count(b' registered: ') < 1500
        # The log is not read again.
        for i in range(1500):
            Wire(str(path), f'client.{i}').close()
        process.terminate()
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


# This runs in its own mount namespace, as a syslog that reads nothing until it is told to.
SYSLOG = """
import os, socket, subprocess, sys
sys.path.insert(0, sys.argv[3])
from conftest import PATIENCE, until
from wire import Wire
log = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
log.bind('/var/run/syslog')
log.settimeout(PATIENCE)
process = subprocess.Popen([sys.argv[1], '-B', sys.argv[2], '--log-syslog', '--verbose'], stdin=subprocess.DEVNULL)
try:
    until(lambda: os.path.exists(sys.argv[2]), 'it listens')
    for i in range(1500):
        Wire(sys.argv[2], f'client.{i}').close()
    assert b'listening on' in log.recv(4096)
    while b'log lines were dropped' not in log.recv(4096):
        pass
    for i in range(1500):
        Wire(sys.argv[2], f'client.{i}').close()
    process.terminate()
    assert process.wait(PATIENCE) == 0
finally:
    process.kill()
    process.wait()
"""


def test_a_syslog_that_does_not_read_delays_nothing(program, folder):
    prefix = ['unshare', '-m', 'sh', '-c', 'mount -t tmpfs none /run && exec "$@"', 'sh']
    try:
        probe = subprocess.run([*prefix, 'sh', '-c', 'test /run -ef /var/run && ! test -e /dev/log'], capture_output=True)
    except FileNotFoundError:
        pytest.skip('no unshare here')
    if probe.returncode != 0:
        pytest.skip(f'no place for a syslog of the test: {probe.stderr}')
    here = os.path.dirname(os.path.abspath(__file__))
    result = subprocess.run([*prefix, sys.executable, '-c', SYSLOG, program, folder / 'bus.sock', here],
                            capture_output=True, text=True, timeout=PATIENCE * 4)
    assert result.returncode == 0, result.stderr


def test_an_error_is_reported_although_the_output_is_full(program):
    reader, writer = os.pipe()
    try:
        os.set_blocking(writer, False)
        with pytest.raises(BlockingIOError):
            while True:
                os.write(writer, bytes(65536))
        os.set_blocking(writer, True)
        process = subprocess.Popen([program, '-B', 'nonsense'], stdin=subprocess.DEVNULL, stderr=writer)
        assert process.wait(PATIENCE) == 1
    finally:
        os.close(reader)
        os.close(writer)


def test_junk_lines_are_a_few_log_lines_and_a_count(start, folder):
    broker = start('-B', f'fifo:{folder}/fifo', folder=folder)
    with open(folder / 'fifo', 'wb') as pipe:
        for i in range(20_000):
            pipe.write(b'nobody.%d \x1b[2J\xc2\x9b\xe2\x80\xae junk\n' % i)
    with broker.wire('a') as wire, open(folder / 'fifo', 'wb') as pipe:
        pipe.write(b'a done\n')
        pipe.flush()
        assert wire.frame() == delivery(MESSAGE, b'.broker', b'done')
    assert broker.terminate() == 0
    log = broker.log_path.read_bytes()
    lines = log.splitlines()
    assert len(lines) < 40
    told = [int(n) for n in re.findall(rb'(\d+) more lines could not be executed', log)]
    assert sum(told) + log.count(b' junk') == 20_000
    assert not any(strange in log for strange in (b'\x1b[2J', b'\xc2\x9b', b'\xe2\x80\xae'))


def test_fifo_lines_that_are_refused(start, folder):
    broker = start('-B', f'fifo:{folder}/fifo', folder=folder)
    with broker.wire('a') as wire, open(folder / 'fifo', 'wb', buffering=0) as pipe:
        assert wire.do(2, b'#') == 1
        for line in (b'a x\0y', b'=t\0u x', b'=.broker/info x', b'=.broker/warn shutdown', b'a :m ' + b'x' * 900_000):
            pipe.write(line + b'\n')
        pipe.write(b'a done\n')
        assert wire.frame() == delivery(MESSAGE, b'.broker', b'done')
    log = broker.log()
    assert log.count('NUL') == 2 and log.count('access denied') == 2
    assert max(map(len, log.splitlines())) < 400


def test_a_flood_of_lines_does_not_block_a_worker(start, folder):
    broker = start('-w', '1', '-B', f'fifo:{folder}/fifo', folder=folder)
    stop = threading.Event()

    def flood():
        with open(folder / 'fifo', 'wb', buffering=0) as pipe:
            while not stop.is_set():
                pipe.write(b'nobody x\n' * 5000)
    thread = threading.Thread(target=flood)
    thread.start()
    try:
        with broker.wire('a') as wire:
            for _ in range(50):
                assert wire.is_quiet()
    finally:
        stop.set()
        thread.join(PATIENCE)
