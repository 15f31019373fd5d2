"""The exceptions of both modules. All of them are a BusError."""

import asyncio
import socket


class BusError(Exception):
    """The base of everything that the bus raises. `code` is the result code of the broker, if it has refused."""

    code = None


class BusTimeoutError(BusError, TimeoutError):
    """Something did not happen in time."""


if asyncio.TimeoutError is TimeoutError:
    AsyncTimeoutError = BusTimeoutError
else:

    class AsyncTimeoutError(BusTimeoutError, asyncio.TimeoutError):
        """Something did not happen in time (before Python 3.11, asyncio has a class of its own)."""


class BusConnectionError(BusError, ConnectionError):
    """The client is not connected, or its connection was lost."""


class AccessError(BusError, PermissionError):
    """The broker's access rules forbid the operation."""


class RegistrationError(BusError, RuntimeError):
    """The broker has refused the registration, or what answers is no broker."""


class NotRegisteredError(BusError, LookupError):
    """No client has that name."""


class NotDeliveredError(BusError):
    """The receiver's queue has refused the message."""


class InvalidDataError(BusError, ValueError):
    """An address, a name or a topic that cannot be used."""


class NotSupportedError(BusError, RuntimeError):
    """The operation is not possible: with this broker, or in this process, such as in a child made by fork."""


class BusOSError(BusError, OSError):
    """The operating system has refused something."""


class BusAddressError(BusOSError, socket.gaierror):
    """The name of a host is not known."""


# What the standard library of Rust says of the failure of getaddrinfo.
_LOOKUP = 'failed to lookup address information'

_BY_KIND = {
    'timeout': BusTimeoutError,
    'lost': BusConnectionError,
    'access': AccessError,
    'not_registered': NotRegisteredError,
    'not_delivered': NotDeliveredError,
    'data': InvalidDataError,
    'not_supported': NotSupportedError,
    'io': BusOSError,
}

_os_errors = {OSError: BusOSError}


def make(kind, text, code, errno, subject):
    """The exception for an error of the core. Called by the extension module."""
    if errno is not None:
        return _os_error(errno, subject)
    if kind == 'refused':
        error = RegistrationError(f'Server response: {code:#x}')
    elif kind == 'protocol':
        error = RegistrationError('Unsupported protocol')
    elif kind == 'version':
        error = RegistrationError('Unsupported protocol version')
    elif kind == 'timeout' and text == 'timed out':
        error = BusTimeoutError()
    elif kind == 'io' and _LOOKUP in text:
        error = BusAddressError(socket.EAI_NONAME, text)
    else:
        error = _BY_KIND.get(kind, BusError)(text)
    error.code = code
    return error


def of_code(code, what):
    """The exception for a result code of the broker."""
    kinds = {
        0x71: NotRegisteredError,
        0x72: InvalidDataError,
        0x73: BusConnectionError,
        0x75: NotSupportedError,
        0x77: NotDeliveredError,
        0x78: BusTimeoutError,
        0x79: AccessError,
    }
    texts = {
        0x71: 'client not registered',
        0x72: 'data error',
        0x73: 'connection lost',
        0x75: 'not supported',
        0x76: 'busy',
        0x77: 'not delivered',
        0x78: 'timed out',
        0x79: 'access denied',
    }
    error = kinds.get(code, BusError)(f'{texts.get(code, "error")} ({code:#x}): {what}')
    error.code = code
    return error


def _reduce(error):
    """Pickles an error of a class that is made when it is needed."""
    return _os_error, (error.errno, error.filename)


def _os_error(errno, subject):
    """An error of the operating system: the subclass that Python has for its number, and a BusError."""
    import os

    base = type(OSError(errno, ''))
    made = _os_errors.get(base)
    if made is None:
        made = type(base.__name__, (BusOSError, base), {'__module__': __name__, '__reduce__': _reduce})
        _os_errors[base] = made
    arguments = (errno, os.strerror(errno)) + ((subject,) if subject else ())
    return made(*arguments)
