"""The memory store: for tests, for development, and for streams that may be lost with it."""

import sys
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence

import msgspec

from durable_streams_core.entities import (
    NO_FIELDS,
    Change,
    Commit,
    Facts,
    Head,
    Outcome,
    Slice,
)
from durable_streams_core.errors import StoreError
from durable_streams_core.metrics import Metric
from durable_streams_core.store import ImmediateStore, Watcher, Watchers
from durable_streams_server.stores.clock import Clock
from durable_streams_server.stores.table import Entity, Recent, Table, appended, streams_metric

LARGE = 64 * 1024
SEALED = 1024 * 1024


class Bytes:
    """One incarnation's bytes, in parts: a large append is kept as it came, and read again without
    a copy where a page is just that; small ones gather in a part until that is full.
    """

    __slots__ = ("_parts", "_size", "_starts")

    def __init__(self) -> None:
        self._parts: list[bytes | bytearray] = []
        self._starts: list[int] = []
        self._size = 0

    def add(self, data: bytes) -> None:
        parts = self._parts
        if len(data) < LARGE and parts:
            last = parts[-1]
            if type(last) is bytearray and len(last) < SEALED:
                last += data
                self._size += len(data)
                return
        parts.append(data if len(data) >= LARGE else bytearray(data))
        self._starts.append(self._size)
        self._size += len(data)

    def read(self, begin: int, limit: int) -> bytes:
        """At most ``limit`` bytes from ``begin``, which lies before the end."""
        end = min(begin + limit, self._size)
        index = bisect_right(self._starts, begin) - 1
        found: list[bytes] = []
        while begin < end:
            part = self._parts[index]
            offset = begin - self._starts[index]
            length = min(len(part) - offset, end - begin)
            if type(part) is bytes and length == len(part):
                found.append(part)
            else:
                with memoryview(part) as view:
                    found.append(bytes(view[offset : offset + length]))
            begin += length
            index += 1
        return found[0] if len(found) == 1 else b"".join(found)


class Kept(Entity, eq=False, gc=False):
    """An entity with its bytes."""

    bytes: Bytes = msgspec.field(default_factory=Bytes)


class MemoryStore(ImmediateStore):
    """Keeps everything in this process and nothing beyond it.

    ``clock`` returns milliseconds since 1970; tests pass their own.
    """

    api = 1
    # Reading from memory needs no task.
    large_read = sys.maxsize

    def __init__(self, *, clock: Callable[[], int] | None = None) -> None:
        self._clock = clock or Clock().now
        self._table = Table(Kept)
        self._watchers = Watchers()
        self._recent = Recent()

    def metrics(self) -> Sequence[Metric]:
        return (streams_metric(self._table),)

    async def open(self) -> None:
        """Nothing to do."""

    async def close(self) -> None:
        """Nothing to do: what was stored stays as long as the object."""

    def now(self) -> int:
        return self._clock()

    def peek(self, path: str, fields: Sequence[str] = ()) -> Facts | None:
        entity = self._table.entities.get(path)
        if entity is None:
            return None
        return entity.facts(fields) if fields else Facts(entity.head, NO_FIELDS, entity.counts)

    def commit_nowait(self, batch: Sequence[Commit]) -> Sequence[Outcome]:
        changes: list[Change] = []
        outcomes = [self._apply(commit, changes) for commit in batch]
        if changes:
            self._watchers.tell(changes)
        return outcomes

    def append_nowait(
        self, path: str, head: Head, data: bytes, fields: Mapping[str, bytes | None]
    ) -> bool:
        entity = self._table.entities.get(path)
        if entity is None or entity.head is not head:
            return False
        entity.head = grown = head.grown(len(data))
        entity.bytes.add(data)
        if fields:
            entity.set_fields(fields)
        self._watchers.tell((appended(path, grown, data),))
        return True

    def _apply(self, commit: Commit, changes: list[Change]) -> Outcome:
        """Apply a commit if its guard holds, and note what watchers are to be told of it."""
        table = self._table
        repeated = self._recent.get(commit.id)
        if repeated is not None:
            return repeated
        conflict = table.check(commit)
        if conflict is not None:
            return conflict
        path, delta = commit.path, commit.delta
        entity = table.entities.get(path)
        before = None if entity is None else entity.head
        applied = table.apply(path, delta)
        if delta.data:
            table.entities[path].bytes.add(delta.data)
        changes.extend(table.changes(path, delta, before))
        self._recent.add(commit.id, applied)
        return applied

    def slice(self, path: str, incarnation: str, start: int, limit: int) -> Slice | None:
        entity = self._table.entities.get(path)
        if entity is None or entity.head.incarnation != incarnation:
            return None
        head = entity.head
        if start >= head.tail:
            return Slice(head, b"")
        return Slice(head, entity.bytes.read(start - head.start, limit))

    async def scan(
        self, path: str, incarnation: str, kind: str, after: str, limit: int
    ) -> Sequence[tuple[str, bytes]]:
        return self._table.scan(path, incarnation, kind, after, limit)

    async def list(self, prefix: str, after: str, limit: int) -> Sequence[tuple[str, Head]]:
        return self._table.list(prefix, after, limit)

    async def due(self, before: int, limit: int) -> Sequence[str]:
        return self._table.due(before, limit)

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        return self._watchers.add(watcher)


def open_store(url: str) -> MemoryStore:
    """The store for ``memory:`` URLs."""
    if url.lower() != "memory:":
        raise StoreError(f"{url!r} says more than a memory store can do. Use memory: alone.")
    return MemoryStore()
