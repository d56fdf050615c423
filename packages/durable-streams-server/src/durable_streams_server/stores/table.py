"""The entities of a store that has all its facts in memory: looked up, guarded, changed, listed.

Bytes are not kept here. A table knows where each entity's bytes begin and end; whoever owns the
table keeps the bytes themselves.
"""

import heapq
from collections.abc import Callable, Mapping, Sequence
from itertools import islice, takewhile
from typing import Generic, TypeVar

import msgspec

from durable_streams_core.entities import (
    LIVE,
    NO_COUNTS,
    NO_FIELDS,
    Applied,
    Change,
    Commit,
    Conflicted,
    Delta,
    Facts,
    Guard,
    Head,
)
from durable_streams_core.metrics import Metric, metric
from durable_streams_core.offsets import NO_TIMELINE, later_timeline
from durable_streams_server.caches import TwoGenerationCache
from durable_streams_server.stores.sorted_keys import SortedKeys

SMALL_CHANGE = 64 * 1024
"""Bytes of a commit up to this size ride along with the change that watchers see."""

REMEMBERED_COMMITS = 4096

MANY = 256
"""The fields of an entity that has more are kept in order once they have been paged through."""


class Entity(msgspec.Struct, eq=False, gc=False):
    """One entity's head, fields and counts.

    The garbage collector does not look at entities, which are never part of a circle: with a
    million of them, each of its rounds would take as long as thousands of appends.
    """

    head: Head
    fields: dict[str, bytes] | None = None
    counts: Mapping[str, int] = NO_COUNTS
    ordered: SortedKeys | None = None
    """The keys of ``fields`` in order, if there are many and they were paged through."""

    def facts(self, fields: Sequence[str]) -> Facts:
        own = self.fields
        known = {key: own.get(key) for key in fields} if own else dict.fromkeys(fields)
        return Facts(self.head, known, self.counts)

    def meets(self, guard: Guard) -> bool:
        head = self.head
        if (
            guard.incarnation != head.incarnation
            or (guard.state is not None and guard.state != head.state)
            or (guard.open and head.closed)
            or (guard.tail is not None and guard.tail != head.tail)
            or (guard.deadline is not None and guard.deadline != head.deadline)
        ):
            return False
        if guard.fields:
            own = self.fields or NO_FIELDS
            for key, value in guard.fields.items():
                if own.get(key) != value:
                    return False
        return not guard.none_of or not any(self.counts.get(kind) for kind in guard.none_of)

    def set_fields(self, changes: Mapping[str, bytes | None]) -> None:
        own = self.fields
        if own is None:
            own = self.fields = {}
        moved: dict[str, int] | None = None
        for key, value in changes.items():
            if (key in own) == (value is None):
                if moved is None:
                    moved = dict(self.counts)
                moved[key[0]] = moved.get(key[0], 0) + (-1 if value is None else 1)
                if self.ordered is not None:
                    (self.ordered.add if value is not None else self.ordered.discard)(key)
            if value is None:
                own.pop(key, None)
            else:
                own[key] = value
        if moved is not None:
            self.counts = moved

    def scan(self, kind: str, after: str, limit: int) -> Sequence[tuple[str, bytes]]:
        """At most ``limit`` fields of a kind, in order, with keys behind ``after``."""
        own = self.fields
        if not own:
            return []
        if len(own) <= MANY:
            keys = sorted(key for key in own if key[0] == kind and key > after)[:limit]
        else:
            if self.ordered is None:
                self.ordered = SortedKeys(own)
            keys = _page(self.ordered, kind, after, limit)
        return [(key, own[key]) for key in keys]


def _page(ordered: SortedKeys, prefix: str, after: str, limit: int) -> list[str]:
    """At most ``limit`` keys that begin with ``prefix`` and come behind ``after``."""
    found = ordered.after(after) if after >= prefix else ordered.after(prefix, inclusive=True)
    return list(islice(takewhile(lambda key: key.startswith(prefix), found), limit))


AnyEntity = TypeVar("AnyEntity", bound=Entity)


class Recent(TwoGenerationCache[str, Applied]):
    """The outcomes of the latest commits, by their ids: a resend is answered and not redone."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(REMEMBERED_COMMITS)

    def get(self, key: str) -> Applied | None:
        """The outcome of a commit. Looking it up does not keep it longer."""
        return self._newer.get(key) or self._older.get(key)


def appended(path: str, head: Head, data: bytes) -> Change:
    """The notification of a commit that appended ``data`` or nothing and led to this head."""
    return Change(
        path,
        head.incarnation,
        head.tail,
        head.closed,
        head.state != LIVE,
        data if len(data) <= SMALL_CHANGE else None,
        # Bytes that were just appended lie on the present timeline.
        head.timeline if data else head.tail_timeline,
    )


class Table(Generic[AnyEntity]):
    """All entities of one store, by path; ``make`` makes the entity of a new head."""

    def __init__(self, make: Callable[[Head], AnyEntity]) -> None:
        self.entities: dict[str, AnyEntity] = {}
        self._make = make
        self._ordered: SortedKeys | None = None
        """All paths, once they have been listed."""
        self._deadlines: list[tuple[int, str]] = []
        self.last_timeline = NO_TIMELINE
        """The latest timeline that was given: what is created next has a later one."""

    def put(self, path: str, entity: AnyEntity) -> AnyEntity:
        """Place an entity where nothing is."""
        self.entities[path] = entity
        self.last_timeline = max(self.last_timeline, entity.head.timeline)
        if self._ordered is not None:
            self._ordered.add(path)
        if entity.head.deadline:
            self._push(entity.head.deadline, path)
        return entity

    def _push(self, deadline: int, path: str) -> None:
        heap = self._deadlines
        if len(heap) > 1000 + 4 * len(self.entities):
            # Most are of lives that were renewed or are over.
            heap[:] = [(e.head.deadline, p) for p, e in self.entities.items() if e.head.deadline]
            heapq.heapify(heap)
        heapq.heappush(heap, (deadline, path))

    def facts(self, path: str, fields: Sequence[str]) -> Facts | None:
        entity = self.entities.get(path)
        if entity is None:
            return None
        return entity.facts(fields) if fields else Facts(entity.head, NO_FIELDS, entity.counts)

    def check(self, commit: Commit) -> Conflicted | None:
        """None if the guard holds now."""
        entity = self.entities.get(commit.path)
        guard = commit.guard
        if entity is None:
            return None if guard.incarnation is None else Conflicted(None)
        if entity.meets(guard):
            return None
        return Conflicted(entity.facts([*guard.fields, *commit.delta.fields]))

    def apply(self, path: str, delta: Delta) -> Applied:
        """Make a change whose guard was checked. Reports the tail; the bytes are the caller's."""
        entity = self.entities.get(path)
        if delta.remove and entity is not None:
            del self.entities[path]
            entity = None
            if self._ordered is not None and delta.create is None:
                self._ordered.discard(path)
        if delta.create is not None:
            head = delta.create
            if delta.timeline is not None:
                timeline = later_timeline(delta.timeline, self.last_timeline)
                head = msgspec.structs.replace(head, timeline=timeline)
            entity = self.put(path, self._make(head))
        if entity is None:
            return Applied(0)
        head = entity.head.apply(delta)
        if head is not entity.head:
            entity.head = head
            if delta.deadline:
                self._push(delta.deadline, path)
        if delta.fields:
            entity.set_fields(delta.fields)
        # Bytes that were just appended lie on the present timeline.
        return Applied(head.tail, head.timeline if delta.data else head.tail_timeline)

    def changes(self, path: str, delta: Delta, before: Head | None) -> Sequence[Change]:
        """The notifications of a change that was just applied; ``before`` is the head it met."""
        removed: tuple[Change, ...] = ()
        if delta.remove and before is not None:
            timeline = before.tail_timeline
            removed = (
                Change(path, before.incarnation, before.tail, before.closed, True, None, timeline),
            )
        entity = self.entities.get(path)
        if entity is None:
            return removed
        if delta.data or delta.close or delta.state is not None or delta.create is not None:
            change = appended(path, entity.head, delta.data)
            return (*removed, change) if removed else (change,)
        return removed

    def scan(
        self, path: str, incarnation: str, kind: str, after: str, limit: int
    ) -> Sequence[tuple[str, bytes]]:
        entity = self.entities.get(path)
        if entity is None or entity.head.incarnation != incarnation:
            return []
        return entity.scan(kind, after, limit)

    def list(self, prefix: str, after: str, limit: int) -> Sequence[tuple[str, Head]]:
        if self._ordered is None:
            self._ordered = SortedKeys(self.entities)
        entities = self.entities
        return [(path, entities[path].head) for path in _page(self._ordered, prefix, after, limit)]

    def due(self, before: int, limit: int) -> Sequence[str]:
        heap = self._deadlines
        due: dict[str, int] = {}
        while heap and heap[0][0] <= before and len(due) < limit:
            deadline, path = heapq.heappop(heap)
            entity = self.entities.get(path)
            if entity is not None and entity.head.deadline == deadline:
                due[path] = deadline
        for path, deadline in due.items():
            heapq.heappush(heap, (deadline, path))
        return list(due)


def streams_metric(table: Table[AnyEntity]) -> Metric:
    """The number of entities in a table."""
    return metric(
        "streams",
        "Streams that the store keeps: also deleted ones that forks still read, and subscriptions.",
        len(table.entities),
    )
