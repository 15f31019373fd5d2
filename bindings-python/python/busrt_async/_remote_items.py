"""The items of a cursor of another client, for asyncio."""

from busrt import _codec

from ._session import finished


class RemoteItems:
    """The items of a cursor of another client, see `Rpc.cursor`. Used by one task at a time."""

    def __init__(self, client, arguments, bulk, codec):
        self._client, self._arguments, self._bulk, self._codec = client, arguments, bulk, codec
        self._cursor = None

    async def take(self, count):
        """The next `count` items, fewer at the end. Raises RpcException, asyncio.TimeoutError, ConnectionError."""
        if self._cursor is None:
            self._cursor = await finished(self._client._bus_need_link().cursor_task(*self._arguments))
        return [_codec.decode(self._codec, item) for item in await finished(self._cursor.take_task(count))]

    async def __aiter__(self):
        """Iterates over the items that are left."""
        while True:
            items = await self.take(self._bulk)
            for item in items:
                yield item
            if len(items) < self._bulk:
                return
