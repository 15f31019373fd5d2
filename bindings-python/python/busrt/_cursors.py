"""Long results, item by item, in both modules. The core keeps the cursors and answers the calls for their items."""

from . import _codec
from ._busrt import Cursors

NEXT_METHODS = (b'N', b'NB')


class Cursor:
    """A long result: what an RPC handler returns to give its items out one by one, as the caller asks for them.

    `items` is an iterable; in `busrt_async` also an asynchronous one. An item that is bytes is one MessagePack value
    already; any other is packed with the package msgpack. With `codec='msgpack'` bytes are packed as well. An item is
    taken from the iterable when it is asked for. A cursor that is not used for `Rpc.cursor_ttl` seconds is dropped.
    """

    def __init__(self, items, codec=None):
        if codec not in (None, 'msgpack'):
            raise ValueError('the items of a cursor are MessagePack values')
        self.items = items
        self.is_packing_bytes = codec is not None


class Source:
    """The items of a cursor on the serving side."""

    def __init__(self, cursor):
        items = cursor.items
        self.is_async = hasattr(items, '__aiter__')
        self.iterator = items.__aiter__() if self.is_async else iter(items)
        self._is_packing_bytes = cursor.is_packing_bytes
        self._bus_codec = None

    def pack(self, item):
        if isinstance(item, bytes) and not self._is_packing_bytes:
            return item
        if self._bus_codec is None:
            self._bus_codec = _codec.find('msgpack')
        return self._bus_codec.dumps(item)

    def take(self, count):
        """Up to `count` items, packed."""
        taken = []
        for item in self.iterator:
            taken.append(self.pack(item))
            if len(taken) >= count:
                break
        return taken

    async def take_async(self, count):
        if not self.is_async:
            return self.take(count)
        taken = []
        while len(taken) < count:
            try:
                item = await self.iterator.__anext__()
            except StopAsyncIteration:
                break
            taken.append(self.pack(item))
        return taken


class CursorServer:
    """The cursors of one Rpc."""

    def __init__(self, ttl):
        self._bus_cursors = Cursors(ttl)

    def __len__(self):
        return len(self._bus_cursors)

    def add(self, cursor):
        """Adds a cursor. Returns the reply of the method."""
        return self._bus_cursors.add(Source(cursor))

    def begin(self, event):
        """Begins to answer a call of N or NB."""
        return self._bus_cursors.answer(event.method.decode(), event.get_payload())


def item_codec(codec):
    """The codec of received items: None or MessagePack."""
    codec = _codec.find(codec)
    if getattr(codec, 'name', None) == 'json':
        raise ValueError('the items of a cursor are MessagePack values')
    return codec
