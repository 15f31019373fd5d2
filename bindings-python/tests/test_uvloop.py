"""All tests of the client and of RPC for asyncio again, in the event loop of uvloop."""

import asyncio
import sys

import pytest

if sys.version_info < (3, 12):
    pytest.skip('asyncio.run takes no loop factory', allow_module_level=True)
uvloop = pytest.importorskip('uvloop')

from test_client_async import *  # noqa: E402
from test_rpc_async import *  # noqa: E402


@pytest.fixture(autouse=True)
def in_uvloop(monkeypatch):
    run = asyncio.run
    monkeypatch.setattr(asyncio, 'run', lambda main: run(main, loop_factory=uvloop.new_event_loop))


def test_it_is_uvloop():
    async def main():
        return type(asyncio.get_running_loop()).__module__

    assert asyncio.run(main()) == 'uvloop'
