"""The programs of examples/python and of the READMEs run, and do what they say."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from running import complaints

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / 'examples' / 'python'

# What each program prints; those of one line are run while the next one is.
PRINTED = {
    'client': [
        'client not registered (0x71): no.such.client',
        "plant/boiler/temperature from example.client b'87.5'",
        "plant/boiler/pressure from example.client b'\\x02\\x01'",
        "message from example.client b'a message to myself'",
    ],
    'client_asyncio': ['plant/boiler news', 'weather/rain news'],
    'rpc_asyncio': ['9900', 'no reply in time'],
    'topics': [
        "alarm: alarm/boiler ['too', 'hot']",
        'example.topics plant/boiler/temperature 87.5',
        'example.topics plant/tank/temperature 19',
    ],
    'topics_asyncio': [
        "['connected', 'lost']",
        "alarm: alarm/boiler ['too', 'hot']",
        'example.topics.asyncio plant/boiler/temperature 87.5',
        'example.topics.asyncio plant/tank/temperature 19',
    ],
    'rpc_codecs': ["{'bolt': 97}", 'not enough of nut (code: -2)', '2 ordered', "example.store delivers {'nut': 500}"],
    'cursors': ['332833500', "[{'row': 0, 'square': 0}, {'row': 1, 'square': 1}]"],
    'cursors_asyncio': ['332833500'],
    'embedded_broker_asyncio': [
        "outside b'hello'",
        "[('outside%%worker', 'outside', b'from a secondary client')]",
        "[('.broker', 'internal', 1), ('inside', 'internal', 1), ('outside', 'tcp', 2)]",
        '3 True 0',
        'True',
    ],
    'reconnect': ['lost: True', 'news back again'],
    'embedded_broker': ["second b'hello'", "['.broker', 'first', 'second']"],
    'old_style': ["example.old old/style b'works'", '0x1'],
}
SERVED = {
    'rpc_caller': [
        '144',
        '[0, 1, 4, 9, 16]',
        'divide 1 0 -> division by zero (code: -1)',
        "divide one two -> could not convert string to float: b'one' (code: -32603)",
        'cube 3 -> RPC Engine not initialized (code: -32601)',
    ],
}
COMMAND = [sys.executable, '-X', 'dev', '-W', 'error']
# Is read by every program that is not told an address.
ADDRESS = '/tmp/busrt.sock'


def run(program, *args):
    done = subprocess.run([*COMMAND, program, *args], capture_output=True, text=True, timeout=30)
    assert (done.returncode, complaints(done.stderr)) == (0, '')
    return done.stdout.splitlines()


@pytest.mark.parametrize('program', PRINTED)
def test_an_example(path, program):
    assert sorted(run(FOLDER / f'{program}.py', path)) == sorted(PRINTED[program])


def test_calls(path):
    with subprocess.Popen([*COMMAND, FOLDER / 'rpc_server.py', path], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout.readline() == 'serving\n'
        for program, printed in SERVED.items():
            assert run(FOLDER / f'{program}.py', path) == printed
        server.send_signal(signal.SIGINT)
        assert server.communicate(timeout=30)[0] == 'drained\n'
        assert server.returncode == 0


def test_every_example_is_run():
    assert {file.stem for file in FOLDER.glob('*.py')} == {*PRINTED, *SERVED, 'rpc_server'}


def blocks(file):
    return re.findall(r'^```python\n(.*?)^```$', (ROOT / file).read_text(), re.DOTALL | re.MULTILINE)


def test_the_readme_shows_programs_that_are_run():
    programs = [file.read_text() for file in FOLDER.glob('*.py')]
    shown = blocks('README.md')
    assert shown and all(block in programs for block in shown)


README_PRINTS = [["plant.logger plant/boiler b'87.5'"], ["b'144'"], ['plant/boiler/temperature 87.5'], ['6', '[0, 1, 4, 9, 16]']]


@pytest.mark.parametrize('number', range(len(README_PRINTS)))
def test_the_readme_of_the_package(path, tmp_path, number):
    shown = blocks('bindings-python/README.md')
    assert len(shown) == len(README_PRINTS)
    program = tmp_path / 'program.py'
    program.write_text(shown[number].replace(ADDRESS, path))
    assert run(program) == README_PRINTS[number]


def test_the_examples_need_no_other_package():
    for file in FOLDER.glob('*.py'):
        imported = set(re.findall(r'^(?:import|from) (\w+)', file.read_text(), re.MULTILINE))
        assert imported <= {'asyncio', 'busrt', 'busrt_async', 'collections', 'os', 'sys', 'tempfile', 'threading', 'time'}, file
