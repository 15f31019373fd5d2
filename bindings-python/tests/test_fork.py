"""Children made by fork: an inherited client tells them so, they open their own, and the parent notices nothing."""

import pytest

from busrt.client import Client
from conftest import until
from running import run

# Every program here begins with this.
HEAD = """
import os, sys, threading, time, traceback
import busrt
from busrt.client import Client, Frame
from busrt.rpc import Notification, Request, Rpc

path, name = sys.argv[1:3]

def in_a_child(work):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

def connected(suffix=''):
    client = Client(path, name + suffix)
    client.connect()
    return client
"""


@pytest.fixture
def receiver(path, name):
    client = Client(path, name + '.to')
    client.got = []
    client.on_frame = lambda frame: client.got.append(frame.payload)
    client.connect()
    yield client
    client.disconnect()


def test_an_inherited_client(path, name):
    run(
        HEAD
        + """
parent = connected()
waiting = parent.send('nobody', Frame(b'', qos=1))
rpc_parent = Rpc(connected('.rpc'))

def child():
    assert not parent.is_connected()
    for work in (lambda: parent.send(name, Frame(b'')), lambda: parent.subscribe('x'), lambda: parent.publish('x')):
        try:
            work()
        except busrt.NotSupportedError as e:
            assert 'fork' in str(e), repr(e)
        else:
            raise AssertionError('it was sent')
    try:
        rpc_parent.call(name, Request('x')).wait_completed(5)
    except busrt.RpcException as e:
        assert e.rpc_error_code == -32115 and 'fork' in str(e), repr(e)
    else:
        raise AssertionError('it was called')
    parent.disconnect()
    own = connected('.child')
    assert own.send(name, Frame(b'', qos=1)).wait_completed(5) == 1
    # The inherited object itself may be connected again.
    parent.name = name + '.again'
    parent.connect()
    assert parent.send(name, Frame(b'', qos=1)).wait_completed(5) == 1

in_a_child(child)
assert parent.is_connected() and parent.send(name, Frame(b'', qos=1)).wait_completed(5) == 1
""",
        path,
        name,
    )


def test_handlers_belong_to_the_process_that_connected(path, name, receiver):
    run(
        HEAD
        + """
parent, target = connected(), sys.argv[3]
parent.on_frame = lambda frame: parent.send(target, Frame(b'%d %s' % (os.getpid(), frame.payload)))

def child():
    own = connected('.child')
    own.on_frame = lambda frame: own.send(target, Frame(b'%d %s' % (os.getpid(), frame.payload)))
    own.send(own.name, Frame(b'to the child'))
    own.send(parent.name, Frame(b'to the parent'))
    time.sleep(0.3)

in_a_child(child)
print(os.getpid())
""",
        path,
        name,
        receiver.name,
    )
    until(lambda: len(receiver.got) == 2)
    pids = {text: int(pid) for pid, text in (got.split(b' ', 1) for got in receiver.got)}
    assert len(set(pids.values())) == 2


def test_a_fork_in_the_middle_of_everything(path, name):
    run(
        HEAD
        + """
a, b = Rpc(connected('.a')), Rpc(connected('.b'))
a.on_call = lambda event: event.get_payload()
stop = threading.Event()

def flood():
    while not stop.is_set():
        b.client.send(name + '.a', Frame(b'x' * 1000, tp=1))

def call():
    while not stop.is_set():
        assert b.call(name + '.a', Request('echo', b'x')).wait_completed(20).get_payload() == b'x'

threads = [threading.Thread(target=work) for work in (flood, flood, call)]
for thread in threads:
    thread.start()

def child():
    own = connected('.%d' % os.getpid())
    assert own.send(own.name, Frame(b'', qos=1)).wait_completed(10) == 1

for _ in range(20):
    in_a_child(child)
stop.set()
for thread in threads:
    thread.join()
assert b.call(name + '.a', Request('echo', b'y')).wait_completed(20).get_payload() == b'y'
""",
        path,
        name,
    )


def test_a_pool_of_multiprocessing(path, name):
    run(
        """
import multiprocessing, os, sys
from busrt.client import Client, Frame
from busrt.rpc import Request, Rpc

path, name = sys.argv[1:3]
server = Rpc(Client(path, name))
server.client.connect()
server.on_call = lambda event: event.get_payload() * 2
own = None

def work(number):
    global own
    if own is None:
        client = Client(path, f'{name}.{os.getpid()}')
        client.connect()
        own = Rpc(client)
    return own.call(name, Request('double', b'%d' % number)).wait_completed(20).get_payload()

with multiprocessing.get_context('fork').Pool(3) as pool:
    assert pool.map(work, range(60)) == [b'%d' % n * 2 for n in range(60)]
""",
        path,
        name,
    )


def test_an_inherited_broker(name):
    run(
        HEAD
        + """
broker = busrt.Broker()

def child():
    try:
        broker.clients()
    except busrt.NotSupportedError:
        pass
    else:
        raise AssertionError('it was used')
    with busrt.Broker() as own:
        assert own.clients() == ['.broker']

in_a_child(child)
assert broker.clients() == ['.broker']
broker.shutdown()
""",
        '',
        name,
    )


def test_a_child_of_a_program_of_asyncio(path, name):
    run(
        """
import asyncio, os, sys
import busrt
from busrt_async.client import Client, Frame

path, name = sys.argv[1:3]

async def own(suffix):
    client = Client(path, name + suffix)
    await client.connect()
    assert await (await client.send(client.name, Frame(b'', qos=1))).wait_completed(10) == 1
    return client

async def child(parent):
    assert not parent.is_connected()
    try:
        await parent.send(name, Frame(b''))
    except busrt.NotSupportedError as e:
        assert 'fork' in str(e), repr(e)
    else:
        raise AssertionError('it was sent')
    client = await own('.child')
    await client.disconnect()

async def main():
    parent = await own('')
    await asyncio.sleep(0)
    return parent

loop = asyncio.new_event_loop()
parent = loop.run_until_complete(main())
pid = os.fork()
if pid == 0:
    status = 1
    try:
        asyncio.run(child(parent))
        status = 0
    finally:
        os._exit(status)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
assert parent.is_connected()
loop.run_until_complete(parent.disconnect())
loop.close()
""",
        path,
        name,
    )
