"""Exceptions: all under one base, each with the builtin classes that a program expects."""

import asyncio
import builtins
import copy
import pickle
import socket

import pytest

import busrt
import busrt_async
from busrt import _errors
from busrt.client import Client, Frame
from busrt.rpc import Request, Rpc, RpcException

BASES = {
    'BusTimeoutError': TimeoutError,
    'BusConnectionError': ConnectionError,
    'AccessError': PermissionError,
    'RegistrationError': RuntimeError,
    'NotRegisteredError': LookupError,
    'NotDeliveredError': Exception,
    'InvalidDataError': ValueError,
    'NotSupportedError': RuntimeError,
    'BusOSError': OSError,
    'RpcException': Exception,
}


def test_each_class_has_one_base_and_the_builtin_ones():
    for name, builtin in BASES.items():
        error = getattr(busrt, name)
        assert issubclass(error, busrt.BusError) and issubclass(error, builtin)
        assert getattr(busrt_async, name) is error
    exceptions = {name for name, value in vars(busrt).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert exceptions == {*BASES, 'BusError'}


def test_result_codes():
    for code in range(0x100):
        error = _errors.of_code(code, 'what')
        assert isinstance(error, busrt.BusError) and error.code == code and f'{code:#x}' in str(error)
    assert isinstance(_errors.of_code(0x79, 'what'), PermissionError)


@pytest.mark.parametrize('module', [busrt, busrt_async], ids=['sync', 'asyncio'])
def test_what_the_bus_raises(path, fake, name, tmp_path, module):
    def connect(address, own=name, timeout=5):
        client = module.Client(address, own)
        client.timeout = timeout
        done = client.connect()
        if module is busrt_async:
            asyncio.run(done)
        return client

    late = TimeoutError if module is busrt else asyncio.TimeoutError
    holder = Client(path, name)
    holder.connect()
    with socket.create_server(('127.0.0.1', 0)) as closed:
        port = closed.getsockname()[1]
    for address, timeout, expected in [
        (path, 5, RuntimeError),
        (str(tmp_path / 'no.sock'), 5, FileNotFoundError),
        (f'127.0.0.1:{port}', 5, ConnectionRefusedError),
        (fake.path, 0.1, late),
        (str(tmp_path), 5, OSError),
        ('no port', 5, ValueError),
        ('', 5, ValueError),
        ('no.such.host.invalid:1', 5, socket.gaierror),
    ]:
        with pytest.raises(expected) as e:
            connect(address, timeout=timeout)
        error = e.value
        assert isinstance(error, busrt.BusError), error
        for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
            assert type(other) is type(error) and str(other) == str(error) and other.code == error.code
            assert getattr(other, 'errno', None) == getattr(error, 'errno', None)
    assert pickle.loads(pickle.dumps(RpcException(b'x', 5))).rpc_error_code == 5
    holder.disconnect()


def test_what_operations_raise(path, name):
    client = Client(path, name)
    with pytest.raises(ConnectionError) as e:
        client.send('x', Frame(b''))
    assert isinstance(e.value, busrt.BusError)
    client.connect()
    with pytest.raises(LookupError) as e:
        client.send_message('nobody', b'')
    assert isinstance(e.value, busrt.NotRegisteredError) and e.value.code == 0x71
    with pytest.raises(busrt.BusError) as e:
        Rpc(client).call('nobody', Request('x')).wait_completed(5)
    assert isinstance(e.value, RpcException) and not isinstance(e.value, (OSError, TimeoutError))
    client.disconnect()
    with pytest.raises(OSError) as e:
        client.publish('x', b'')
    assert isinstance(e.value, busrt.BusConnectionError)


def test_names_of_builtins_are_not_hidden():
    assert _errors.__dict__.get('FileNotFoundError', builtins.FileNotFoundError) is builtins.FileNotFoundError
