"""A draft gathers what several operations on one path decide into one commit.

It shows the facts as they will be after the operations so far, notes which of the stored facts
those decisions used (the guard) and what they change (the delta). An operation reaches the
facts through it alone, so a guard can be neither forgotten nor wider than needed.
"""

from collections.abc import Callable, Mapping

import msgspec

from durable_streams_core.entities import (
    NO_COUNTS,
    NO_FIELDS,
    Commit,
    Delta,
    Facts,
    Guard,
    Head,
)
from durable_streams_core.offsets import NO_TIMELINE, Offset, later_timeline

__all__ = ["Draft", "Growth"]


class Growth(msgspec.Struct, frozen=True, gc=False):
    """The stored bytes and the streams that a commit adds, both negative where it removes more."""

    bytes: int
    streams: int


class Draft:
    """The running state of one path while operations are decided on it."""

    __slots__ = (
        "_closed",
        "_counts",
        "_create",
        "_data",
        "_deadline",
        "_fields",
        "_guard_deadline",
        "_guard_fields",
        "_guard_open",
        "_guard_state",
        "_guard_tail",
        "_known",
        "_last_removed",
        "_new_timeline",
        "_none_of",
        "_origin",
        "_remove",
        "_state",
        "head",
        "known_tail",
        "path",
        "tail",
        "timeline",
    )  # fmt: skip

    def __init__(self, path: str, facts: Facts | None) -> None:
        self.path = path
        head = None if facts is None else facts.head
        self.head: Head | None = head
        """The head as stored, or as created in this draft; ask the draft for what changes."""
        self._origin = head
        self._known: Mapping[str, bytes | None] = NO_FIELDS if facts is None else facts.fields
        self._counts: Mapping[str, int] = NO_COUNTS if facts is None else facts.counts
        if head is None:
            self.tail = self.known_tail = 0
            self.timeline = NO_TIMELINE
            self._closed = False
        else:
            self.tail = self.known_tail = head.tail
            self.timeline = head.tail_timeline if head.past else head.timeline
            """That of the tail, as far as this draft knows."""
            self._closed = head.closed
        self._state: str | None = None
        self._deadline: int | None = None
        self._data: list[bytes] = []
        self._fields: dict[str, bytes | None] = {}
        self._remove = False
        self._create: Head | None = None
        self._new_timeline: bytes | None = None
        self._last_removed = NO_TIMELINE
        self._guard_open = False
        self._guard_state: str | None = None
        self._guard_tail: int | None = None
        self._guard_deadline: int | None = None
        self._guard_fields: dict[str, bytes | None] = {}
        self._none_of = ""

    def copy(self) -> "Draft":
        """A draft that goes on from here on its own, to try an operation."""
        other = Draft(self.path, None)
        for name in self.__slots__:
            setattr(other, name, getattr(self, name))
        other._data = list(self._data)
        other._fields = dict(self._fields)
        other._guard_fields = dict(self._guard_fields)
        return other

    # Facts, for operations. Each method records the stored fact that a result rests on.

    def is_closed(self) -> bool:
        """Whether the stream is closed. No guard is recorded: a closed stream stays closed, and
        every append has the guard that the stream is open.
        """
        return self._closed

    def state(self) -> str:
        """The state of what is there; guarded."""
        assert self.head is not None
        if self._create is None and self._guard_state is None:
            self._guard_state = self.head.state
        return self.head.state if self._state is None else self._state

    def deadline(self, *, guarded: bool = False) -> int:
        """When the life ends, 0 for never; ``guarded`` by those who end it."""
        assert self.head is not None
        if guarded and self._create is None:
            self._guard_deadline = self.head.deadline
        return self.head.deadline if self._deadline is None else self._deadline

    def field(self, key: str) -> bytes | None:
        """The value of a field that was loaded; guarded."""
        if key in self._fields:
            return self._fields[key]
        if self._create is not None:
            return None
        value = self._known[key]
        self._guard_fields[key] = value
        return value

    def has_any(self, kind: str) -> bool:
        """Whether there is any field of this kind; the absence is guarded, a presence is not.

        A field that this draft removes still counts, because a guard cannot say that nobody else
        has added one.
        """
        if any(key[0] == kind and value is not None for key, value in self._fields.items()):
            return True
        if self._create is None and self._counts.get(kind, 0):
            return True
        if self._create is None and kind not in self._none_of:
            self._none_of += kind
        return False

    def require_tail(self) -> int:
        """The tail, guarded: for those who append only if nobody else has."""
        if self._create is None and self._guard_tail is None:
            self._guard_tail = self.known_tail
        return self.tail

    # Changes, made by operations.

    def append(self, data: bytes) -> int:
        """Add bytes at the tail; the position after them, as far as this draft knows."""
        self._guard_open = self._guard_open or self._create is None
        self._data.append(data)
        self.tail += len(data)
        assert self.head is not None
        self.timeline = self.head.timeline
        return self.tail

    def close(self) -> None:
        """Close for ever; guarded by the stream being open."""
        self._guard_open = self._guard_open or self._create is None
        self._closed = True

    def set_field(self, key: str, value: bytes | None) -> None:
        """Set a field, or remove it with None."""
        self._fields[key] = value

    def set_state(self, state: str) -> None:
        """Set the state: LIVE, FORKING or DELETED."""
        self._state = state

    def set_deadline(self, deadline: int) -> None:
        """Set the deadline, in milliseconds since 1970; 0 for never."""
        self._deadline = deadline

    def remove(self) -> None:
        """Drop the entity with everything that earlier operations of this draft did to it."""
        if self._data and self._create is None:
            # They were told positions that no commit will correct: let these be right.
            self.require_tail()
        if self.head is not None:
            self._last_removed = max(self._last_removed, self.head.timeline)
        self._remove = self._origin is not None
        self.head = self._create = self._new_timeline = None
        self.tail = self.known_tail = 0
        self.timeline = NO_TIMELINE
        self._closed = False
        self._state = self._deadline = None
        self._data = []
        self._fields = {}

    def create(self, head: Head, *, new_timeline: bool = False) -> Head:
        """Put a new entity where nothing is, or where :meth:`remove` left nothing; returns its head
        as far as this draft knows.

        ``new_timeline`` has the store give it a timeline, no earlier than the one in ``head`` and
        later than those of what this draft removed.
        """
        if new_timeline:
            timeline = later_timeline(head.timeline, self._last_removed)
            head = msgspec.structs.replace(head, timeline=timeline)
        self.head = self._create = head
        self.tail = self.known_tail = head.start
        self.timeline = head.timeline_at(head.start)
        self._new_timeline = head.timeline if new_timeline else None
        self._closed = False
        return head

    @property
    def tail_offset(self) -> Offset:
        """The tail as an offset, as far as this draft knows."""
        return Offset(self.timeline, self.tail)

    @property
    def growth(self) -> Growth:
        """How much more this commit stores, without what a fork shares with its source."""
        bytes_before = 0 if self._origin is None else self._origin.tail - self._origin.start
        bytes_after = 0 if self.head is None else self.tail - self.head.start
        streams = (self.head is not None) - (self._origin is not None)
        return Growth(bytes_after - bytes_before, streams)

    @property
    def removed(self) -> Head | None:
        """The stored head that this draft drops, if it does."""
        return self._origin if self._remove else None

    @property
    def changes(self) -> bool:
        """Whether there is anything to commit."""
        return bool(
            self._data
            or self._fields
            or self._create is not None
            or self._remove
            or self._state is not None
            or self._deadline is not None
            or (self._closed and (self._origin is None or not self._origin.closed))
        )

    def facts_after(self, tail: int) -> Facts | None:
        """The facts once the commit has been applied with this tail, as far as they are known.

        Counts are a close guess: others may have changed them, and a field set unseen counts as
        new.
        """
        head = self.head
        if head is None:
            return None
        known = self._known if self._create is None else NO_FIELDS
        counts = dict(self._counts) if self._create is None else {}
        for key, value in self._fields.items():
            if (value is None) != (known.get(key) is None):
                counts[key[0]] = counts.get(key[0], 0) + (-1 if value is None else 1)
        fields = {**known, **self._fields}
        change = Delta(close=self._closed, state=self._state, deadline=self._deadline)
        head = msgspec.structs.replace(head.apply(change), tail=tail)
        return Facts(head, fields, counts)

    def commit(self, new_id: Callable[[], str]) -> Commit:
        """Everything so far as one guarded change."""
        origin = self._origin
        create = self._create
        data = self._data
        was_closed = create is None and origin is not None and origin.closed
        return Commit(
            new_id(),
            self.path,
            Guard(
                None if origin is None else origin.incarnation,
                self._guard_state,
                self._guard_open,
                self._guard_tail,
                self._guard_deadline,
                self._guard_fields,
                self._none_of,
            ),
            Delta(
                self._remove,
                create,
                data[0] if len(data) == 1 else b"".join(data),
                self._closed and not was_closed,
                self._state,
                self._deadline,
                self._fields,
                self._new_timeline,
            ),
            self.known_tail,
        )
