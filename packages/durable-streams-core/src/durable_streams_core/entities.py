"""Entities, which a store keeps under paths, and commits, which change them.

An entity is a small fixed **head**, keyed **fields** and **bytes**. A field's first character is
its kind; a store counts the fields of each kind, pages through them, and never loads them all.

A change is a **commit**: an id, a **guard** and a **delta**. The guard holds only the facts on
which the decision rests, never a version of the whole, so that plain appends of many processes do
not conflict. Each commit ends as one of the four outcomes, and sending it again under the same id
gets :class:`Applied` with the first result.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

from durable_streams_core.offsets import NO_TIMELINE, Offset

__all__ = [
    "DELETED",
    "FORKING",
    "LIVE",
    "NO_COUNTS",
    "NO_FIELDS",
    "Applied",
    "Change",
    "Commit",
    "Conflicted",
    "Delta",
    "Facts",
    "Guard",
    "Head",
    "Outcome",
    "Refused",
    "Slice",
    "Unknown",
]

LIVE: Final = "live"
FORKING: Final = "forking"
"""Created as a fork but not yet confirmed by its source: served to nobody."""
DELETED: Final = "deleted"
"""Soft-deleted: kept for its forks only (§4.2)."""

NO_FIELDS: Final[Mapping[str, bytes | None]] = {}
NO_COUNTS: Final[Mapping[str, int]] = {}


class Head(msgspec.Struct, frozen=True, gc=False):
    """The fixed part of an entity. Positions count bytes, times are milliseconds since 1970.

    ``birth`` is what was fixed at creation, opaque to stores. ``start`` is the position of the
    entity's own first byte (a fork's bytes before it are its source's), ``tail`` the one after its
    last. ``deadline`` is when the sweeper should look at it, 0 for never.

    ``timeline`` is the first half of the offsets of what is appended next, ``past`` each earlier
    one with the position where it ends: positions up to there keep its offsets. A fork begins with
    its source's timeline up to ``start``; another pair comes with every loss (:meth:`moved_on`).
    """

    incarnation: str
    birth: bytes
    start: int = 0
    tail: int = 0
    closed: bool = False
    state: str = LIVE
    deadline: int = 0
    timeline: bytes = NO_TIMELINE
    past: tuple[tuple[bytes, int], ...] = ()

    def apply(self, delta: "Delta") -> "Head":
        """The head after a delta that changes the entity without creating or removing it."""
        if delta.state is None and delta.deadline is None and not delta.close:
            return self.grown(len(delta.data)) if delta.data else self
        return Head(
            self.incarnation,
            self.birth,
            self.start,
            self.tail + len(delta.data),
            self.closed or delta.close,
            self.state if delta.state is None else delta.state,
            self.deadline if delta.deadline is None else delta.deadline,
            self.timeline,
            self.past,
        )

    def grown(self, size: int) -> "Head":
        """The head after an append of so many bytes."""
        return Head(
            self.incarnation,
            self.birth,
            self.start,
            self.tail + size,
            self.closed,
            self.state,
            self.deadline,
            self.timeline,
            self.past,
        )

    def live_at(self, now: int) -> bool:
        """Whether it is served at a time: its state is LIVE and its deadline has not come."""
        return self.state == LIVE and not (self.deadline and now >= self.deadline)

    def timeline_at(self, position: int) -> bytes:
        """The timeline of a position from ``start`` on; a fork's source knows those before it."""
        for timeline, end in self.past:
            if position <= end:
                return timeline
        return self.timeline

    @property
    def tail_timeline(self) -> bytes:
        """The timeline of the tail."""
        return self.timeline_at(self.tail) if self.past else self.timeline

    @property
    def tail_offset(self) -> Offset:
        """The tail as an offset."""
        return Offset(self.tail_timeline, self.tail)

    def holds(self, offset: Offset) -> bool:
        """Whether the entity itself vouches for an offset: its timeline, or one of its past, goes
        as far. That the offset is not past the tail is not checked here.
        """
        if offset.timeline == self.timeline:
            return True
        return any(
            timeline == offset.timeline and offset.position <= end for timeline, end in self.past
        )

    def moved_on(self, timeline: bytes) -> "Head":
        """The head after its store lost acknowledged bytes past ``tail``, or may have.

        Later appends lie on ``timeline``, which is later than the present one (see
        :func:`~durable_streams_core.offsets.later_timeline`). Offsets up to ``tail`` stay valid. An
        offset beyond it that was handed out before is refused, because the bytes before it are not
        those that its reader has seen.
        """
        past = self.past
        if not past or past[-1][1] < self.tail:
            past = (*past, (self.timeline, self.tail))
        return msgspec.structs.replace(self, timeline=timeline, past=past)


class Facts(msgspec.Struct, frozen=True, gc=False):
    """A head with the fields that were asked for (None: no such field) and the field counts."""

    head: Head
    fields: Mapping[str, bytes | None] = NO_FIELDS
    counts: Mapping[str, int] = NO_COUNTS


class Guard(msgspec.Struct, frozen=True, gc=False):
    """What must still be so; whatever is None, False or empty is not looked at.

    ``incarnation`` is always checked: None says that the path must hold nothing. ``fields`` maps
    keys to the exact value they must have (None: must be absent), ``none_of`` lists kinds that must
    have no field.
    """

    incarnation: str | None
    state: str | None = None
    open: bool = False
    tail: int | None = None
    deadline: int | None = None
    fields: Mapping[str, bytes | None] = NO_FIELDS
    none_of: str = ""


class Delta(msgspec.Struct, frozen=True, gc=False):
    """What changes. ``remove`` drops the entity with all it holds, ``create`` puts a new one there
    (after ``remove``, if both are set); then ``data`` is appended at the tail, which the store
    knows, and the rest is set. A field set to None is removed.

    With ``timeline``, what is created begins a new timeline: this one, or a later one if the store
    has given this or a later one before, also to something that was removed since. No two creations
    in a store get the same. Without it, the entity has what ``create`` says.
    """

    remove: bool = False
    create: Head | None = None
    data: bytes = b""
    close: bool = False
    state: str | None = None
    deadline: int | None = None
    fields: Mapping[str, bytes | None] = NO_FIELDS
    timeline: bytes | None = None


class Commit(msgspec.Struct, frozen=True, gc=False):
    """One guarded change to one path.

    ``known_tail`` is a tail of the entity known before the first try (its ``start`` for one created
    here): a store finds a resend among what was appended after it.
    """

    id: str
    path: str
    guard: Guard
    delta: Delta
    known_tail: int = 0


class Applied(msgspec.Struct, frozen=True, gc=False):
    """Done, durably by the store's stated promise; ``tail`` is the tail after it, 0 if nothing is
    left there, and ``timeline`` that of the tail (:attr:`Head.tail_offset`).
    """

    tail: int
    timeline: bytes = NO_TIMELINE


class Conflicted(msgspec.Struct, frozen=True, gc=False):
    """The guard does not hold and nothing was done.

    ``facts`` are as :meth:`Store.load` would return them now, with every field that the guard or
    the delta names, so that deciding again costs no extra round trip; None: nothing is there.
    """

    facts: Facts | None


class Refused(msgspec.Struct, frozen=True, gc=False):
    """Nothing was done, whatever the facts: ``code`` is ``storage-full`` or ``unavailable``.

    Also the answer of :meth:`~durable_streams_core.store.Store.probe`, with a code of its own.
    """

    code: str
    message: str


class Unknown(msgspec.Struct, frozen=True, gc=False):
    """It may or may not have been applied; send the same commit again to find out."""

    message: str


Outcome = Applied | Conflicted | Refused | Unknown


class Slice(msgspec.Struct, frozen=True, gc=False):
    """One snapshot of an entity: its head and some of its own bytes."""

    head: Head
    data: bytes


class Change(msgspec.Struct, frozen=True, gc=False):
    """One visible commit, as :meth:`Store.watch` tells it.

    ``data`` are the bytes that end at ``tail``, or None when they were not small. ``gone`` says
    that this incarnation is served no more. ``timeline`` is that of the tail
    (:attr:`Head.tail_offset`).
    """

    path: str
    incarnation: str
    tail: int
    closed: bool = False
    gone: bool = False
    data: bytes | None = None
    timeline: bytes = NO_TIMELINE
