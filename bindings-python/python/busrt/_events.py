"""What happens to a connection, in both modules."""


class ConnectionEvent:
    """Something that happened to the connection of a client.

    `kind` is 'connected', 'lost', 'reconnecting' or 'dropped'. With 'lost' come `reason` (a text) and `last` (whether
    the client does not reconnect any more), with 'reconnecting' `attempt` (from 1) and `delay` (seconds before the
    attempt), with 'dropped' `frames` (the number of frames dropped since the last such event). Other attributes are None.
    """

    kind = None
    reason = None
    last = None
    attempt = None
    delay = None
    frames = None

    def __init__(self, **attributes):
        self.__dict__.update(attributes)

    def __eq__(self, other):
        return isinstance(other, ConnectionEvent) and self.__dict__ == other.__dict__

    __hash__ = None

    def __repr__(self):
        return f'<ConnectionEvent {" ".join(f"{name}={value!r}" for name, value in sorted(self.__dict__.items()))}>'
