"""The deliveries of each operation, byte by byte (docs/protocol.md sections 3, 4 and 7)."""

import itertools
import threading

import pytest

from wire import (BROADCAST, EXCLUDE, MESSAGE, NOP, PUBLISH, PUBLISH_FOR, SUBSCRIBE, UNEXCLUDE, UNSUBSCRIBE, Wire, ack,
                  delivery, operation)

ALL_QOS = pytest.mark.parametrize('qos', [0, 1, 2, 3])


@pytest.fixture
def pair(address, name):
    with Wire(address, f'{name}.a') as a, Wire(address, f'{name}.b') as b:
        a.name, b.name = f'{name}.a'.encode(), f'{name}.b'.encode()
        yield a, b


def answered(wire, qos, op_id=7, code=1):
    """Returns whether the operation was acknowledged if, and only if, its QoS asks for it."""
    if qos & 1:
        return wire.frame() == ack(op_id, code)
    return wire.is_quiet()


@ALL_QOS
def test_message(pair, qos):
    a, b = pair
    a.send(operation(MESSAGE, b.name + b'\0some\0payload', qos, 7))
    assert b.frame() == delivery(MESSAGE, a.name, b'some\0payload', realtime=qos >> 1)
    assert answered(a, qos)
    assert b.is_quiet()


@ALL_QOS
def test_message_to_an_unknown_client(pair, qos):
    a, _ = pair
    a.send(operation(MESSAGE, b'nobody.there\0x', qos, 7))
    assert answered(a, qos, code=0x71)


def test_message_to_oneself(pair):
    a, _ = pair
    a.send(operation(MESSAGE, a.name + b'\0', 1, 7))
    assert sorted(a.frames(2)) == sorted([ack(7), delivery(MESSAGE, a.name, b'')])


@ALL_QOS
def test_broadcast(pair, qos):
    a, b = pair
    mask = a.name[:-1] + b'?'
    a.send(operation(BROADCAST, mask + b'\0x', qos, 7))
    expected = delivery(BROADCAST, a.name, b'x', realtime=qos >> 1)
    assert b.frame() == expected
    assert sorted(a.frames(1 + (qos & 1))) == sorted([expected] + [ack(7)] * (qos & 1))
    assert a.is_quiet() and b.is_quiet()


@pytest.mark.parametrize('mask, reached', [
    (b'?.test.*', [b'g.test.x', b'g.test.y.z', b'G.test.x', b'g.test.x%%1']),
    (b'g.test.x', [b'g.test.x']),
    (b'g.*', [b'g.test', b'g.test.x', b'g.test.y.z', b'g.test.x%%1']),
    (b'*', None),
    (b'g.test.?', [b'g.test.x', b'g.test.x%%1']),
    (b'g.te?t', []),
    (b'nobody.*', []),
])
def test_broadcast_masks(start, mask, reached):
    broker = start()
    names = [b'g.test', b'g.test.x', b'g.test.y.z', b'G.test.x', b'g.test.x%%1']
    wires = {name: broker.wire(name) for name in names}
    sender = broker.wire('sender')
    sender.send(operation(BROADCAST, mask + b'\0x', 1, 7))
    expected = delivery(BROADCAST, b'sender', b'x')
    if reached is None:
        reached = names
        assert sorted(sender.frames(2)) == sorted([ack(7), expected])
    else:
        assert sender.frame() == ack(7)
    for name, wire in wires.items():
        if name in reached:
            assert wire.frame() == expected, name
        assert wire.is_quiet(), name


@ALL_QOS
def test_publish(pair, qos):
    a, b = pair
    b.send(operation(SUBSCRIBE, b'some/+', qos, 9))
    assert answered(b, qos, 9)
    a.send(operation(PUBLISH, b'some/topic\0pay\0load', qos, 7))
    assert b.frame() == delivery(PUBLISH, a.name, b'some/topic', b'pay\0load', realtime=qos >> 1)
    assert answered(a, qos)


def test_publish_reaches_the_publisher_and_each_client_once(pair):
    a, b = pair
    for wire in pair:
        assert wire.do(SUBSCRIBE, b'twice/x\0twice/+\0#\0twice/#\0twice/x') == 1
    a.send(operation(PUBLISH, b'twice/x\0p', 0))
    for wire in pair:
        assert wire.frame() == delivery(PUBLISH, a.name, b'twice/x', b'p')
        assert wire.is_quiet()
        # Otherwise the subscription to everything would disturb other tests.
        assert wire.do(UNSUBSCRIBE, b'#') == 1


def test_publish_for(pair, broker):
    a, b = pair
    with broker.wire(b.name + b'%%1') as secondary, broker.wire(b.name + b'%%2') as other:
        for wire in (a, b, secondary):
            assert wire.do(SUBSCRIBE, b'for/#') == 1
        a.send(operation(PUBLISH_FOR, b'for/x\0' + b.name + b'\0pay\0load', 3, 7))
        assert a.frame() == ack(7)
        for wire in (b, secondary):
            assert wire.frame() == delivery(PUBLISH, a.name, b'for/x', b'pay\0load', realtime=1)
        assert other.is_quiet()
        # A receiver that is written as a secondary matches no client, nor does an unknown receiver.
        for receiver in (b.name + b'%%1', b'nobody', b''):
            a.send(operation(PUBLISH_FOR, b'for/x\0' + receiver + b'\0x', 1, 8))
            assert a.frame() == ack(8)
        for wire in (a, b, secondary):
            assert wire.is_quiet()


@pytest.mark.parametrize('mask, matching, others', [
    (b'a/#', [b'a/b', b'a/b/c', b'a/'], [b'a', b'A/b', b'ab/c']),
    (b'+/b', [b'x/b', b'/b'], [b'b', b'x/y/b', b'x/B']),
    (b'+/topic/#', [b'x/topic/event', b'x/topic/sub/event'], [b'x/topic']),
    (b'/a', [b'/a'], [b'a', b'/a/']),
    (b'a/+', [b'a/b', b'a/'], [b'a', b'a/b/c']),
    (b'w/+x', [b'w/+x'], [b'w/yx', b'w/x']),
    (b'a/#/ignored', [b'a/b', b'a/#/ignored'], [b'a']),
    (b'exact', [b'exact'], [b'exact/', b'/exact', b'+', b'#']),
])
def test_topic_masks(start, mask, matching, others):
    broker = start()
    with broker.wire('a') as a, broker.wire('b') as b:
        assert b.do(SUBSCRIBE, mask) == 1
        for topic in matching:
            a.send(operation(PUBLISH, topic + b'\0x', 0))
            assert b.frame() == delivery(PUBLISH, b'a', topic, b'x')
        for topic in others:
            assert a.do(PUBLISH, topic + b'\0x') == 1
            assert b.is_quiet(), topic


def test_wildcards_in_a_published_topic_are_text(pair):
    a, b = pair
    assert b.do(SUBSCRIBE, b'text/x\0text/+/y\0text/#') == 1
    assert b.do(EXCLUDE, b'text/#') == 1
    for topic in (b'text/#', b'text/+'):
        assert a.do(PUBLISH, topic + b'\0x') == 1
    assert b.is_quiet()
    assert b.do(UNEXCLUDE, b'text/#') == 1
    assert b.do(UNSUBSCRIBE, b'text/#') == 1
    for topic in (b'text/#', b'text/+'):
        assert a.do(PUBLISH, topic + b'\0x') == 1
    assert b.is_quiet()
    assert a.do(PUBLISH, b'text/+/y\0x') == 1
    assert b.frame() == delivery(PUBLISH, a.name, b'text/+/y', b'x')


def test_subscribing_twice_is_once_and_unsubscribing_from_nothing_is_fine(pair):
    a, b = pair
    assert b.do(SUBSCRIBE, b'once') == 1
    assert b.do(SUBSCRIBE, b'once') == 1
    assert b.do(UNSUBSCRIBE, b'once') == 1
    assert b.do(UNSUBSCRIBE, b'once') == 1
    assert b.do(UNEXCLUDE, b'once') == 1
    assert a.do(PUBLISH, b'once\0x') == 1
    assert b.is_quiet()


def test_many_topics_in_one_frame_are_acknowledged_once(pair):
    a, b = pair
    topics = [b'many/%d' % i for i in range(1000)]
    assert b.do(SUBSCRIBE, b'\0'.join(topics)) == 1
    assert b.do(EXCLUDE, b'\0'.join(topics[:-1])) == 1
    for topic in topics[:3] + topics[-1:]:
        assert a.do(PUBLISH, topic + b'\0x') == 1
    assert b.frame() == delivery(PUBLISH, a.name, topics[-1], b'x')
    assert b.do(UNEXCLUDE, b'\0'.join(topics[1:])) == 1
    for topic in topics[:2]:
        assert a.do(PUBLISH, topic + b'\0x') == 1
    assert b.frame() == delivery(PUBLISH, a.name, topics[1], b'x')
    assert b.is_quiet()


@pytest.mark.parametrize('code', [SUBSCRIBE, UNSUBSCRIBE, EXCLUDE, UNEXCLUDE])
def test_an_empty_body_is_one_empty_topic(pair, code):
    a, b = pair
    assert b.do(code, b'') == 1
    assert a.do(PUBLISH, b'\0x') == 1
    if code == SUBSCRIBE:
        assert b.frame() == delivery(PUBLISH, a.name, b'', b'x')
    assert b.is_quiet()


def test_a_ping_is_nine_bytes_of_which_eight_mean_nothing(pair):
    a, b = pair
    a.send(bytes(9), b'\xff\xff\xff\xff\x00\xff\xff\xff\xff', operation(MESSAGE, b.name + b'\0x'))
    assert b.frame() == delivery(MESSAGE, a.name, b'x')
    assert a.is_quiet()


@pytest.mark.parametrize('qos', [1, 2, 3])
def test_operation_0_with_qos_bits_has_a_body_and_does_nothing(pair, qos):
    a, b = pair
    a.send(operation(NOP, b.name + b'\0body', qos), operation(NOP, b'\0', qos))
    assert a.is_quiet() and b.is_quiet()
    a.send(operation(NOP, b'without', qos))
    assert a.ended()


@pytest.mark.parametrize('qos', [0, 1, 2, 3])
@pytest.mark.parametrize('code, body', [
    (0x07, b'a\0b'), (0x11, b'a\0b'), (0x14, b'a\0b'), (0x3f, b'a\0b'), (0x3e, b''),
    (MESSAGE, b'no-nul'), (MESSAGE, b''), (BROADCAST, b'no-nul'), (PUBLISH, b'no-nul'), (PUBLISH_FOR, b'one\0nul'),
    (MESSAGE, b'\xff\xfe\0x'), (BROADCAST, b'\xff\0x'), (PUBLISH, b'\xc3\0x'), (PUBLISH_FOR, b'ok\0\xff\0x'),
    (SUBSCRIBE, b'fine\0\xff'), (UNSUBSCRIBE, b'\xff'), (EXCLUDE, b'\xff'), (UNEXCLUDE, b'\xff'),
])
def test_an_invalid_frame_ends_only_its_connection(broker, code, body, qos, name):
    with broker.wire(f'{name}.bad') as bad, broker.wire(f'{name}.good') as good:
        # Frames before it are handled; frames after it are not.
        before = operation(MESSAGE, f'{name}.good'.encode() + b'\0before', 0)
        after = operation(MESSAGE, f'{name}.good'.encode() + b'\0after', 0)
        bad.send(before, operation(code, body, qos), after)
        assert good.frame() == delivery(MESSAGE, f'{name}.bad'.encode(), b'before')
        assert bad.ended()
        assert good.is_quiet()


def test_payloads_are_any_bytes_and_may_be_empty(pair):
    a, b = pair
    everything = bytes(range(256)) * 3
    for payload in (b'', b'\0', b'\0\0', everything):
        a.send(operation(MESSAGE, b.name + b'\0' + payload))
        assert b.frame() == delivery(MESSAGE, a.name, payload)


def test_acknowledgements_come_in_order_and_echo_any_id(pair):
    a, b = pair
    ids = [1, 0xFFFFFFFF, 0, 7, 7, 0x80000000]
    codes = itertools.cycle([(MESSAGE, b.name + b'\0x', 1), (MESSAGE, b'nobody\0x', 0x71), (PUBLISH, b't\0x', 1),
                             (SUBSCRIBE, b's', 1), (BROADCAST, b'nobody.*\0x', 1), (PUBLISH_FOR, b't\0r\0x', 1)])
    expected, sent = [], []
    for op_id, (code, body, result), qos in zip(ids * 100, codes, itertools.cycle([1, 3, 3, 1, 1])):
        sent.append(operation(code, body, qos, op_id))
        expected.append(ack(op_id, result))
    a.send(*sent)
    assert a.frames(len(expected)) == expected
    # The receiver must read them too, so that it does not hold the sender back.
    assert len(b.frames(100)) == 100


def test_order_is_kept_across_qos(pair):
    a, b = pair
    assert b.do(SUBSCRIBE, b'order') == 1
    sent, expected = [], []
    kinds = itertools.cycle([
        (MESSAGE, b.name, lambda p, r: delivery(MESSAGE, a.name, p, realtime=r)),
        (PUBLISH, b'order', lambda p, r: delivery(PUBLISH, a.name, b'order', p, realtime=r)),
        (BROADCAST, b.name, lambda p, r: delivery(BROADCAST, a.name, p, realtime=r)),
        (PUBLISH_FOR, b'order\0' + b.name, lambda p, r: delivery(PUBLISH, a.name, b'order', p, realtime=r)),
    ])
    for i, (code, head, deliver), qos in zip(range(2000), kinds, itertools.cycle([0, 2, 0, 1, 3])):
        payload = b'%d' % i * (1 if i % 97 else 2000)
        sent.append(operation(code, head + b'\0' + payload, qos, i))
        expected.append(deliver(payload, qos >> 1))
    a.send(*sent)
    assert b.frames(len(expected)) == expected


def test_a_stream_may_be_cut_anywhere(address, name):
    with Wire(address, f'{name}.a') as a, Wire(address, f'{name}.b') as b:
        target = f'{name}.b'.encode()
        stream = (operation(MESSAGE, target + b'\0one', 1, 1) + bytes(9) + operation(SUBSCRIBE, b'', 1, 2) +
                  operation(MESSAGE, target + b'\0', 3, 3))
        expected = [delivery(MESSAGE, f'{name}.a'.encode(), b'one'),
                    delivery(MESSAGE, f'{name}.a'.encode(), b'', realtime=1)]
        for cut in range(1, len(stream)):
            a.send(stream[:cut])
            a.send(stream[cut:])
        for byte in stream:
            a.send(bytes([byte]))
        assert b.frames(2 * len(stream)) == expected * len(stream)
        assert a.frames(3 * len(stream)) == [ack(1), ack(2), ack(3)] * len(stream)


def test_frames_written_before_the_end_are_delivered(address, name):
    """Publish with QoS 0 and exit."""
    topic = name.encode()
    with Wire(address, name) as subscriber:
        assert subscriber.do(SUBSCRIBE, topic) == 1
        for number in range(10):
            publisher = f'{name}.{number}'
            with Wire(address, publisher) as wire:
                wire.send(*(operation(PUBLISH, topic + b'\0%d' % i) for i in range(500)))
            for i in range(500):
                assert subscriber.frame() == delivery(PUBLISH, publisher.encode(), topic, b'%d' % i)


def test_a_large_payload_arrives_intact(pair):
    a, b = pair
    payload = bytes(i * 7 % 251 for i in range(1024)) * 16 * 1024
    body = b.name + b'\0' + payload
    sending = threading.Thread(target=a.send, args=(operation(MESSAGE, body, 1, 5),))
    sending.start()
    assert b.frame() == delivery(MESSAGE, a.name, payload)
    sending.join()
    assert a.frame() == ack(5)
