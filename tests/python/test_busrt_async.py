"""The asynchronous client of PyPI, busrt-async 0.1.3, on our broker."""

import asyncio
import functools
import inspect

import msgpack
import pytest
from busrt_async import client as c
from busrt_async import rpc as r

from conftest import PATIENCE

ALL_QOS = pytest.mark.parametrize('qos', [0, 1, 2, 3])
PAYLOADS = {'bytes': b'hello', 'empty': b'', 'long': b'\0\xff' * 5000, 'str': 'a str'}


class Bus:
    """Connects clients, which store frames in their attribute `received`, and disconnects them."""

    def __init__(self, address, name):
        self.address, self.name, self.connected = address, name, []

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        for client in self.connected:
            await client.disconnect()

    async def connect(self, suffix, to=None):
        client = c.Client(to or self.address, f'{self.name}.{suffix}')
        client.timeout = PATIENCE
        client.received = asyncio.Queue()
        client.on_frame = client.received.put
        await client.connect()
        self.connected.append(client)
        return client

    async def two(self):
        return await self.connect('a'), await self.connect('b')


def on_a_bus(test):
    """Runs a coroutine test(bus, ...) in its own event loop."""

    async def body(address, name, **kwargs):
        async with Bus(address, name) as bus:
            await asyncio.wait_for(test(bus, **kwargs), 4 * PATIENCE)

    @functools.wraps(test)
    def run(address, name, **kwargs):
        asyncio.run(body(address, name, **kwargs))

    # Pytest must pass all parameters except the bus, which is created from the first two.
    own = list(inspect.signature(test).parameters.values())[1:]
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    run.__signature__ = inspect.Signature([inspect.Parameter('address', kind), inspect.Parameter('name', kind), *own])
    del run.__wrapped__
    return run


async def done(result):
    return await (await result).wait_completed(timeout=PATIENCE)


async def taken(client):
    return await asyncio.wait_for(client.received.get(), PATIENCE)


async def is_quiet(client):
    """Returns whether no unread frame has been delivered: the answer to a harmless operation comes
    after any such frame."""
    frame = c.Frame(tp=c.OP_UNSUBSCRIBE, qos=1)
    frame.topic = 'never/subscribed'
    assert await done(client.send(None, frame)) == c.RESPONSE_OK
    return client.received.empty()


@ALL_QOS
@pytest.mark.parametrize('payload', PAYLOADS.values(), ids=PAYLOADS.keys())
@on_a_bus
async def test_message(bus, qos, payload):
    a, b = await bus.two()
    result = await a.send(b.name, c.Frame(payload, qos=qos))
    frame = await taken(b)
    assert frame.payload == (payload.encode() if isinstance(payload, str) else payload)
    assert (frame.type, frame.sender, frame.primary_sender, frame.topic) == (c.OP_MESSAGE, a.name, a.name, None)
    assert await result.wait_completed(timeout=PATIENCE) == c.RESPONSE_OK
    assert result.is_completed()


@ALL_QOS
@on_a_bus
async def test_broadcast(bus, qos):
    a, b = await bus.two()
    assert await done(a.send(f'{bus.name}.*', c.Frame(b'x', tp=c.OP_BROADCAST, qos=qos))) == c.RESPONSE_OK
    for client in (a, b):
        frame = await taken(client)
        assert (frame.type, frame.sender, frame.payload) == (c.OP_BROADCAST, a.name, b'x')
        assert await is_quiet(client)


@ALL_QOS
@on_a_bus
async def test_publish(bus, qos):
    a, b = await bus.two()
    assert await done(b.subscribe([f'{bus.name}/one/#', f'{bus.name}/+/two'])) == c.RESPONSE_OK
    assert await done(b.subscribe(f'{bus.name}/three')) == c.RESPONSE_OK
    assert await is_quiet(b)
    for topic in ('one/x', 'x/two', 'one/two', 'three', 'four'):
        assert await done(a.send(f'{bus.name}/{topic}', c.Frame(topic, tp=c.OP_PUBLISH, qos=qos))) == c.RESPONSE_OK
    for topic in ('one/x', 'x/two', 'one/two', 'three'):
        frame = await taken(b)
        assert (frame.type, frame.sender, frame.topic) == (c.OP_PUBLISH, a.name, f'{bus.name}/{topic}')
        assert frame.payload == topic.encode()
    assert await done(b.unsubscribe([f'{bus.name}/one/#', f'{bus.name}/+/two'])) == c.RESPONSE_OK
    frame = c.Frame(tp=c.OP_UNSUBSCRIBE, qos=qos)
    frame.topic = f'{bus.name}/three'
    assert await done(b.send(None, frame)) == c.RESPONSE_OK
    assert await is_quiet(b)
    for topic in ('one/x', 'x/two', 'three'):
        assert await done(a.send(f'{bus.name}/{topic}', c.Frame(b'x', tp=c.OP_PUBLISH, qos=1))) == c.RESPONSE_OK
    assert await is_quiet(b)


@on_a_bus
async def test_order(bus):
    a, b = await bus.two()
    results = [await a.send(b.name, c.Frame(b'%d' % i, qos=(0, 2, 1, 3)[i % 4])) for i in range(2000)]
    assert [(await taken(b)).payload for _ in results] == [b'%d' % i for i in range(2000)]
    for result in results:
        assert await result.wait_completed(timeout=PATIENCE) == c.RESPONSE_OK


@on_a_bus
async def test_errors(bus):
    a = await bus.connect('a')
    assert await done(a.send('nobody.there', c.Frame(b'x', qos=1))) == c.ERR_CLIENT_NOT_REGISTERED
    assert await done(a.send('nobody.there', c.Frame(b'x', qos=0))) == c.RESPONSE_OK
    for refused, code in ((a.name, '0x76'), ('', '0x72'), ('.hidden', '0x72'), (f'{bus.name}.nobody%%1', '0x71')):
        with pytest.raises(RuntimeError, match=f'Server response: {code}'):
            await c.Client(bus.address, refused).connect()


@on_a_bus
async def test_secondary(bus):
    primary, secondary, other = await bus.connect('p'), await bus.connect('p%%1'), await bus.connect('o')
    await secondary.send(other.name, c.Frame(b'x', qos=1))
    frame = await taken(other)
    assert (frame.sender, frame.primary_sender) == (f'{bus.name}.p%%1', f'{bus.name}.p')
    assert await done(other.send(frame.sender, c.Frame(b'y', qos=1))) == c.RESPONSE_OK
    assert (await taken(secondary)).payload == b'y'
    assert await is_quiet(primary)


@on_a_bus
async def test_a_large_payload(bus):
    a, b = await bus.two()
    payload = bytes(range(256)) * 4096
    result = await a.send(b.name, c.Frame(payload, qos=1))
    assert (await taken(b)).payload == payload
    assert await result.wait_completed(timeout=PATIENCE) == c.RESPONSE_OK


@on_a_bus
async def test_many_tasks_over_one_client(bus):
    a, b = await bus.two()

    async def work(number):
        for i in range(100):
            assert await done(a.send(b.name, c.Frame(b'%d %d' % (number, i), qos=1))) == c.RESPONSE_OK

    await asyncio.gather(*(work(number) for number in range(16)))
    received = [tuple(map(int, (await taken(b)).payload.split())) for _ in range(16 * 100)]
    for number in range(16):
        assert [i for n, i in received if n == number] == list(range(100))


@on_a_bus
async def test_disconnect_and_connect_again(bus):
    a, b = await bus.two()
    for _ in range(5):
        await a.disconnect()
        assert not a.is_connected()
        while not a.is_connected():
            try:
                await a.connect()
            except RuntimeError as e:
                # The broker has not noticed the end of the old connection yet.
                assert str(e) == 'Server response: 0x76'
        assert await done(a.send(b.name, c.Frame(b'again', qos=1))) == c.RESPONSE_OK
        assert (await taken(b)).payload == b'again'


@on_a_bus
async def test_the_broker_is_restarted(bus, start, folder):
    broker = start(folder=folder)
    a = await bus.connect('a', broker.socket)
    await asyncio.to_thread(broker.stop)
    while a.is_connected():
        await asyncio.sleep(0.01)
    warning = await taken(a)
    assert (warning.sender, warning.topic) == ('.broker', '.broker/warn')
    with pytest.raises(OSError):
        await c.Client(broker.socket, 'x').connect()
    broker = await asyncio.to_thread(functools.partial(start, folder=folder))
    await a.connect()
    assert await done(a.send(a.name, c.Frame(b'x', qos=1))) == c.RESPONSE_OK
    assert (await taken(a)).payload == b'x'


@on_a_bus
async def test_an_idle_client_stays(bus, start):
    broker = start('-t', '1')
    idle = await bus.connect('idle', broker.socket)
    # Twice the time after which a silent client is disconnected.
    for round in range(2):
        with broker.wire(f'silent{round}') as silent:
            assert await asyncio.to_thread(silent.ended)
    assert await is_quiet(idle)
    assert idle.is_connected()


class Service:
    def __init__(self, client):
        self.rpc = r.Rpc(client)
        self.rpc.on_call = self.on_call
        self.rpc.on_notification = self.on_notification
        self.rpc.on_frame = self.on_frame
        self.events = asyncio.Queue()

    async def on_notification(self, event):
        await self.events.put(event.get_payload())

    async def on_frame(self, frame):
        await self.events.put((frame.topic, frame.payload))

    async def on_call(self, event):
        if event.method == b'echo':
            return event.get_payload()
        if event.method == b'nothing':
            return None
        if event.method == b'text':
            return 'a str'
        if event.method == b'note':
            await self.events.put((event.call_id, event.get_payload()))
        if event.method == b'own.error':
            raise r.RpcException('own text', code=-5)
        if event.method == b'bug':
            raise ValueError('a bug')
        if event.method == b'ask.back':
            return await call(self, event.frame.sender, 'echo', event.get_payload())
        raise r.RpcException('no such method', code=r.RPC_ERROR_CODE_METHOD_NOT_FOUND)

    async def event(self):
        return await asyncio.wait_for(self.events.get(), PATIENCE)


async def call(service, target, method, params=b''):
    event = await service.rpc.call(target, r.Request(method, params))
    return (await event.wait_completed(timeout=PATIENCE)).get_payload()


async def two_services(bus):
    a, b = await bus.two()
    return Service(a), Service(b), b.name


@on_a_bus
async def test_rpc(bus):
    a, _, target = await two_services(bus)
    for params in (b'', b'\0', bytes(100_000), 'a str'):
        expected = params.encode() if isinstance(params, str) else params
        assert await call(a, target, 'echo', params) == expected
    assert await call(a, target, 'nothing') == b''
    assert await call(a, target, b'text') == b'a str'
    assert await call(a, target, 'ask.back', b'around') == b'around'
    # The client itself.
    assert await call(a, a.rpc.client.name, 'echo', b'me') == b'me'


@on_a_bus
async def test_rpc_without_reply(bus):
    a, b, target = await two_services(bus)
    assert await done(a.rpc.notify(target, r.Notification(b'hello'))) == c.RESPONSE_OK
    assert await b.event() == b'hello'
    assert await done(a.rpc.call0(target, r.Request('note', b'hi'))) == c.RESPONSE_OK
    assert await b.event() == (0, b'hi')
    assert await done(a.rpc.notify('nobody', r.Notification(b'x'))) == c.ERR_CLIENT_NOT_REGISTERED
    assert await done(a.rpc.call0('nobody', r.Request('x'))) == c.ERR_CLIENT_NOT_REGISTERED


@pytest.mark.parametrize('method, code, payload', [
    ('own.error', -5, b'own text'), ('bug', -32603, b'a bug'), ('nonsense', -32601, b'no such method')])
@on_a_bus
async def test_rpc_errors(bus, method, code, payload):
    a, _, target = await two_services(bus)
    with pytest.raises(r.RpcException) as e:
        await call(a, target, method)
    assert (e.value.rpc_error_code, e.value.rpc_error_payload) == (code, payload)


@on_a_bus
async def test_rpc_to_an_unknown_client(bus):
    a, _, _ = await two_services(bus)
    with pytest.raises(r.RpcException) as e:
        await call(a, 'nobody.there', 'x')
    assert e.value.rpc_error_code == -32113


@on_a_bus
async def test_rpc_with_publications(bus):
    a, b, _ = await two_services(bus)
    await b.rpc.client.subscribe(f'{bus.name}/#')
    await call(b, a.rpc.client.name, 'nothing')
    await a.rpc.client.send(f'{bus.name}/x', c.Frame(b'pub', tp=c.OP_PUBLISH, qos=1))
    assert await b.event() == (f'{bus.name}/x', b'pub')


@on_a_bus
async def test_rpc_from_many_tasks(bus):
    a, _, target = await two_services(bus)
    replies = await asyncio.gather(*(call(a, target, 'echo', b'%d' % i) for i in range(500)))
    assert replies == [b'%d' % i for i in range(500)]


@on_a_bus
async def test_the_broker_answers(bus):
    a, _, _ = await two_services(bus)

    async def unpacked(method, params=b''):
        return msgpack.unpackb(await call(a, '.broker', method, params))

    assert await unpacked('test') == {'ok': True}
    assert {'author', 'version'} <= set(await unpacked('info'))
    assert {'uptime', 'r_frames', 'r_bytes', 'w_frames', 'w_bytes'} <= set(await unpacked('stats'))
    listed = await unpacked('client.list', msgpack.packb({'filter': '^' + a.rpc.client.name + '$'}))
    assert [client['name'] for client in listed['clients']] == [a.rpc.client.name]
    assert await call(a, '.broker', 'benchmark.test', b'same') == b'same'
    for method, params, code in (('test', b'x', -32602), ('nonsense', b'', -32601), ('client.list', b'\xc1', -32700)):
        with pytest.raises(r.RpcException) as e:
            await call(a, '.broker', method, params)
        assert e.value.rpc_error_code == code
