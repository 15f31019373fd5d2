"""The function `connect`."""

from .client import Client


def connect(path, name, *, reconnect=True, timeout=5, on_frame=None, **options):
    """Returns a connected client, which reconnects when its connection is lost, unless told otherwise.

    `timeout` is in seconds; `options` are those of Client. Received frames wait until they are iterated over, or until
    `on_frame` is set or an Rpc made. Use it in a `with` statement to disconnect at the end.
    """
    client = Client(path, name, reconnect=reconnect, timeout=timeout, **options)
    client._bus_keeps = True
    if on_frame is not None:
        client.on_frame = on_frame
    client.connect()
    return client
