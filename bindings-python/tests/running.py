"""Runs programs of one test in a Python of their own, under `-X dev -W error` unless told otherwise."""

import os
import subprocess
import sys
import textwrap
import threading

# What the tests need that are not for every run: `full` scale, `packages`.
ASKED_FOR = set(filter(None, os.environ.get('BUSRT_TESTS', '').split(',')))
IS_FULL = 'full' in ASKED_FOR
# The longest time that a program may need, in seconds.
PROGRAM_TIMEOUT = 1800 if IS_FULL else 60

# Since Python 3.12, a fork of a process with threads warns: it is what these tests are about.
FORK_WARNING = 'ignore:This process:DeprecationWarning'


def command(source, *args, python=sys.executable, options=('-X', 'dev', '-W', 'error', '-W', FORK_WARNING)):
    return [python, *options, '-c', textwrap.dedent(source), *map(str, args)]


def run(source, *args, status=0, quiet=True, **options):
    """Runs a program to its end, and returns what it printed. It must end with `status` and, if `quiet`, without a word
    on its standard error."""
    process = subprocess.run(
        command(source, *args, **options), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PROGRAM_TIMEOUT
    )
    assert process.returncode == status, (process.returncode, process.stdout, process.stderr)
    if quiet:
        assert complaints(process.stderr) == ''
    return process.stdout


def complaints(errors):
    """What a program has written to its standard error, without what asyncio says about slow steps under `-X dev`."""
    return ''.join(line for line in errors.splitlines(True) if not line.startswith('Executing <'))


class Program:
    """A program that runs beside the test."""

    def __init__(self, source, *args, **options):
        self.process = subprocess.Popen(
            command(source, *args, **options), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        # Ends a program that does not end by itself, and with it every wait for its output.
        self._guard = threading.Timer(PROGRAM_TIMEOUT, self.process.kill)
        self._guard.start()

    def line(self):
        return self.process.stdout.readline().strip()

    def wait(self):
        """The exit status, and what it has written to its standard error."""
        errors = self.process.communicate()[1]
        self._guard.cancel()
        return self.process.returncode, complaints(errors)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.wait()
