"""What happened to a stream, as those who wait for it are told.

Who is told late is told once: of everything it has missed, as if that had been one commit. So a
reader that has fallen behind costs one call, one frame and one send, however many commits there
were, and the more there are to tell the less each costs. What is kept for that is bounded; beyond
it the news are to look at the store, which is right always and for everybody.
"""

from collections import deque
from collections.abc import Sequence

from durable_streams_core.entities import Change

KEPT_NEWS = 256
KEPT_BYTES = 64 * 1024
"""What is kept of one topic for those who are told late: about one event of catching up."""


class News:
    """One change at a topic, or with None: look at the store.

    ``start`` is the position from which the change leads on without a look, be it by data or by a
    close; -1 where it does not. ``frames`` and ``shared`` keep what listeners derived from the
    news, so that it is derived once.
    """

    __slots__ = ("change", "frames", "shared", "start")

    def __init__(self, change: Change | None) -> None:
        self.change = change
        self.start = -1
        if change is not None and not change.gone:
            data = change.data
            if data or (change.closed and data is not None):
                self.start = change.tail - len(data)
        self.frames: dict[object, bytes] = {}
        self.shared: dict[object, object] = {}


class Backlog:
    """The latest news of one topic, numbered on from ``last``, for those not told of them yet."""

    __slots__ = ("_kept", "_news", "_size", "_told", "last")

    def __init__(self, last: int) -> None:
        self.last = last
        self._kept: deque[Change | None] = deque()
        self._size = 0
        self._told = -1
        self._news = News(None)

    def add(self, change: Change | None) -> None:
        """One more; None is a change that nobody knows."""
        self.last += 1
        self._told = -1
        self._kept.append(change)
        self._size += _size(change)
        while len(self._kept) > KEPT_NEWS or (self._size > KEPT_BYTES and len(self._kept) > 1):
            self._size -= _size(self._kept.popleft())

    def since(self, told: int) -> News:
        """All that came after number ``told``, as one; the same object for all who ask alike."""
        if told != self._told:
            self._told = told
            missed = self.last - told
            kept = self._kept
            self._news = joined(list(kept)[-missed:]) if missed <= len(kept) else News(None)
        return self._news


def _size(change: Change | None) -> int:
    return 0 if change is None or change.data is None else len(change.data)


def joined(changes: Sequence[Change | None]) -> News:
    """Changes as one, if they are a run of bytes of one incarnation; else a look at the store."""
    last = changes[-1]
    if len(changes) == 1 or last is None:
        return News(last)
    parts: list[bytes] = []
    position: int | None = None
    for change in changes:
        if (
            change is None
            or change.data is None
            or change.gone
            or change.incarnation != last.incarnation
            or position not in (None, change.tail - len(change.data))
        ):
            return News(None)
        parts.append(change.data)
        position = change.tail
    return News(Change(last.path, last.incarnation, last.tail, last.closed, data=b"".join(parts)))
