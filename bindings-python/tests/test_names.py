"""The names that the modules and classes have: all that programs in the field import by a star, nothing else that could hide a
name of theirs, and private names that no subclass has by chance."""

import asyncio
import os
import subprocess
import threading

import pytest

import busrt
import busrt.client
import busrt.rpc
import busrt_async
import busrt_async.client
import busrt_async.rpc
from conftest import until

MODULES = ['busrt.client', 'busrt.rpc', 'busrt_async.client', 'busrt_async.rpc']
# What we have added.
OURS = {'QoS', 'OP_EXCLUDE', 'OP_UNEXCLUDE', 'OP_PUBLISH_FOR', 'ERR_ACCESS'}
CODE = 'import sys\nexec(f"from {sys.argv[1]} import *")\nprint(*sorted(name for name in dir() if name[:2] != "__"))'


@pytest.mark.parametrize('module', MODULES)
def test_a_star_import_has_the_names_of_the_package_of_pypi(module):
    names = {}
    exec(f'from {module} import *', names)
    ours = {name for name in names if not name.startswith('__')}
    python = os.environ.get('PYPI_PYTHON')
    if python is None:
        pytest.skip('PYPI_PYTHON names no Python with the packages of PyPI')
    done = subprocess.run([python, '-W', 'ignore', '-c', CODE, module], capture_output=True, text=True, check=True)
    theirs = set(done.stdout.split()) - {'sys'}
    assert theirs <= ours, theirs - ours
    assert ours - theirs <= OURS, ours - theirs - OURS


def private(cls):
    return {name for base in cls.__mro__[:-1] for name in vars(base) if name.startswith('_') and not name.startswith('__')}


@pytest.mark.parametrize('module', [busrt, busrt_async], ids=['sync', 'asyncio'])
def test_private_names_have_a_prefix(path, name, module):
    client = module.Client(path, name)
    rpc = module.Rpc(client)
    done = client.connect()
    if done is not None:

        async def main():
            await done
            names.update(vars(client))
            await client.disconnect()

    names = set()
    if done is not None:
        asyncio.run(main())
    else:
        names.update(vars(client))
        client.disconnect()
    names |= private(module.Client) | private(module.Rpc) | set(vars(rpc))
    # The package of PyPI has a method of that name, too.
    names = {each for each in names if each.startswith('_')} - {'_handle_frame'}
    assert all(each.startswith('_bus_') for each in names), sorted(each for each in names if not each.startswith('_bus_'))


# Names that subclasses have for themselves.
TAKEN = [
    '_lock',
    '_session',
    '_options',
    '_pid',
    '_source',
    '_link',
    '_wait',
    '_send',
    '_run',
    '_topics',
    '_methods',
    '_answer',
    '_start',
    '_stop',
    '_handlers',
    '_queue',
    '_tasks',
    '_loop',
    '_name',
    '_path',
    '_thread',
    '_events',
    '_codec',
]


def test_subclasses_with_attributes_of_their_own(path, name):
    class OwnClient(busrt.Client):
        def __init__(self, path, name):
            super().__init__(path, name)
            for each in TAKEN:
                setattr(self, each, threading.Lock())

    class OwnRpc(busrt.Rpc):
        def __init__(self, client):
            super().__init__(client)
            for each in TAKEN:
                setattr(self, each, {b'x': None})

    client, got = OwnClient(path, name), []
    client.connect()
    client.on_frame = lambda frame: got.append(frame.payload)
    assert client.send(name, busrt.Frame(b'1', qos=1)).wait_completed(5) == 1
    until(lambda: got)
    rpc = OwnRpc(client)
    rpc.on_call = lambda event: b'reply'
    assert rpc.call(name, busrt.rpc.Request('x')).wait_completed(5).get_payload() == b'reply'
    assert not any(getattr(client, each).locked() for each in TAKEN)
    client.publish(name, b'')
    client.disconnect()


def test_subclasses_with_attributes_of_their_own_with_asyncio(path, name):
    class OwnClient(busrt_async.Client):
        def __init__(self, path, name):
            super().__init__(path, name)
            for each in TAKEN:
                setattr(self, each, 'own')

    class OwnRpc(busrt_async.Rpc):
        def __init__(self, client):
            super().__init__(client)
            for each in TAKEN:
                setattr(self, each, {b'x': None})

    async def main():
        client, got = OwnClient(path, name), []

        async def on_frame(frame):
            got.append(frame.payload)

        async def on_call(event):
            return b'reply'

        await client.connect()
        client.on_frame = on_frame
        assert await (await client.send(name, busrt.Frame(b'1', qos=1))).wait_completed(5) == 1
        while not got:
            await asyncio.sleep(0.005)
        rpc = OwnRpc(client)
        rpc.on_call = on_call
        event = await rpc.call(name, busrt_async.rpc.Request('x'))
        assert (await event.wait_completed(5)).get_payload() == b'reply'
        await client.publish(name, b'')
        await client.disconnect()

    asyncio.run(asyncio.wait_for(main(), 20))
