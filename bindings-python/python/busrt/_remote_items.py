"""The items of a cursor of another client, for plain threads."""

from . import _codec


class RemoteItems:
    """The items of a cursor of another client, see `Rpc.cursor`. Used by one thread at a time."""

    def __init__(self, cursor, bulk, codec):
        self._cursor, self._bulk, self._codec = cursor, bulk, codec

    def take(self, count):
        """The next `count` items, fewer at the end. Raises RpcException, TimeoutError, ConnectionError."""
        return [_codec.decode(self._codec, item) for item in self._cursor.take(count)]

    def __iter__(self):
        """Iterates over the items that are left."""
        while True:
            items = self.take(self._bulk)
            yield from items
            if len(items) < self._bulk:
                return
