"""Cursors that keep caches from answering a live reader with the same page for ever (§10.1)."""

from durable_streams_core.protocol import CURSOR_EPOCH_SECONDS, CURSOR_INTERVAL_SECONDS

__all__ = ["MAX_JITTER_SECONDS", "live_cursor"]

MAX_JITTER_SECONDS = 3600
_MAX_DIGITS = 15


def live_cursor(now: int, received: str | None, jitter: int) -> str:
    """The cursor of a live response.

    ``now`` is in milliseconds, ``received`` the client's ``cursor`` parameter, ``jitter`` a random
    number of seconds from 1 to :data:`MAX_JITTER_SECONDS`, used only when the client's own cursor
    has to be passed. A cursor that is not a number of this server is ignored, because it cannot
    be passed.
    """
    current = (now // 1000 - CURSOR_EPOCH_SECONDS) // CURSOR_INTERVAL_SECONDS
    if (
        received is not None
        and received.isascii()
        and received.isdigit()
        and len(received) <= _MAX_DIGITS
    ):
        theirs = int(received)
        if theirs >= current:
            return str(theirs + max(1, jitter // CURSOR_INTERVAL_SECONDS))
    return str(current)
