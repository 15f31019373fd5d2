"""Greeting and registration, byte by byte (docs/protocol.md section 2)."""

import socket

import pytest

from wire import (BUSY, DATA, HELLO, MESSAGE, NOT_REGISTERED, NOT_SUPPORTED, OK, SUBSCRIBE, UNSUBSCRIBE, Wire, ack,
                  delivery, operation)


def test_the_broker_greets_first_and_answers_each_step(broker, name):
    with broker.wire() as wire:
        assert wire.read(3) == HELLO
        wire.send(HELLO)
        assert wire.read(1) == OK
        wire.send(len(name).to_bytes(2, 'little'), name.encode())
        assert wire.read(1) == OK
        assert wire.is_quiet()


@pytest.mark.parametrize('greeting', [b'\xec\x01\x00', b'\xeb\x02\x00', b'\xeb\x01\x01', b'\x00\x00\x00', b'GET'])
def test_a_wrong_magic_or_version_is_75_and_closed(address, greeting):
    with Wire(address) as wire:
        wire.read(3)
        wire.send(greeting)
        assert wire.read(2) == NOT_SUPPORTED


@pytest.mark.parametrize('bad', [b'', b'.', b'.broker', b'.mine', b'\xff\xfe', b'a\x00b', b'\x00'])
def test_an_invalid_name_is_72_and_closed(address, bad):
    with Wire(address) as wire:
        assert wire.greet() == OK
        assert wire.register(bad) == DATA
        assert wire.ended()


def test_a_name_may_have_up_to_1024_bytes(broker):
    with broker.wire('n' * 1024) as wire:
        wire.send(operation(MESSAGE, b'n' * 1024 + b'\0hello'))
        assert wire.frame() == delivery(MESSAGE, b'n' * 1024, b'hello')
    for length in 1025, 65535:
        with broker.wire() as wire:
            assert wire.greet() == OK
            assert wire.register('n' * length) == b'\x72'
            assert wire.ended()


def test_a_taken_name_is_76_and_closed_and_free_again_when_its_owner_leaves(broker, name):
    first = broker.wire(name)
    with broker.wire() as second:
        assert second.greet() == OK
        assert second.register(name) == BUSY
        assert second.ended()
    assert first.is_quiet()
    first.socket.shutdown(socket.SHUT_WR)
    # The broker has unregistered a client when it closes the connection.
    assert first.ended()
    first.close()
    broker.wire(name).close()


def test_names_are_case_sensitive_and_may_be_any_text(broker):
    with broker.wire('Ünï côde/+#?*'), broker.wire('ünï côde/+#?*'):
        pass


def test_a_secondary_needs_its_primary(broker, name):
    with broker.wire() as early:
        assert early.greet() == OK
        assert early.register(f'{name}%%1') == NOT_REGISTERED
        assert early.ended()
    with broker.wire(name) as primary, broker.wire(f'{name}%%1') as secondary:
        with broker.wire() as again:
            assert again.greet() == OK
            assert again.register(f'{name}%%1') == BUSY
        primary.send(operation(MESSAGE, f'{name}%%1'.encode() + b'\0hi'))
        assert secondary.frame() == delivery(MESSAGE, name.encode(), b'hi')


def test_the_primarys_name_ends_at_the_first_separator(broker, name):
    with broker.wire(name) as primary, broker.wire(f'{name}%%a%%b') as secondary:
        secondary.send(operation(MESSAGE, name.encode() + b'\0hi'))
        assert primary.frame() == delivery(MESSAGE, f'{name}%%a%%b'.encode(), b'hi')


def test_secondaries_are_disconnected_with_their_primary(broker, name):
    primary = broker.wire(name)
    with broker.wire(f'{name}%%1') as secondary, broker.wire(f'{name}%%2') as another:
        primary.close()
        assert secondary.ended()
        assert another.ended()


def test_bytes_of_the_handshake_may_come_one_by_one(address, name):
    with Wire(address) as wire:
        assert wire.read(3) == HELLO
        for byte in HELLO:
            wire.send(bytes([byte]))
        assert wire.read(1) == OK
        for byte in len(name).to_bytes(2, 'little') + name.encode():
            wire.send(bytes([byte]))
        assert wire.read(1) == OK
        assert wire.is_quiet()


def test_everything_may_come_in_one_write(address, name):
    """The greeting, the name and the first frames in one write, without waiting for any answer."""
    encoded = name.encode()
    with Wire(address) as wire:
        wire.send(HELLO, len(encoded).to_bytes(2, 'little'), encoded, operation(SUBSCRIBE, b'a', 1, 1),
                  operation(MESSAGE, encoded + b'\0me', 0, 2), operation(UNSUBSCRIBE, b'a', 1, 3))
        assert wire.read(5) == HELLO + OK + OK
        assert sorted(wire.frames(3)) == sorted([ack(1), ack(3), delivery(MESSAGE, encoded, b'me')])


def test_a_half_closed_peer_is_closed(broker, name):
    with broker.wire(name) as wire:
        wire.socket.shutdown(socket.SHUT_WR)
        assert wire.ended()


def test_force_register_evicts_the_old_client(start):
    broker = start('--force-register')
    watcher = broker.wire('watcher')
    assert watcher.do(SUBSCRIBE, b'.broker/info') == 1
    old = broker.wire('x')
    assert b'\xa3reg' in watcher.frame()
    old_secondary = broker.wire('x%%1')
    assert old.do(SUBSCRIBE, b'topic') == 1
    with broker.wire('x') as new:
        assert old.ended()
        assert old_secondary.ended()
        # Its subscriptions were removed with it.
        new.send(operation(1, b'topic\0x'))
        assert new.is_quiet()
        with broker.wire('x%%1'), broker.wire() as duplicate:
            # A duplicate secondary is refused also with forced registration.
            assert duplicate.greet() == OK
            assert duplicate.register('x%%1') == BUSY
            # Only `reg` is announced.
            assert b'\xa3reg' in watcher.frame()
            assert watcher.is_quiet()
    assert b'\xa5unreg' in watcher.frame()


def test_a_silent_client_is_closed_and_one_that_pings_stays(start):
    broker = start('-t', '0.2')
    ping = bytes(9)
    with broker.wire('silent') as silent, broker.wire('pinging') as pinging:
        silent.socket.settimeout(0.02)
        while True:
            pinging.send(ping)
            try:
                if silent.socket.recv(100) == b'':
                    break
            except socket.timeout:
                pass
            except ConnectionResetError:
                break
        assert pinging.is_quiet()


def test_the_broker_pings(start):
    broker = start('-t', '0.5')
    with broker.wire('listening') as wire:
        assert wire.read(6) == bytes(6)


def test_a_handshake_that_stalls_is_closed(start):
    broker = start('-t', '0.2')
    for begun in (b'', HELLO[:2], HELLO, HELLO + b'\x05', HELLO + b'\x05\x00na'):
        with broker.wire() as wire:
            wire.send(begun)
            answers = wire.read(100)
            assert answers == HELLO + (OK if len(begun) > 2 else b'')
