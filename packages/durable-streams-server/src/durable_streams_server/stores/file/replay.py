"""Rebuilds the entities of a store from its snapshot and from the journal after it. Only reads."""

import zlib
from collections.abc import Collection, Iterator
from typing import Any

import msgspec

from durable_streams_core.entities import Applied, Delta, Head
from durable_streams_core.offsets import NO_TIMELINE
from durable_streams_server.stores.file.data_files import file_name
from durable_streams_server.stores.file.directory import JOURNAL, read_whole
from durable_streams_server.stores.file.disk import Disk
from durable_streams_server.stores.file.journal_reader import (
    CorruptionError,
    JournalGroup,
    JournalReader,
)
from durable_streams_server.stores.file.latest_commits import LatestCommits
from durable_streams_server.stores.file.records import InFile, unpack_head
from durable_streams_server.stores.file.snapshot import SnapshotReader, snapshot_names
from durable_streams_server.stores.file.sums import BLOCK, NO_SUMS, Sums, extend, unknown_sums
from durable_streams_server.stores.file.write_behind import Stored
from durable_streams_server.stores.table import Recent


class Span:
    """The bytes of one entity in the journal, past those that a snapshot or the journal proves."""

    __slots__ = ("begin", "begin_sums", "end", "start", "sums")

    def __init__(self, entity: Stored) -> None:
        self.start = entity.head.start
        self.begin = self.end = entity.head.tail
        self.begin_sums = self.sums = entity.sums

    def add(self, data: bytes | InFile) -> None:
        """Go on with an entry's data."""
        if isinstance(data, InFile):
            # Every byte up to its end was in the file before the journal named it: see `direct`.
            self.end = self.begin = self.end + len(data)
            self.sums = self.begin_sums = Sums(self.sums.full + data.full, data.rest)
            return
        self.sums = extend(self.sums, self.end - self.start, data)
        self.end += len(data)


class Replay:
    """The entities as the latest snapshot has them, with the journal's commits applied."""

    def __init__(
        self, disk: Disk, store: str, *, dropped: Collection[int] = (), forgiving: bool = False
    ) -> None:
        """Read everything; raises :class:`CorruptionError`.

        ``dropped`` are the numbers of entities to leave out. With ``forgiving``, what only misses
        something does not count as damage: ``problems`` has it.
        """
        self._disk = disk
        self._store = store
        self._forgiving = forgiving
        self.paths: dict[str, Stored] = {}
        self.by_number: dict[int, tuple[str, Stored]] = {}
        self.spans: dict[int, Span] = {}
        """The bytes that the journal has of each entity, by its number."""
        self.recent = Recent()
        self.through = 0
        """The last group that the snapshot holds."""
        self.numbers = 1
        """The number of the next entity."""
        self.floor = 0
        """The time last recorded."""
        self.last_timeline = NO_TIMELINE
        self.groups = self.commits = 0
        self.problems: list[str] = []
        self._latest = LatestCommits()
        self._tails: dict[int, int] = {}
        """The tails of entities whose last bytes are in the journal only."""
        self._seen: dict[int, int] = {}
        """The group up to which a slice of the snapshot has an entity's head and fields."""
        self._last_seen = 0
        self._strays: set[int] = set()
        """Numbers that the journal changes and that nothing has created so far."""
        self._load_snapshot()
        self.journal = JournalReader(disk, bytes.fromhex(store))
        for group in self.journal_groups():
            self._replay(group)
        self._finish_entities(dropped)
        self._latest.add_to(self.recent, self.by_number)

    def journal_groups(self) -> Iterator[JournalGroup]:
        """The groups that the snapshot does not hold."""
        return self.journal.groups(self.through, may_end_early=self._forgiving)

    def release(self) -> None:
        """Forget what only opening the directory needed."""
        self.paths, self.by_number, self.spans = {}, {}, {}

    def _load_snapshot(self) -> None:
        names = snapshot_names(self._disk)
        if not names:
            return
        reader = SnapshotReader(self._disk, names[-1], self._store)
        cover = reader.cover
        self.through, self.numbers, self.floor = cover.through, cover.numbers, cover.now
        self.last_timeline = cover.last_timeline
        for seen, slice_ in reader.slices():
            self._last_seen = max(self._last_seen, seen)
            for kept in slice_:
                head = kept.head
                if kept.proven != kept.tail:
                    # The journal's part of it is added from here.
                    self._tails[kept.number] = kept.tail
                    head = _with_tail(head, kept.proven)
                entity = Stored(head, number=kept.number, sums=Sums(kept.blocks, kept.crc))
                if not reader.with_blocks and kept.proven - kept.start >= BLOCK:
                    entity.sums = self._sums_of_whole(entity, kept.proven - kept.start)
                if kept.fields:
                    entity.set_fields(kept.fields)
                if seen > self.through:
                    self._seen[kept.number] = seen
                self._add(kept.path, entity)
        for done in reader.recent:
            self.recent.add(done.id, Applied(done.tail, done.timeline))

    def _sums_of_whole(self, entity: Stored, length: int) -> Sums:
        """The sums of a file for which a snapshot has only one CRC."""
        name = file_name(entity.number)
        content = read_whole(self._disk, name) if self._disk.file_size(name) else None
        if content is None or zlib.crc32(content[:length]) != entity.sums.rest:
            # So that every read of the file finds it damaged.
            return unknown_sums(length)
        return extend(NO_SUMS, 0, content[:length])

    def _add(self, path: str, entity: Stored) -> None:
        self.paths[path] = entity
        self.by_number[entity.number] = (path, entity)
        self.numbers = max(self.numbers, entity.number + 1)
        self.last_timeline = max(self.last_timeline, entity.head.timeline)

    def _replay(self, group: JournalGroup) -> None:
        sequence = group.sequence
        by_number, spans = self.by_number, self.spans
        self.floor = max(self.floor, group.now)
        self.groups += 1
        self.commits += len(group.entries)
        may_be_seen = sequence <= self._last_seen
        for entry in group.entries:
            length = len(entry)
            if length > 5:
                self._replay_change(entry, group)
                continue
            number = entry[0]
            named = by_number.get(number)
            if named is None:
                self._strays.add(number)
                continue
            data = entry[3]
            if data:
                span = spans.get(number)
                if span is not None and span.end == entry[2]:
                    span.add(data)
                else:
                    self._cover(named[1], entry[2], data, group)
            if length == 5 and not (may_be_seen and sequence <= self._seen.get(number, 0)):
                named[1].set_fields(entry[4])
        self._latest.note(group)

    def _replay_change(self, entry: list[Any], group: JournalGroup) -> None:
        number, _, position, data, fields, close, state, deadline, path, removed, created = entry
        if removed:
            gone = self.by_number.pop(removed, None)
            self._strays.discard(removed)
            self.spans.pop(removed, None)
            self._tails.pop(removed, None)
            if gone is not None:
                self._latest.removed(removed, gone[1].head)
                if self.paths.get(path) is gone[1]:
                    del self.paths[path]
        if created is not None:
            if path in self.paths:
                raise CorruptionError(group.name, group.begin, f"it creates {path!r} twice")
            self._add(path, Stored(unpack_head(created), number=number))
        named = self.by_number.get(number)
        if named is None:
            if number != removed:
                self._strays.add(number)
            return
        entity = named[1]
        if data:
            self._cover(entity, position, data, group)
        if group.sequence <= self._seen.get(number, 0):
            return
        entity.head = entity.head.apply(Delta(close=close, state=state, deadline=deadline))
        if fields:
            entity.set_fields(fields)

    def _cover(
        self, entity: Stored, position: int, data: bytes | InFile, group: JournalGroup
    ) -> None:
        span = self.spans.get(entity.number)
        end = entity.head.tail if span is None else span.end
        if position + len(data) <= end:
            return
        if position != end:
            raise CorruptionError(
                group.name,
                group.begin,
                f"it goes on at byte {position} of a stream that has {end}",
            )
        if span is None:
            span = self.spans[entity.number] = Span(entity)
        span.add(data)

    def _finish_entities(self, dropped: Collection[int]) -> None:
        for number in dropped:
            named = self.by_number.pop(number, None)
            if named is not None:
                del self.paths[named[0]]
                self.spans.pop(number, None)
                self._tails.pop(number, None)
        for number, span in self.spans.items():
            _, entity = self.by_number[number]
            entity.head = _with_tail(entity.head, span.end)
            entity.sums = span.sums
        for number, tail in self._tails.items():
            path, entity = self.by_number[number]
            if entity.head.tail < tail:
                problem = (
                    f"the journal has no bytes {entity.head.tail} to {tail} of the stream {path!r}"
                )
                if not self._forgiving:
                    raise CorruptionError(JOURNAL, 0, problem)
                self.problems.append(problem)
        if self._strays and not self._forgiving:
            raise CorruptionError(
                JOURNAL,
                0,
                f"it changes the stream number {min(self._strays)}, which nothing created",
            )


def _with_tail(head: Head, tail: int) -> Head:
    return msgspec.structs.replace(head, tail=tail)
