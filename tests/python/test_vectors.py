"""The wire vectors in tests/vectors (its README describes the format), replayed against the broker."""

import json
from pathlib import Path

import pytest

from wire import ACK, BROADCAST, MESSAGE, PUBLISH, PUBLISH_FOR, ack, delivery, operation

FOLDER = Path(__file__).parent.parent / 'vectors'
OPERATIONS = {'nop': 0, 'publish': PUBLISH, 'subscribe': 2, 'unsubscribe': 3, 'exclude': 4, 'unexclude': 5,
              'publish_for': PUBLISH_FOR, 'message': MESSAGE, 'broadcast': BROADCAST}
KINDS = {'publication': PUBLISH, 'message': MESSAGE, 'broadcast': BROADCAST, 'acknowledgement': ACK}


def vectors(file, condition=lambda vector: True):
    """Returns the vectors of a file that meet the condition, each with its name as the name of the test."""
    listed = filter(condition, json.loads((FOLDER / f'{file}.json').read_text())['vectors'])
    return pytest.mark.parametrize('vector', [pytest.param(vector, id=vector['name']) for vector in listed])


@vectors('requests', lambda vector: 'decode_only' not in vector and vector['meaning']['operation'] != 'nop')
def test_requests(vector):
    meaning, data = vector['meaning'], bytes.fromhex(vector['bytes'])
    names = [meaning[part].encode() for part in ('topic', 'receiver', 'target', 'mask') if part in meaning]
    if 'topics' in meaning:
        parts = [topic.encode() for topic in meaning['topics']]
    else:
        parts = names + [bytes.fromhex(meaning['payload'])]
    code = OPERATIONS[meaning['operation']]
    assert operation(code, b'\0'.join(parts), meaning['qos'], meaning['op_id']) == data


@vectors('deliveries')
def test_deliveries(vector):
    meaning, data = vector['meaning'], bytes.fromhex(vector['bytes'])
    if meaning['kind'] == 'nop':
        assert data == bytes(6)
    elif meaning['kind'] == 'acknowledgement':
        assert data == ack(meaning['op_id'], int(meaning['code'], 16))
    else:
        names = [meaning[part].encode() for part in ('sender', 'topic') if part in meaning]
        parts = [*names, bytes.fromhex(meaning['payload'])]
        assert delivery(KINDS[meaning['kind']], *parts, realtime=int(meaning['realtime'])) == data


# busrtd has no access list: core/tests/vectors_broker.rs replays the handshakes that need one.
@vectors('handshakes', lambda vector: 'access' not in vector.get('given', {}))
def test_handshakes(start, vector):
    given = vector.get('given', {})
    options = ['--force-register'] if given.get('force_register') else []
    if 'max_connections' in given:
        options += ['--max-connections', str(given['max_connections'])]
    broker = start(*options)
    registered = [broker.wire(name) for name in given.get('registered', [])]
    with broker.wire() as wire:
        for step in vector['steps']:
            data = bytes.fromhex(step['bytes'])
            if step['from'] == 'client':
                wire.send(data)
            else:
                assert wire.read(len(data)) == data, step['meaning']
        if vector['outcome'] == 'registered':
            assert wire.is_quiet()
        else:
            assert wire.ended()
    for other in registered:
        other.close()


@vectors('exchanges')
def test_exchanges(start, vector):
    broker = start()
    clients = {name: broker.wire(name) for name in vector['clients']}
    for step in vector['steps']:
        wire = clients[step['client']]
        if 'send' in step:
            wire.send(bytes.fromhex(step['send']))
        elif 'receive' in step:
            assert wire.frame() == bytes.fromhex(step['receive']), step
        elif 'quiet' in step:
            assert wire.is_quiet(), step
        else:
            assert step['closed'] and wire.ended(), step
    for wire in clients.values():
        wire.close()


@vectors('invalid', lambda vector: vector['frame'] != 'delivery')
def test_invalid(broker, name, vector):
    data = bytes.fromhex(vector['bytes'])
    if vector['frame'] == 'request':
        with broker.wire(name) as wire:
            wire.send(data)
            assert wire.ended()
    else:
        with broker.wire(name) as wire:
            assert wire.do(MESSAGE, b'.broker\0' + data) == 1
            assert wire.is_quiet()


def test_every_file_is_read_here_or_by_the_rust_tests():
    here = {'requests', 'deliveries', 'handshakes', 'exchanges', 'invalid'}
    rust_only = {'result_codes', 'rpc', 'fifo'}
    assert {path.stem for path in FOLDER.glob('*.json')} == here | rust_only
