"""Ctrl-C ends every wait of the main thread, and leaves the client as it was."""

import asyncio
import os
import signal
import threading
import time

import pytest

import busrt
import busrt_async
from busrt.client import Client, Frame
from busrt.rpc import Request, Rpc
from conftest import until
from running import Program

# It is to be 0.1 s on a quiet machine.
BOUND = 1


class Interrupted(Exception):
    pass


@pytest.fixture
def interrupted():
    """A function that runs work, sends this process SIGINT 0.2 s later, and asserts that this ends the work."""

    def interrupted(work, error=KeyboardInterrupt):
        sent = []

        def send():
            sent.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)

        timer = threading.Timer(0.2, send)
        timer.start()
        try:
            with pytest.raises(error):
                work()
        finally:
            timer.cancel()
            timer.join()
        assert sent and time.monotonic() - sent[0] < BOUND

    return interrupted


@pytest.fixture
def stuck(broker, name):
    """A client whose broker is suspended."""
    client = Client(broker.path, name)
    client.connect()
    client.timeout = 30
    broker.suspend()
    yield client
    broker.kill()
    client.disconnect()


@pytest.fixture
def full(fake, name):
    """A client without room, whose broker reads nothing."""
    fake.answer(fake.register)
    client = Client(fake.path, name)
    client.connect()
    client.timeout = 0.05
    with pytest.raises(TimeoutError):
        while True:
            client.send('x', Frame(b'z' * 1_000_000))
    client.timeout = 30
    yield client
    fake.close()
    client.disconnect()


@pytest.mark.parametrize('timeout', [None, 30])
def test_connecting(fake, name, interrupted, timeout):
    fake.answer(lambda peer: None)
    client = Client(fake.path, name)
    client.timeout = timeout
    interrupted(client.connect)
    assert not client.is_connected()
    interrupted(lambda: busrt.connect(fake.path, name, timeout=30))


@pytest.mark.parametrize('timeout', [None, 30])
def test_an_acknowledgement(stuck, name, interrupted, timeout):
    pending = stuck.send(name, Frame(b'', qos=1))
    interrupted(lambda: pending.wait_completed(timeout))
    interrupted(lambda: pending.completed.wait(timeout))
    assert not pending.is_completed() and stuck.is_connected()
    interrupted(lambda: stuck.publish('x', b'x', timeout=30))
    interrupted(lambda: stuck.exclude('x', timeout=30))


def test_the_client_goes_on_afterwards(broker, name, interrupted):
    client = Client(broker.path, name)
    client.connect()
    broker.suspend()
    pending = client.send(name, Frame(b'', qos=1))
    interrupted(pending.wait_completed)
    broker.process.send_signal(signal.SIGCONT)
    assert pending.wait_completed(10) == 1
    assert client.send(name, Frame(b'', qos=1)).wait_completed(10) == 1
    client.disconnect()


def test_room_and_what_waits_for_writing(full, interrupted):
    interrupted(lambda: full.send('x', Frame(b'z' * 1_000_000)))
    interrupted(lambda: full.flush(30))
    interrupted(full.flush)
    interrupted(lambda: Rpc(full).call('x', Request('y', b'z' * 1_000_000)))
    assert full.is_connected()
    interrupted(lambda: full.drain(30))


def test_disconnecting(full, interrupted):
    interrupted(full.disconnect)
    assert not full.is_connected()


@pytest.mark.parametrize('timeout', [None, 30])
def test_frames(path, name, interrupted, timeout):
    with busrt.connect(path, name) as client:
        interrupted(lambda: list(client))
        interrupted(lambda: list(client.batches(timeout=timeout)))
        client.send_message(name, 'after')
        for frame in client:
            assert frame.payload == b'after'
            break


def test_calls(path, name, interrupted):
    release = threading.Event()
    with busrt.Client(path, name + '.s') as server, busrt.Client(path, name + '.c') as caller:
        rpc = Rpc(caller)
        Rpc(server).on_call = lambda event: release.wait(30) and None
        event = rpc.call(server.name, Request('x'))
        interrupted(event.wait_completed)
        interrupted(lambda: event.wait_completed(30))
        interrupted(lambda: event.completed.wait(30))
        interrupted(lambda: rpc.call_method(server.name, 'x', timeout=30))
        release.set()
        assert event.wait_completed(10).is_empty()


def test_a_call_to_a_broker_that_does_not_answer(stuck, interrupted):
    stuck.timeout = 30
    event = Rpc(stuck).call('x', Request('y'))
    interrupted(event.wait_completed)


def test_a_secondary_client(stuck, interrupted):
    interrupted(stuck.secondary)
    assert stuck.is_connected()


def test_other_signals(stuck, name, interrupted):
    """What a handler raises ends a wait; when it returns, the wait goes on."""
    pending, count = stuck.send(name, Frame(b'', qos=1)), []

    def raises(*_):
        raise Interrupted

    before = signal.signal(signal.SIGINT, raises)
    try:
        interrupted(pending.wait_completed, Interrupted)
        signal.signal(signal.SIGINT, lambda *_: count.append(1))
        began = time.monotonic()
        timer = threading.Timer(0.1, lambda: os.kill(os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(TimeoutError):
            pending.wait_completed(0.5)
        timer.join()
        assert count == [1] and time.monotonic() - began >= 0.45
    finally:
        signal.signal(signal.SIGINT, before)


def test_asyncio(fake, path, name, interrupted):
    async def frames():
        async with busrt_async.connect(path, name) as client:
            async for _ in client:
                pass

    async def call():
        async with busrt_async.connect(path, name) as client:
            rpc = busrt_async.Rpc(client)

            @rpc.method('slow')
            async def slow(event):
                await asyncio.sleep(30)

            await rpc.call_method(name, 'slow', timeout=30)

    async def connect():
        await busrt_async.connect(fake.path, name, timeout=30)

    for work in (frames, call):
        interrupted(lambda: asyncio.run(work()))
    fake.answer(lambda peer: None)
    interrupted(lambda: asyncio.run(connect()))


def test_ctrl_c_in_a_terminal_ends_a_program(path, name):
    with Program(
        """
        import busrt, sys
        with busrt.connect(sys.argv[1], sys.argv[2]) as client:
            print('here', flush=True)
            for frame in client:
                pass
        """,
        path,
        name,
    ) as program:
        assert program.line() == 'here'
        time.sleep(0.1)
        program.process.send_signal(signal.SIGINT)
        began = time.monotonic()
        status, errors = program.wait()
        assert time.monotonic() - began < 5
        assert status == -signal.SIGINT and errors.rstrip().endswith('KeyboardInterrupt')
    # Its name is free.
    until(lambda: Client(path, name).connect() is None)
