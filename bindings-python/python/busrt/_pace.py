"""The number of frames that are taken at once."""

# The time in which a batch is to be handled, in seconds: far below the hold time of a broker (0.75 s), after which it drops
# messages for a receiver that takes nothing.
_LONG = 0.05
_SHORT = 0.01


def next_size(size, spent, most):
    """The size of the next batch, after one of `size` frames was handled in `spent` seconds. To the broker, a frame that was
    taken is handled: what needs long for a batch gets smaller ones, so that its senders wait."""
    if spent > _LONG:
        return max(size // 4, 1)
    if spent < _SHORT:
        return min(size * 2, most)
    return size
