"""The function `connect`."""

from .client import Client


class _Connecting:
    """A client to be connected, by `await` or by `async with`."""

    def __init__(self, client):
        self._client = client

    def __await__(self):
        return self.__aenter__().__await__()

    async def __aenter__(self):
        await self._client.connect()
        return self._client

    async def __aexit__(self, *_):
        await self._client.disconnect()


def connect(path, name, *, reconnect=True, timeout=5, on_frame=None, **options):
    """Returns a connected client when it is awaited, and disconnects it at the end of an `async with`. It reconnects when
    its connection is lost, unless told otherwise. `timeout` is in seconds; `options` are those of Client.
    Received frames wait until they are iterated over, or until `on_frame` is set or an Rpc made."""
    client = Client(path, name, reconnect=reconnect, timeout=timeout, **options)
    client._bus_keeps = True
    if on_frame is not None:
        client.on_frame = on_frame
    return _Connecting(client)
