"""The broker within the process, for asyncio."""

import busrt

from ._session import finished


class Broker:
    """A broker within this process, as `busrt.Broker`, with its options. `listen` and `shutdown` are coroutines, and
    `async with` shuts it down at the end. A client within the process is made with the broker in place of a path:
    `busrt_async.connect(broker, 'name')`. May be used from any thread, in any event loop.
    """

    def __init__(self, **options):
        self._broker = busrt.Broker(**options)

    async def listen(self, address):
        """Listens on an address: the path of a socket, host:port (port 0 takes a free one) or fifo:PATH. Returns the
        address that clients use. Raises an OSError, or ValueError for an address that cannot be used."""
        return await finished(self._broker._listen_task(address))

    def clients(self):
        """The names of the clients that are connected, sorted, without secondary ones."""
        return self._broker.clients()

    def client_stats(self):
        """The clients that are connected, each as a dict; see `busrt.Broker.client_stats`."""
        return self._broker.client_stats()

    def stats(self):
        """Counters over all clients: a dict; see `busrt.Broker.stats`."""
        return self._broker.stats()

    def disconnect(self, name):
        """Ends the connection of the client of that name, and of its secondary clients. Returns whether there was one."""
        return self._broker.disconnect(name)

    async def shutdown(self):
        """Announces the end to clients, removes the sockets, writes what waits and ends all connections. May be
        repeated."""
        await finished(self._broker._shutdown_task())

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        await self.shutdown()
