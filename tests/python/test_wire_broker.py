"""The broker's own client (docs/protocol.md section 9), and RPC as bytes (section 8)."""

import struct
import time

import msgpack
import pytest

from wire import BROADCAST, MESSAGE, PUBLISH, SUBSCRIBE, UNSUBSCRIBE, Wire, delivery, operation


def request(method, params=b'', call_id=5):
    return b'.broker\0\x01' + struct.pack('<I', call_id) + method + b'\0' + params


def call(wire, method, params=b'', qos=1):
    """Returns the body of the reply without the sender and the call id: kind byte and result."""
    wire.next_id += 1
    wire.send(operation(MESSAGE, request(method, params), qos, wire.next_id))
    frames = wire.frames(1 + (qos & 1))
    reply = next(frame for frame in frames if frame[0] == MESSAGE)
    assert reply[5] == qos >> 1
    body = reply[6:]
    assert body.startswith(b'.broker\0')
    assert body[9:13] == struct.pack('<I', 5)
    return body[8:9] + body[13:]


def result(wire, method, params=b''):
    answer = call(wire, method, params)
    assert answer[:1] == b'\x11', answer
    return msgpack.unpackb(answer[1:])


def error(wire, method, params=b''):
    answer = call(wire, method, params)
    assert answer[:1] == b'\x12', answer
    answer[3:].decode()
    return struct.unpack('<h', answer[1:3])[0]


@pytest.fixture
def wire(broker, name):
    with broker.wire(name) as wire:
        yield wire


@pytest.mark.parametrize('qos', [0, 1, 2, 3])
def test_the_bytes_of_test(wire, qos):
    assert call(wire, b'test', qos=qos) == b'\x11\x81\xa2ok\xc3'


def test_info(wire):
    info = result(wire, b'info')
    assert isinstance(info['author'], str) and info['version'].count('.') == 2


def test_stats_count_frames_and_their_bodies(start):
    broker = start()
    with broker.wire('a') as a:
        first = result(a, b'stats')
        assert set(first) >= {'uptime', 'r_frames', 'r_bytes', 'w_frames', 'w_bytes'}
        a.send(operation(MESSAGE, b'a\0hello'), bytes(9))
        a.frame()
        second = result(a, b'stats')
        # Counted in between: the message and the second call in, the message and its acknowledgement out, and the
        # reply and acknowledgement of the first call unless they were counted before.
        assert second['r_frames'] - first['r_frames'] == 2
        assert second['r_bytes'] - first['r_bytes'] == len(b'a\0hello') + len(request(b'stats'))
        assert second['w_frames'] > first['w_frames']


def test_benchmark_test_echoes(wire):
    for params in (b'', b'\0', b'\xff' * 10_000):
        assert call(wire, b'benchmark.test', params) == b'\x11' + params


def test_client_list(start):
    broker = start(tcp=True)
    with broker.wire('b') as b, broker.wire('b%%1'), broker.wire('b%%2'):
        with Wire(broker.tcp, 'a') as a:
            listed = result(b, b'client.list')['clients']
            assert [client['name'] for client in listed] == ['.broker', 'a', 'b']
            for client in listed:
                assert set(client) >= {'name', 'kind', 'source', 'port', 'r_frames', 'r_bytes', 'w_frames', 'w_bytes',
                                       'queue', 'instances'}
            internal, tcp, unix = listed
            assert (internal['kind'], internal['source'], internal['port']) == ('internal', None, None)
            assert (tcp['kind'], tcp['instances']) == ('tcp', 1)
            assert tcp['source'] == '%s:%d' % a.socket.getsockname()
            # The address as it was given to the broker.
            assert tcp['port'] == '127.0.0.1:0'
            assert (unix['kind'], unix['source'], unix['port'], unix['instances']) == \
                ('local_ipc', None, broker.socket, 3)
            a.send(operation(MESSAGE, b'a\0hello', 1))
            a.frames(2)
            tcp = result(b, b'client.list', msgpack.packb({'filter': '^a$'}))['clients']
            assert [client['name'] for client in tcp] == ['a']
            tcp = tcp[0]
            assert (tcp['r_frames'], tcp['r_bytes']) == (1, 7)
            assert (tcp['w_frames'], tcp['w_bytes']) == (2, 7 + 6)
            assert result(b, b'client.list', msgpack.packb({'filter': None}))['clients'][1]['name'] == 'a'
            assert result(b, b'client.list', msgpack.packb({}))['clients'][1]['name'] == 'a'
            assert result(b, b'client.list', msgpack.packb({'filter': 'nobody'})) == {'clients': []}


@pytest.mark.parametrize('method, params, code', [
    (b'test', b'\x80', -32602), (b'info', b'x', -32602), (b'stats', b'\0', -32602),
    (b'client.list', msgpack.packb({'filter': '('}), -32700), (b'client.list', b'\xc1', -32700),
    (b'client.list', msgpack.packb({'filter': 5}), -32700), (b'client.list', b'\x81', -32700),
    (b'nonsense', b'', -32601), (b'', b'', -32601), (b'\xff\xfe', b'', -32114),
])
def test_errors(wire, method, params, code):
    assert error(wire, method, params) == code


@pytest.mark.parametrize('payload', [b'', b'\x02', b'\x01', b'\x01abcd', b'\x01abcdmethod', b'\x11\x01\0\0\0x', b'\x12', b'\0hi',
                                     request(b'test', call_id=0)[8:], b'\xff' * 100])
def test_an_invalid_request_is_dropped_and_the_connection_stays(wire, payload):
    assert wire.do(MESSAGE, b'.broker\0' + payload) == 1
    assert wire.is_quiet()
    assert result(wire, b'test') == {'ok': True}


def test_registrations_are_announced(start):
    broker = start()
    with broker.wire('watcher') as watcher:
        assert watcher.do(SUBSCRIBE, b'.broker/info') == 1
        began = time.time_ns()
        with broker.wire('x'), broker.wire('x%%1'):
            pass
        for subject in ('reg', 'unreg'):
            frame = watcher.frame()
            head = delivery(PUBLISH, b'.broker', b'.broker/info', b'')[6:]
            assert frame[6:].startswith(head)
            event = msgpack.unpackb(frame[6 + len(head):])
            assert set(event) == {'s', 'd', 't'}
            assert (event['s'], event['d']) == (subject, 'x')
            assert abs(event['t'] - began) < 600e9
        assert watcher.is_quiet()


def test_every_client_is_told_of_the_shutdown(start):
    broker = start(tcp=True)
    with broker.wire('a') as a, broker.wire('a%%1') as secondary, broker.wire('deaf') as deaf:
        assert deaf.do(UNSUBSCRIBE, b'.broker/warn') == 1
        assert broker.terminate() == 0
        for wire in (a, secondary):
            frame = wire.frame()
            head = delivery(PUBLISH, b'.broker', b'.broker/warn', b'')[6:]
            assert frame[6:].startswith(head)
            event = msgpack.unpackb(frame[6 + len(head):])
            assert (set(event), event['s']) == ({'s', 't'}, 'shutdown')
            assert wire.ended()
        assert deaf.ended()


def test_the_broker_is_a_client_like_others(wire):
    assert wire.do(BROADCAST, b'.broker\0x') == 1
    assert wire.do(SUBSCRIBE, b'.broker/warn') == 1
    assert wire.is_quiet()
