"""The broker goes away at every stage: each wait ends, with the exception that belongs to it, in both modules."""

import asyncio
import os
import threading
import time

import pytest

import busrt
import busrt_async
from busrt.client import Client, Frame
from busrt.rpc import Request, Rpc, RpcException
from conftest import until

PATIENCE = 10

# The peer takes these steps of a handshake before it closes the connection.
HANDSHAKE = {
    'nothing': lambda peer: None,
    'a part of the greeting': lambda peer: peer.sendall(b'\xeb\x01'),
    'the greeting': lambda peer: peer.sendall(b'\xeb\x01\0'),
    'the greeting, and reads the answer': lambda peer: (peer.sendall(b'\xeb\x01\0'), peer.recv(3)),
    'it takes the greeting': lambda peer: (peer.sendall(b'\xeb\x01\0'), peer.recv(3), peer.sendall(b'\x01')),
    'it reads the name': lambda peer: (peer.sendall(b'\xeb\x01\0'), peer.recv(3), peer.sendall(b'\x01'), peer.recv(99)),
}

# The peer has registered the client and sends this before it closes the connection.
AFTERWARDS = {
    'nothing': b'',
    'a part of a header': b'\x12\x05\0',
    'a header': b'\x12\x05\0\0\0\0',
    'a part of a frame': b'\x12\x05\0\0\0\0a\0b',
    'a part of an acknowledgement': b'\xfe\x01\0',
}


def closing(work):
    def answer(peer):
        work(peer)
        peer.close()

    return answer


@pytest.mark.parametrize('stage', HANDSHAKE)
@pytest.mark.parametrize('module', ['sync', 'asyncio'])
def test_while_connecting(fake, name, stage, module):
    fake.answer(closing(HANDSHAKE[stage]))
    began = time.monotonic()
    with pytest.raises(OSError) as e:
        if module == 'sync':
            client = Client(fake.path, name)
            client.timeout = 30
            client.connect()
        else:
            client = busrt_async.Client(fake.path, name)
            client.timeout = 30
            asyncio.run(client.connect())
    assert isinstance(e.value, busrt.BusError) and not isinstance(e.value, TimeoutError)
    assert not client.is_connected() and time.monotonic() - began < PATIENCE
    # The same object connects as soon as there is a broker.
    fake.answer(fake.register)
    if module == 'sync':
        client.connect()
        assert client.is_connected()
        client.timeout = 0.1
        client.disconnect()
    else:

        async def again():
            await client.connect()
            assert client.is_connected()
            client.timeout = 0.1
            await client.disconnect()

        asyncio.run(again())


@pytest.mark.parametrize('stage', AFTERWARDS)
def test_after_the_registration(fake, name, stage):
    """Everything that waits ends: acknowledgements, calls, iteration."""

    def answer(peer):
        fake.register(peer)
        release.wait(PATIENCE)
        peer.sendall(AFTERWARDS[stage])
        peer.close()

    release, got, ends = threading.Event(), [], []
    fake.answer(answer)
    client = Client(fake.path, name)
    client.timeout = 30
    client.connect()
    rpc = Rpc(client)
    rpc.on_frame = got.append
    pending = client.send('x', Frame(b'', qos=1))
    # call waits for the acknowledgement of its request.
    thread = threading.Thread(target=lambda: ends.append(rpc.call('x', Request('y'))))
    thread.start()
    time.sleep(0.05)
    release.set()
    assert pending.wait_completed(PATIENCE) == 0x73 and pending.result == 0x73
    thread.join(PATIENCE)
    with pytest.raises(RpcException) as e:
        ends[0].wait_completed(PATIENCE)
    assert e.value.rpc_error_code == -32115
    until(lambda: not client.is_connected())
    assert not got
    for work in (lambda: client.send('x', Frame(b'')), lambda: client.subscribe('x'), lambda: client.publish('x')):
        with pytest.raises(OSError):
            work()
    with pytest.raises(RpcException) as e:
        rpc.call('x', Request('y')).wait_completed(PATIENCE)
    assert e.value.rpc_error_code == -32115
    client.disconnect()


@pytest.mark.parametrize('stage', AFTERWARDS)
def test_after_the_registration_with_asyncio(fake, name, stage):
    def answer(peer):
        fake.register(peer)
        release.wait(PATIENCE)
        peer.sendall(AFTERWARDS[stage])
        peer.close()

    async def main():
        client = busrt_async.Client(fake.path, name)
        client.timeout = 30
        await client.connect()
        rpc = busrt_async.Rpc(client)
        pending = await client.send('x', Frame(b'', qos=1))
        call = asyncio.ensure_future(rpc.call('x', Request('y')))
        await asyncio.sleep(0.05)
        release.set()
        assert await pending.wait_completed(PATIENCE) == 0x73
        with pytest.raises(RpcException) as e:
            await (await asyncio.wait_for(call, PATIENCE)).wait_completed(PATIENCE)
        assert e.value.rpc_error_code == -32115
        while client.is_connected():
            await asyncio.sleep(0.005)
        for work in (client.send('x', Frame(b'')), client.subscribe('x'), client.publish('x')):
            with pytest.raises(OSError):
                await work
        await client.disconnect()

    release = threading.Event()
    fake.answer(answer)
    asyncio.run(asyncio.wait_for(main(), PATIENCE * 2))


def test_while_there_is_no_room(fake, name):
    fake.answer(fake.register)
    client, ends = Client(fake.path, name), []
    client.connect()
    client.timeout = 30

    def send():
        try:
            while True:
                client.send('x', Frame(b'z' * 1_000_000))
        except Exception as e:
            ends.append(e)

    def flush():
        try:
            ends.append(client.flush(30))
        except Exception as e:
            ends.append(e)

    threads = [threading.Thread(target=send), threading.Thread(target=send), threading.Thread(target=flush)]
    for thread in threads:
        thread.start()
        time.sleep(0.1)
    fake.close()
    for thread in threads:
        thread.join(PATIENCE)
    assert [isinstance(end, OSError) for end in ends] == [True] * 3 and not any(isinstance(e, TimeoutError) for e in ends)


def test_iteration_ends(broker, name):
    client, ends = busrt.connect(broker.path, name, reconnect=False), []
    thread = threading.Thread(target=lambda: ends.append(list(client)))
    thread.start()
    time.sleep(0.05)
    broker.kill()
    thread.join(PATIENCE)
    assert ends == [[]] and not client.is_connected()

    async def main():
        async with busrt_async.connect(broker.path, name, reconnect=False) as client:
            asyncio.get_running_loop().call_later(0.05, broker.kill)
            return [frame async for frame in client]

    broker.start()
    assert asyncio.run(asyncio.wait_for(main(), PATIENCE)) == []


def test_within_handlers(broker, name):
    """The broker dies while handlers run and wait."""
    a, b = Client(broker.path, name + '.a'), Client(broker.path, name + '.b')
    a.connect()
    b.connect()
    a.timeout = b.timeout = 30
    server, caller, ends = Rpc(a), Rpc(b), []

    def on_call(event):
        broker.kill()
        try:
            server.call(b.name, Request('back')).wait_completed(PATIENCE)
        except RpcException as e:
            ends.append(e.rpc_error_code)
        return b'late'

    server.on_call = on_call
    with pytest.raises(RpcException) as e:
        caller.call(a.name, Request('x')).wait_completed(PATIENCE)
    assert e.value.rpc_error_code == -32115
    until(lambda: ends)
    assert ends == [-32115]
    a.disconnect()
    b.disconnect()


@pytest.mark.parametrize('wait', ['drain', 'disconnect'])
def test_while_ending(fake, name, wait):
    fake.answer(fake.register)
    client = Client(fake.path, name)
    client.connect()
    client.timeout = 0.05
    with pytest.raises(TimeoutError):
        while True:
            client.send('x', Frame(b'z' * 1_000_000))
    client.timeout = 30
    threading.Timer(0.1, fake.close).start()
    began = time.monotonic()
    if wait == 'drain':
        client.drain(30)
    else:
        client.disconnect()
    assert time.monotonic() - began < PATIENCE and not client.is_connected()


def test_a_dead_broker_costs_no_time(broker, name):
    clients = [Client(broker.path, f'{name}.{n}') for n in range(5)]
    for client in clients:
        client.connect()
    Rpc(clients[0])
    broker.kill()
    until(lambda: not any(client.is_connected() for client in clients))
    time.sleep(0.1)
    before = os.times()
    time.sleep(0.5)
    after = os.times()
    assert after.user + after.system - before.user - before.system < 0.25
    for client in clients:
        client.disconnect()


def test_killed_and_started_again_and_again(broker, name):
    client = Client(broker.path, name)
    for _ in range(10):
        client.connect()
        for _ in range(100):
            client.send(name, Frame(b'x'))
        pending = client.send(name, Frame(b'', qos=1))
        broker.kill()
        assert pending.wait_completed(PATIENCE) in (1, 0x73)
        broker.start()
    client.disconnect()
