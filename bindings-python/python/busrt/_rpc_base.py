"""What Rpc and RpcCallEvent of both modules share.

Methods that return what the client's `send` or `_complete` returns wait in `busrt`, and return a coroutine in
`busrt_async`.
"""

from . import _codec
from ._constants import QoS
from ._cursors import NEXT_METHODS, Cursor, CursorServer, item_codec
from ._rpc import Event, Notification, Request
from ._rpc_constants import RPC_NOTIFICATION, RPC_REQUEST, RPC_REQUEST_HEADER


class RpcBase:
    """Calls methods, and has the handlers of calls."""

    _bus_is_busrt_rpc = True
    # After how many seconds without use a cursor is dropped; read when the first one is given out.
    cursor_ttl = 60
    _bus_methods = None
    _bus_cursors = None
    _bus_codec = None

    def __init__(self, client, codec=None):
        self.client = client
        codec = _codec.find(codec, getattr(client, '_bus_codec', None))
        if codec is not None:
            self._bus_codec = codec
        client.on_frame = self._handle_frame

    def is_connected(self):
        """Whether the client is connected."""
        return self.client.is_connected()

    def notify(self, target, notification):
        """Sends a notification. Returns as `Client.send`."""
        return self.client.send(target, notification)

    def call0(self, target, request):
        """Calls a method that sends no reply. Returns as `Client.send`."""
        request.header = RPC_REQUEST_HEADER + b'\x00\x00\x00\x00' + request.method + b'\x00'
        return self.client.send(target, request)

    # Names that no program in the field uses.

    def send_notification(self, target, payload=b'', qos=QoS.PROCESSED, timeout=None, codec=None):
        """Sends a notification. With a QoS that asks for it, waits for the acknowledgement, at most `timeout` seconds (the
        client's timeout unless given). With a `codec` (as in `call_method`) the payload is any value. Raises BusError."""
        notification = Notification(_codec.encode(self._bus_codec if codec is None else _codec.find(codec), payload))
        notification.qos = qos
        return self.client._bus_complete(target, notification, timeout)

    def method(self, name=None, codec=None):
        """Decorator: the function answers calls of that method (its own name unless given). It may be a coroutine function.

        It is called with the event; what it returns (bytes, str or None) is the reply, what it raises an error reply. With a
        `codec`, as in `call_method`, it is called with the decoded parameters, and what it returns is encoded. A Cursor
        gives a long result out item by item. Calls of other methods go to `on_call`. May be called from any thread.

        busrt: it runs on a thread of the client, a coroutine function in an event loop of its own. busrt_async: as a task.
        """
        codec = _codec.find(codec, self._bus_codec)

        def register(function):
            methods = dict(self._bus_methods or {})
            methods[(name or function.__name__).encode()] = (function, codec)
            self._bus_methods = methods
            return function

        return register

    def notification(self, codec=None):
        """Decorator: the function handles notifications; it becomes `on_notification`. With a `codec`, as in `call_method`, it
        is called with a Decoded instead of the event. An exception, also of the codec, is logged."""
        codec = _codec.find(codec, self._bus_codec)

        def register(function):
            if codec is None:
                self.on_notification = function
            else:
                self.on_notification = lambda event: function(
                    _codec.Decoded(event.frame, _codec.decode(codec, event.get_payload()))
                )
            return function

        return register

    def _bus_request(self, method, params, qos, codec):
        """The request of a call, and the codec of its result."""
        codec = self._bus_codec if codec is None else _codec.find(codec)
        request = Request(method, _codec.encode(codec, params))
        request.qos = qos
        return request, codec

    def _bus_cursor_arguments(self, target, method, params, codec):
        """The arguments of `Link.cursor`, and the codec of the items."""
        if codec is not None:
            codec = items = item_codec(codec)
        else:
            codec = items = self._bus_codec
            if getattr(codec, 'name', None) == 'json':
                items = _codec.find('msgpack')
        name = method if isinstance(method, str) else method.decode()
        return (target, name, _codec.encode(codec, params)), items

    # Answering.

    def _bus_invoke(self, event):
        """Calls the handler of a request. Returns what it returns, and the codec of that."""
        methods = self._bus_methods
        registered = methods.get(event.method) if methods else None
        if registered is not None:
            handler, codec = registered
            return handler(_codec.decode_params(codec, event)), codec
        if self._bus_cursors is not None and event.method in NEXT_METHODS:
            return self._bus_supply(self._bus_cursors.begin(event)), None
        return self.on_call(event), None

    def _bus_reply_of(self, result, codec):
        """The reply to a request: what its handler has returned, as bytes."""
        if isinstance(result, Cursor):
            if self._bus_cursors is None:
                self._bus_cursors = CursorServer(self.cursor_ttl)
            return self._bus_cursors.add(result)
        return _codec.encode(codec, result)


def request_event(request):
    """The event of a request that the client has received, and its responder."""
    frame, responder, method, call_id, position = request
    event = Event(RPC_REQUEST, frame, position)
    event.call_id = call_id
    event.method = method
    return event, responder


def notification_event(frame):
    return Event(RPC_NOTIFICATION, frame, 1)


class RpcCallEventBase:
    """A call under way."""

    _done = False
    _frame = None
    _error = None
    _event = None

    def __init__(self):
        pass

    @property
    def frame(self):
        """The frame of the reply, or None."""
        self._look()
        return self._frame

    @frame.setter
    def frame(self, value):
        self._frame = value

    @property
    def error(self):
        """The failure of the call, or None."""
        self._look()
        return self._error

    @error.setter
    def error(self, value):
        self._error = value

    def is_completed(self):
        """Whether the reply is there or the call has failed."""
        return self._look()

    def get_payload(self):
        """The payload of the reply, bytes."""
        return self.frame.payload[5:]

    def is_empty(self):
        """Whether the payload of the reply is empty."""
        return len(self.frame.payload) <= 5
