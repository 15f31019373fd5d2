"""Peers that misbehave, and limits: only their own connections are affected."""

import os
import random
import struct
import threading

import pytest

from conftest import until
from wire import HELLO, MESSAGE, PUBLISH, SUBSCRIBE, Wire, ack, delivery, operation


def resident_kb(pid):
    with open(f'/proc/{pid}/status') as status:
        return next(int(line.split()[1]) for line in status if line.startswith('VmRSS:'))


def test_a_declared_length_allocates_nothing(start):
    """20 peers that each declare a frame as long as the limit, 256 MiB, and send two bytes of it."""
    broker = start()
    with broker.wire('warm.up') as wire:
        wire.send(operation(MESSAGE, b'warm.up\0' + bytes(1000)))
        wire.frame()
        before = resident_kb(broker.process.pid)
        wires = [broker.wire(f'hostile.{i}') for i in range(20)]
        for hostile in wires:
            hostile.send(struct.pack('<IBI', 1, MESSAGE, 1 << 28), b'ab')
        for i, hostile in enumerate(wires):
            # The broker has read the bytes: the connection is open and accepts more.
            hostile.send(b'x')
        assert wire.is_quiet()
        assert resident_kb(broker.process.pid) - before < 8 * 1024
        for hostile in wires:
            hostile.close()


def test_a_frame_that_stalls_is_cut_and_one_that_moves_is_not(start):
    broker = start('-t', '0.3')
    with broker.wire('stalled') as stalled, broker.wire('moving') as moving:
        stalled.send(operation(MESSAGE, b'moving\0x')[:-1])
        frame = operation(MESSAGE, b'stalled\0' + bytes(5), 1)
        moving.send(frame[:-1])
        stalled.socket.settimeout(0.02)
        sent = 0
        # Pings would be bytes of the frame; the connection that makes progress sends a second, long frame.
        long = operation(MESSAGE, b'moving\0' + bytes(1_000_000))
        moving.send(frame[-1:])
        while True:
            moving.send(long[sent:sent + 1])
            sent += 1
            try:
                if stalled.socket.recv(100) == b'':
                    break
            except TimeoutError:
                pass
            except ConnectionResetError:
                break
        moving.send(long[sent:])
        assert moving.frame()[:1] == b'\xfe'
        assert moving.frame() == delivery(MESSAGE, b'moving', bytes(1_000_000))


@pytest.mark.parametrize('fits', [True, False])
def test_the_payload_limit(start, fits):
    broker = start('--max-payload', '1000')
    with broker.wire('a') as wire, broker.wire('b') as other:
        body = b'b\0' + bytes(998 if fits else 999)
        wire.send(operation(MESSAGE, body, 1, 3))
        if fits:
            assert wire.frame() == ack(3)
            assert other.frame() == delivery(MESSAGE, b'a', bytes(998))
        else:
            assert wire.ended()
        assert other.is_quiet()
        if not fits:
            with broker.wire('a') as again:
                # The header alone is enough.
                again.send(operation(MESSAGE, body)[:9])
                assert again.ended()


def test_random_bytes_at_every_stage_end_that_connection_alone(start):
    broker = start('-t', '0.5')
    random_bytes = random.Random(1).randbytes
    with broker.wire('honest') as honest:
        for stage in ('greeting', 'name', 'frames', 'within a body'):
            for _ in range(30):
                with broker.wire() as wire:
                    wire.read(3)
                    if stage != 'greeting':
                        wire.send(HELLO)
                        wire.read(1)
                    if stage not in ('greeting', 'name'):
                        wire.register(f'wild.{os.urandom(8).hex()}')
                    if stage == 'within a body':
                        wire.send(operation(PUBLISH, b'a/topic\0' + bytes(50))[:30])
                    try:
                        wire.send(random_bytes(300))
                        # The connection is closed, or the bytes are taken for the beginning of a long frame.
                        wire.socket.shutdown(1)
                        while wire.socket.recv(4096):
                            pass
                    except OSError:
                        pass
            assert honest.is_quiet()


def test_a_receiver_that_does_not_read_does_not_hurt_others(start):
    broker = start('--queue-size', '100', '--stall-ms', '50')
    with broker.wire('stuck') as stuck, broker.wire('well') as well, broker.wire('sender') as sender:
        for wire in (stuck, well):
            assert wire.do(SUBSCRIBE, b'flood') == 1
        payload = bytes(10_000)
        for i in range(500):
            sender.send(operation(PUBLISH, b'flood\0' + payload))
            assert well.frame() == delivery(PUBLISH, b'sender', b'flood', payload)
        assert sender.is_quiet()
        # The stuck client was disconnected.
        while stuck.frame():
            pass


@pytest.mark.parametrize('policy', ['drop-new', 'drop-old'])
def test_queued_messages_of_a_receiver_that_does_not_read_stay(start, policy):
    broker = start('--queue-size', '10', '--stall-ms', '50', '--slow', policy)
    with broker.wire('stuck') as stuck, broker.wire('sender') as sender:
        payload = bytes(100_000)
        codes = [sender.do(MESSAGE, b'stuck\0' + payload) for _ in range(60)]
        assert codes[0] == 1
        assert codes[-1] == 0x77
        assert set(codes) == {1, 0x77}
        # It is still connected and receives complete frames, as many as were acknowledged.
        frames = 0
        sender.send(operation(PUBLISH, b'x\0'))
        stuck.next_id = 1
        stuck.send(operation(2, b'x', 1, 99))
        while (frame := stuck.frame()) != ack(99):
            assert frame == delivery(MESSAGE, b'sender', payload)
            frames += 1
        assert frames == codes.count(1)


def test_a_flood_to_a_reading_receiver_loses_nothing(start):
    broker = start('--queue-size', '100')
    count = 20_000
    with broker.wire('sink') as sink, broker.wire('source') as source:
        def flood():
            for begin in range(0, count, 100):
                source.send(*(operation(MESSAGE, b'sink\0%d' % i) for i in range(begin, begin + 100)))
        sending = threading.Thread(target=flood)
        sending.start()
        for i in range(count):
            assert sink.frame() == delivery(MESSAGE, b'source', b'%d' % i)
        sending.join()
        assert source.is_quiet()


def test_a_storm_of_connections_leaves_nothing_behind(start):
    broker = start()
    with broker.wire('witness') as witness:
        descriptors = lambda: len(os.listdir(f'/proc/{broker.process.pid}/fd'))
        before = descriptors()
        for _ in range(5):
            wires = [broker.wire(f'storm.{i}') for i in range(100)]
            for i, wire in enumerate(wires):
                wire.send(operation(SUBSCRIBE, b'storm/%d\0storm/#' % i))
                wire.close()
            until(lambda: descriptors() == before, 'all connections are closed')
        witness.send(operation(PUBLISH, b'storm/1\0x', 1, 1))
        assert witness.frame() == ack(1)
        assert witness.do(MESSAGE, b'storm.1\0x') == 0x71


def test_a_large_frame_does_not_delay_others(start):
    """16 MiB from one client to a second that reads slowly: frames to others are delivered normally."""
    broker = start()
    with broker.wire('big') as big, broker.wire('slow') as slow, broker.wire('small') as small:
        payload = bytes(16 * 1024 * 1024)
        sending = threading.Thread(target=big.send, args=(operation(MESSAGE, b'slow\0' + payload, 1, 9),))
        sending.start()
        for i in range(100):
            small.send(operation(MESSAGE, b'small\0%d' % i))
            assert small.frame() == delivery(MESSAGE, b'small', b'%d' % i)
        assert slow.frame() == delivery(MESSAGE, b'big', payload)
        sending.join()
        assert big.frame() == ack(9)
