"""The files on which busrtd listens: contention for a path, the length of paths, and deleted files."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import time

import pytest

from conftest import PATIENCE, until
from test_busrtd import one_line_error, run
from wire import MESSAGE, Wire, delivery, operation

# Delays every system call by which a file can get its name.
SLOW_NAMES = r'''
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <unistd.h>
int rename(const char *a, const char *b) {
    usleep(300000);
    return ((int (*)(const char *, const char *))dlsym(RTLD_NEXT, "rename"))(a, b);
}
int linkat(int f, const char *a, int g, const char *b, int flags) {
    usleep(300000);
    return ((int (*)(int, const char *, int, const char *, int))dlsym(RTLD_NEXT, "linkat"))(f, a, g, b, flags);
}
'''


def race(program, address, count=3, **environment):
    """Starts several brokers on one address together; returns the one that serves and the errors of the others."""
    processes = [subprocess.Popen([program, '-B', address], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                  stderr=subprocess.PIPE, text=True, env={**os.environ, **environment})
                 for _ in range(count)]
    try:
        until(lambda: sum(p.poll() is not None for p in processes) >= count - 1, 'all but one end')
        winners = [p for p in processes if p.poll() is None]
        assert len(winners) == 1, [p.stderr.read() for p in processes]
        errors = [p.communicate(timeout=PATIENCE)[1] for p in processes if p is not winners[0]]
        assert all(p.returncode == 1 for p in processes if p is not winners[0])
        yield winners[0], errors
        winners[0].terminate()
        assert winners[0].wait(PATIENCE) == 0
    finally:
        for process in processes:
            process.kill()
            process.wait()
            process.stderr.close()


def serves(path):
    try:
        Wire(str(path), 'a').close()
        return True
    except (FileNotFoundError, ConnectionRefusedError):
        return False


@pytest.mark.parametrize('kind', ['socket', 'fifo'])
@pytest.mark.parametrize('left', ['nothing', 'stale'])
@pytest.mark.parametrize('delayed', [False, True], ids=['as-it-is', 'delayed'])
def test_one_of_several_simultaneous_brokers_gets_the_path(program, folder, kind, left, delayed):
    environment = {}
    if delayed:
        if not shutil.which('cc'):
            pytest.skip('no C compiler')
        (folder / 'slow.c').write_text(SLOW_NAMES)
        subprocess.run(['cc', '-shared', '-fPIC', '-o', folder / 'slow.so', folder / 'slow.c', '-ldl'], check=True)
        environment['LD_PRELOAD'] = str(folder / 'slow.so')
    path = folder / 'path.sock'
    address = str(path) if kind == 'socket' else f'fifo:{path}'
    for _ in range(2 if delayed else 8):
        if left == 'stale' and kind == 'socket':
            with socket.socket(socket.AF_UNIX) as stale:
                stale.bind(str(path))
        elif left == 'stale':
            os.mkfifo(path)
        for winner, errors in race(program, address, **environment):
            for error in errors:
                assert f'in use by process {winner.pid}' in error, error
            if kind == 'socket':
                until(lambda: serves(path), 'it listens')
        assert [entry.name for entry in folder.iterdir() if entry.name[:4] != 'slow'] == []


def test_a_live_socket_without_a_lock_is_not_taken_over(program, folder):
    path = folder / 'foreign.sock'
    with socket.socket(socket.AF_UNIX) as foreign:
        foreign.bind(str(path))
        foreign.listen()
        inode = os.stat(path).st_ino
        assert f'in use by process {os.getpid()}' in one_line_error(run(program, '-B', path))
        assert os.stat(path).st_ino == inode
    assert [entry.name for entry in folder.iterdir()] == ['foreign.sock']


def test_the_lock_of_a_killed_broker_is_released(start, folder):
    broker = start(folder=folder)
    broker.terminate(signal.SIGKILL)
    assert (folder / '.bus.sock.lock').exists()
    start(folder=folder).terminate()
    assert sorted(entry.name for entry in folder.iterdir()) == ['log']


@pytest.mark.parametrize('mode', [[], ['--socket-mode', '600']])
@pytest.mark.parametrize('length', [100, 106, 107])
def test_a_path_as_long_as_the_kernel_allows(start, folder, length, mode):
    path = f'{folder}/'.ljust(length - 5, 'x') + '.sock'
    assert len(path) == length
    broker = start('-B', path, *mode, folder=folder)
    Wire(path, 'a').close()
    if mode:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    os.unlink(path)
    until(lambda: os.path.exists(path), 'it is put back')
    Wire(path, 'a').close()
    assert broker.terminate() == 0
    assert [entry.name for entry in folder.iterdir()] == ['log']


@pytest.mark.parametrize('length', [108, 120, 300])
def test_a_longer_path_is_refused(program, folder, length):
    path = f'{folder}/'.ljust(length - 5, 'x') + '.sock'
    error = one_line_error(run(program, '-B', path))
    assert f'{length} bytes' in error and '107' in error
    assert list(folder.iterdir()) == []


def test_a_socket_that_was_deleted_is_put_back(start, folder):
    broker = start('--socket-mode', '660', folder=folder)
    with broker.wire('old') as old:
        for name in ('bus.sock', '.bus.sock.lock'):
            (folder / name).unlink()
        until((folder / 'bus.sock').exists, 'it is put back')
        assert stat.S_IMODE(os.stat(broker.socket).st_mode) == 0o660
        with broker.wire('new') as new:
            new.send(operation(MESSAGE, b'old\0x'))
            assert old.frame() == delivery(MESSAGE, b'new', b'x')
        assert 'was deleted' in broker.log()
    assert broker.terminate() == 0
    assert sorted(entry.name for entry in folder.iterdir()) == ['log']


def test_a_deleted_folder_is_reported_and_used_again(start, folder):
    (folder / 'sub').mkdir()
    broker = start('-B', folder / 'sub' / 'two.sock')
    shutil.rmtree(folder / 'sub')
    until(lambda: 'cannot be put back' in broker.log(), 'it is logged')
    (folder / 'sub').mkdir()
    until((folder / 'sub' / 'two.sock').exists, 'it is put back')
    Wire(str(folder / 'sub' / 'two.sock'), 'a').close()


def test_another_file_at_the_path_is_left_alone(start, folder):
    broker = start('-B', f'fifo:{folder}/fifo', folder=folder)
    for name in ('bus.sock', 'fifo'):
        (folder / 'new').write_text('precious')
        (folder / 'new').rename(folder / name)
    until(lambda: broker.log().count('another file is at its path') == 2, 'it is logged')
    time.sleep(2.5)
    assert broker.log().count('another file is at its path') == 2
    assert broker.terminate() == 0
    for name in ('bus.sock', 'fifo'):
        assert (folder / name).read_text() == 'precious'


def test_nothing_is_put_back_while_draining(start, folder):
    broker = start('-B', f'fifo:{folder}/fifo', '--drain-ms', '3000', folder=folder)
    with broker.wire('stuck'), broker.wire('sender') as sender:
        for _ in range(8):
            sender.send(operation(MESSAGE, b'stuck\0' + bytes(1_000_000)))
        # The broker has read everything before when it answers this.
        assert sender.is_quiet()
        broker.process.send_signal(signal.SIGTERM)
        until(lambda: not (folder / 'bus.sock').exists(), 'the socket goes')
        while broker.process.poll() is None:
            assert not (folder / 'bus.sock').exists() and not (folder / 'fifo').exists()
            time.sleep(0.02)
    assert broker.process.returncode == 0


def test_a_fifo_that_was_deleted_is_put_back(start, folder):
    path = folder / 'fifo'
    broker = start('-B', f'fifo:{path}', folder=folder)
    with broker.wire('a') as wire, open(path, 'wb', buffering=0) as old:
        old.write(b'a one\n')
        assert wire.frame() == delivery(MESSAGE, b'.broker', b'one')
        path.unlink()
        # Data that a shell writes to the pipe that it still has open is not lost.
        old.write(b'a two\n')
        assert wire.frame() == delivery(MESSAGE, b'.broker', b'two')
        until(path.exists, 'it is put back')
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o622
        with open(path, 'wb', buffering=0) as new:
            new.write(b'a three\n')
        assert wire.frame() == delivery(MESSAGE, b'.broker', b'three')
