"""The beginning and the end of the interpreter, and fork."""

import atexit
import os
import sys


def _is_main_interpreter():
    try:
        import _interpreters as interpreters
    except ImportError:
        try:
            # Before Python 3.13.
            import _xxsubinterpreters as interpreters
        except ImportError:
            return True
    ids = interpreters.get_current(), interpreters.get_main()
    current, main = (int(each[0] if isinstance(each, tuple) else each) for each in ids)
    return current == main


# Python may hand the objects of an extension module to other interpreters, and the end of any of them would be taken for the
# end of the process.
if not _is_main_interpreter():
    raise ImportError('busrt can be imported by the main interpreter of a process only')

from . import _busrt

_exit = os._exit


def _exit_after_writing(status):
    """As os._exit, after what was sent is written."""
    try:
        _busrt._shutdown()
    finally:
        _exit(status)


def _end():
    """The interpreter is about to end."""
    _busrt._begin_exit()
    if getattr(sys, 'last_type', None) is KeyboardInterrupt:
        # Python ends by SIGINT then, and no exit handlers of the C library run.
        _busrt._shutdown()


def install():
    """Has the extension module told of the end. What was sent is written at the end of the process, also in a child
    of multiprocessing, which ends by os._exit."""
    atexit.register(_end)
    if hasattr(os, 'register_at_fork'):
        os.register_at_fork(after_in_child=_busrt._after_fork)
    _exit_after_writing.__doc__ = _exit.__doc__
    os._exit = _exit_after_writing
