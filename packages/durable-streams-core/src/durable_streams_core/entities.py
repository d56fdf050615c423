"""What a store keeps under a path, and how a change to it is written down.

An entity is a small fixed **head**, keyed **fields** and **bytes**. A field's first character is
its kind; a store counts the fields of each kind, pages through them, and never loads them all.

A change is a **commit**: an id, a **guard** and a **delta**. The guard holds only the facts on
which the decision rests, never a version of the whole, so that plain appends of many processes do
not conflict. Each commit ends as one of the four outcomes, and sending it again under the same id
is answered :class:`Applied` with the first result.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

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
    """

    incarnation: str
    birth: bytes
    start: int = 0
    tail: int = 0
    closed: bool = False
    state: str = LIVE
    deadline: int = 0


class Facts(msgspec.Struct, frozen=True, gc=False):
    """A head with the fields that were asked for (None: no such field) and the field counts."""

    head: Head
    fields: Mapping[str, bytes | None] = NO_FIELDS
    counts: Mapping[str, int] = NO_COUNTS


class Guard(msgspec.Struct, frozen=True, gc=False):
    """What must still be so; whatever is None, False or empty is not looked at.

    ``incarnation`` is always checked: None says that the path must hold nothing. ``fields`` maps
    keys to the exact value they must have (None: must be absent), ``none_of`` lists kinds of which
    no field may exist.
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
    """

    remove: bool = False
    create: Head | None = None
    data: bytes = b""
    close: bool = False
    state: str | None = None
    deadline: int | None = None
    fields: Mapping[str, bytes | None] = NO_FIELDS


class Commit(msgspec.Struct, frozen=True, gc=False):
    """One guarded change to one path.

    ``base`` is a tail of the entity known before the first try (its ``start`` for one created
    here): a store finds a resend among what was appended after it.
    """

    id: str
    path: str
    guard: Guard
    delta: Delta
    base: int = 0


class Applied(msgspec.Struct, frozen=True, gc=False):
    """Done, durably by the store's stated promise; ``tail`` is the tail after it, 0 if nothing is
    left there.
    """

    tail: int


class Conflicted(msgspec.Struct, frozen=True, gc=False):
    """The guard does not hold and nothing was done.

    ``facts`` are as :meth:`Store.load` would return them now, with every field that the guard or
    the delta names, so that deciding again costs no extra round trip; None: nothing is there.
    """

    facts: Facts | None


class Refused(msgspec.Struct, frozen=True, gc=False):
    """Nothing was done, whatever the facts: ``code`` is ``storage-full`` or ``unavailable``."""

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
    that this incarnation is served no more.
    """

    path: str
    incarnation: str
    tail: int
    closed: bool = False
    gone: bool = False
    data: bytes | None = None
