"""busrtd as a process: its options, its files, its start and its end."""

import os
import signal
import socket
import stat
import subprocess
import tempfile

import pytest

from conftest import PATIENCE, until
from wire import MESSAGE, Wire, delivery, operation


def run(program, *arguments):
    """Runs busrtd until it exits."""
    return subprocess.run([program, *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          timeout=PATIENCE)


@pytest.mark.parametrize('with_signal', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_removes_its_files_and_ends_it(start, folder, with_signal):
    made = [folder / name for name in ('bus.sock', 'two.sock', 'fifo', 'pid')]
    broker = start('-B', folder / 'two.sock', '-B', f'fifo:{folder}/fifo', '-P', folder / 'pid', folder=folder)
    assert all(path.exists() for path in made)
    assert int((folder / 'pid').read_text()) == broker.process.pid
    assert broker.terminate(with_signal) == 0
    assert not any(path.exists() for path in made)
    assert sorted(path.name for path in folder.iterdir()) == ['log']


def test_the_end_does_not_wait_for_idle_clients(start):
    broker = start()
    with broker.wire('idle') as wire:
        assert broker.terminate() == 0
        assert wire.frame()[:1] == b'\x01'
        assert wire.ended()


def test_clients_of_all_addresses_are_on_one_bus(start, folder):
    broker = start('-B', folder / 'two.ipc', '-B', '[::1]:0', tcp=True) if has_ipv6() else \
        start('-B', folder / 'two.ipc', tcp=True)
    addresses = [broker.socket, str(folder / 'two.ipc'), broker.tcp]
    addresses += [line.rsplit(' ', 1)[1] for line in broker.log().splitlines() if 'listening on [::1]' in line]
    wires = []
    for i, address in enumerate(addresses):
        host_port = address.replace('[', '').replace(']', '')
        wires.append(Wire(host_port, str(i)))
    assert len(wires) == 3 + has_ipv6()
    for i, wire in enumerate(wires):
        wire.send(operation(MESSAGE, b'%d\0x' % ((i + 1) % len(wires))))
    for i, wire in enumerate(wires):
        assert wire.frame() == delivery(MESSAGE, b'%d' % ((i - 1) % len(wires)), b'x')
        wire.close()


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(('::1', 0))
        return True
    except OSError:
        return False


def test_a_stale_socket_is_replaced(start, folder):
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(folder / 'bus.sock'))
    stale.close()
    broker = start(folder=folder)
    broker.wire('a').close()


def test_files_of_a_killed_broker_are_replaced(start, folder):
    broker = start('-B', f'fifo:{folder}/fifo', '-P', folder / 'pid', folder=folder)
    broker.terminate(signal.SIGKILL)
    assert (folder / 'bus.sock').exists()
    broker = start('-B', f'fifo:{folder}/fifo', '-P', folder / 'pid', folder=folder)
    broker.wire('a').close()
    assert int((folder / 'pid').read_text()) == broker.process.pid


def one_line_error(result):
    assert result.returncode == 1
    assert result.stdout == ''
    lines = [line for line in result.stderr.splitlines() if line.startswith('busrtd: ')]
    assert len(lines) == 1
    assert result.stderr.splitlines()[-1] == lines[0]
    return lines[0]


def test_a_live_socket_is_not_stolen(start, program, folder):
    broker = start('-B', f'fifo:{folder}/fifo')
    assert broker.socket in one_line_error(run(program, '-B', broker.socket))
    assert f'{folder}/fifo' in one_line_error(run(program, '-B', f'fifo:{folder}/fifo'))
    with broker.wire('a') as wire:
        assert wire.is_quiet()


def test_a_port_that_is_taken_is_an_error(start, program):
    broker = start(tcp=True)
    assert broker.tcp in one_line_error(run(program, '-B', broker.tcp))


def test_a_file_that_is_not_a_socket_is_not_replaced(program, folder):
    for name, address in (('file.sock', folder / 'file.sock'), ('file', f'fifo:{folder}/file')):
        (folder / name).write_text('precious')
        assert str(folder / name) in one_line_error(run(program, '-B', address))
        assert (folder / name).read_text() == 'precious'


def test_files_made_before_an_error_are_removed(program, folder):
    one_line_error(run(program, '-B', folder / 'a.sock', '-B', f'fifo:{folder}/fifo', '-B', '/no/such/folder/b.sock'))
    one_line_error(run(program, '-B', folder / 'a.sock', '-P', '/no/such/folder/pid'))
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize('arguments', [[], ['-B'], ['-B', 'x.sock', '-w', '0'], ['-B', 'x.sock', '-t', 'soon'],
                                       ['-B', 'x.sock', '--slow', 'down'], ['-B', 'x.sock', '--nonsense']])
def test_a_wrong_command_line_is_exit_code_2(program, arguments):
    result = run(program, *arguments)
    assert (result.returncode, result.stdout) == (2, '')
    assert result.stderr


@pytest.mark.parametrize('address', ['nonsense', 'host:port', ':', 'localhost:99999'])
def test_an_invalid_address_is_an_error(program, address):
    assert address in one_line_error(run(program, '-B', address))


def test_help_and_version(program):
    result = run(program, '--help')
    assert (result.returncode, result.stderr) == (0, '')
    for option in ('--bind', '--pid-file', '--verbose', '-D', '--log-syslog', '--force-register', '-w', '-t', '--buf-size',
                   '--buf-ttl', '--queue-size', '--queue-bytes', '--slow', '--stall-ms', '--max-payload',
                   '--socket-mode'):
        assert option in result.stdout
    assert run(program, '--version').stdout.startswith('busrtd ')


@pytest.mark.parametrize('mode', ['600', '660', '777'])
def test_socket_mode(start, mode):
    broker = start('--socket-mode', mode)
    assert stat.S_IMODE(os.stat(broker.socket).st_mode) == int(mode, 8)


def test_every_option_in_use_is_accepted(start, folder):
    broker = start('--bind', folder / 'x.socket', '--pid-file', folder / 'pid', '--verbose', '--force-register', '-w', '1',
                   '-t', '2.5', '--buf-size', '8192', '--buf-ttl', '20', '--queue-size', '100', '--queue-bytes',
                   '100000', '--slow', 'block', '--stall-ms', '100', '--max-payload', '1000000')
    with broker.wire('a') as wire:
        assert wire.is_quiet()


def alive(pid):
    """Returns whether a process runs: one that has exited may stay in the table until its parent reaps it."""
    try:
        with open(f'/proc/{pid}/stat') as file:
            return file.read().rsplit(')', 1)[1].split()[0] != 'Z'
    except FileNotFoundError:
        return False


def test_daemonize(program, folder):
    path, pid_file = folder / 'bus.sock', folder / 'pid'
    # Its own standard streams must be closed; otherwise this would not return.
    result = run(program, '-D', '-P', pid_file, '-B', path)
    assert (result.returncode, result.stdout) == (0, '')
    pid = int(pid_file.read_text())
    try:
        # It is ready when the command returns.
        with Wire(str(path), 'a') as wire:
            assert wire.is_quiet()
        assert os.getsid(pid) not in (os.getsid(0), 0)
    finally:
        os.kill(pid, signal.SIGTERM)
        until(lambda: not alive(pid), 'the daemon ends')
    assert not path.exists() and not pid_file.exists()


def test_daemonize_reports_errors(start, program, folder):
    broker = start()
    assert broker.socket in one_line_error(run(program, '-D', '-P', folder / 'pid', '-B', broker.socket))
    assert not (folder / 'pid').exists()


def test_a_relative_path_is_a_path(program):
    with tempfile.TemporaryDirectory(prefix='busrt-') as path:
        process = subprocess.Popen([program, '-B', 'bus.sock'], cwd=path, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            until(lambda: os.path.exists(f'{path}/bus.sock'), 'it listens')
            Wire(f'{path}/bus.sock', 'a').close()
        finally:
            process.terminate()
            assert process.wait(PATIENCE) == 0
