"""Opens a directory after a crash or a clean stop: snapshot, then journal, then proof
that the stream files have every byte of it.

:meth:`Recovery.load` only reads. :meth:`Recovery.settle` then makes the directory hold exactly what
was loaded: a torn tail is cut, groups that nothing vouches for yet are written again (a sync that
failed before a crash may have left them in the system's cache only), stream files are cut or
rewritten to what is proven. Damage is refused with its position unless it is to be set aside.
"""

import ctypes
import sys
import time
import zlib
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

import msgspec

from durable_streams_core.entities import Applied, Delta, Head
from durable_streams_server.caches import TwoGenerationCache
from durable_streams_server.stores.file.data_files import (
    FileWriter,
    Write,
    file_name,
    file_numbers,
)
from durable_streams_server.stores.file.directory import (
    FORMAT,
    JOURNAL,
    STREAMS,
    UNFINISHED,
    read_whole,
)
from durable_streams_server.stores.file.disk import Disk
from durable_streams_server.stores.file.errors import is_full
from durable_streams_server.stores.file.journal_reader import (
    CorruptionError,
    JournalGroup,
    JournalReader,
    Unsure,
)
from durable_streams_server.stores.file.quarantine import Quarantine
from durable_streams_server.stores.file.records import unpack_head
from durable_streams_server.stores.file.snapshot import SnapshotReader, snapshot_names
from durable_streams_server.stores.file.sums import (
    BLOCK,
    NO_SUMS,
    Sums,
    all_blocks,
    extend,
    unknown_sums,
)
from durable_streams_server.stores.file.write_behind import OVERHEAD, Stored
from durable_streams_server.stores.table import REMEMBERED_COMMITS, Recent, Table

_MUCH: Final = 256 * 1024
_PIECE: Final = 1024 * 1024
_REWRITE_AT_ONCE: Final = 32 * 1024 * 1024


class Report(msgspec.Struct):
    """The findings and the work of a start."""

    streams: int = 0
    groups: int = 0
    commits: int = 0
    torn_bytes: int = 0
    rewritten_files: int = 0
    cut_files: int = 0
    removed_files: int = 0
    set_aside: list[str] = msgspec.field(default_factory=list)
    clock_behind: int = 0
    """Milliseconds by which the clock was behind the time last recorded."""
    seconds: float = 0.0

    def __str__(self) -> str:
        parts = [
            f"{self.streams:,} streams recovered in {self.seconds:.2f} s",
            f"{self.commits:,} commits in {self.groups:,} groups replayed",
            f"{self.torn_bytes:,} bytes of a torn tail cut",
        ]
        if self.rewritten_files:
            parts.append(f"{self.rewritten_files:,} data files completed from the journal")
        if self.cut_files or self.removed_files:
            parts.append(
                f"{self.cut_files:,} data files cut and {self.removed_files:,} removed that nothing holds"
            )
        if self.clock_behind:
            parts.append(
                f"the clock is {self.clock_behind / 1000:,.1f} s behind the time last recorded; "
                "going on from there"
            )
        parts.extend(f"set aside: {each}" for each in self.set_aside)
        return "; ".join(parts)


class Span:
    """The bytes of one entity in the journal, past those that a snapshot proves."""

    __slots__ = ("begin", "begin_sums", "end", "start", "sums")

    def __init__(self, entity: Stored) -> None:
        self.start = entity.head.start
        self.begin = self.end = entity.head.tail
        self.begin_sums = self.sums = entity.sums

    def add(self, data: bytes) -> None:
        self.sums = extend(self.sums, self.end - self.start, data)
        self.end += len(data)


class Recovery:
    """Opens a directory: reads what is there, proves it, and completes what a crash left undone.

    Long because each step of opening needs what the steps before it found.
    """

    def __init__(self, disk: Disk, store: str, *, set_aside: bool = False) -> None:
        self._disk = disk
        self._store = store
        self._set_aside = set_aside
        self._quarantine = Quarantine(disk)
        self.report = Report()
        self.damaged: list[CorruptionError] = []
        """Stream files that do not hold what is proven."""
        self.files = FileWriter(disk)
        self.unsaved: list[tuple[Stored, int, bytes]] = []
        """What data files lack of the journal's bytes because the disk is full, and from where."""
        self._dropped: set[int] = set()
        self._sound: dict[int, int] = {}
        """The blocks of data files that were read and are as they were stored."""
        self._reset()

    def _reset(self) -> None:
        self.table: Table[Stored] = Table(Stored)
        self.recent = Recent()
        self.through = 0
        """The last group that the snapshot holds."""
        self.numbers = 1
        self.floor = 0
        """The time last recorded."""
        self._reset_working()
        self.report.groups = self.report.commits = 0

    def _reset_working(self) -> None:
        """State that is needed only until the directory is as it should be."""
        self.by_number: dict[int, tuple[str, Stored]] = {}
        self._paths: dict[str, Stored] = {}
        self._spans: dict[int, Span] = {}
        self._tails: dict[int, int] = {}
        self._seen: dict[int, int] = {}
        self._last_seen = 0
        self._strays: set[int] = set()
        self._latest: deque[list[list[Any]]] = deque()
        self._latest_count = 0
        # A removal comes after all commits to what it removes, so it is among the latest as well.
        self._removed: TwoGenerationCache[int, Head] = TwoGenerationCache(2 * REMEMBERED_COMMITS)
        self._rewrite: set[int] = set()
        self._cut: dict[int, int] = {}
        self._remove: list[int] = []

    # Reading.

    def load(self) -> None:
        """Work out what there is; raises :class:`CorruptionError`, having changed nothing, or sets
        damage aside. Damaged stream files are only listed.
        """
        started = time.monotonic()
        while True:
            try:
                self._load()
                if not self._set_aside or not self.damaged:
                    break
                for damaged in self.damaged:
                    self._quarantine_damage(damaged)
                self._reset()
            except CorruptionError as error:
                if not self._set_aside:
                    raise
                self._quarantine_damage(error)
                self._reset()
        for path, entity in self._paths.items():
            self.table.put(path, entity)
        self._remember()
        self._seen, self._tails = {}, {}
        self.report.streams = len(self._paths)
        self.report.torn_bytes = self.journal.tail.torn if self.journal.tail else 0
        self.report.seconds = time.monotonic() - started

    def _load(self) -> None:
        self._load_snapshot()
        self.journal = JournalReader(self._disk, bytes.fromhex(self._store))
        for group in self._groups():
            self._replay(group)
        self._finish_entities()
        self.damaged = self._prove_files()

    @property
    def sequence(self) -> int:
        """The number of the next group."""
        return max(self.through, self.journal.last) + 1

    def _groups(self) -> Iterator[JournalGroup]:
        return self.journal.groups(self.through, may_end_early=self._set_aside)

    def _load_snapshot(self) -> None:
        names = snapshot_names(self._disk)
        if not names:
            return
        reader = SnapshotReader(self._disk, names[-1], self._store)
        cover = reader.cover
        self.through, self.numbers, self.floor = cover.through, cover.numbers, cover.now
        self.table.last_timeline = cover.last_timeline
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
        self._paths[path] = entity
        self.by_number[entity.number] = (path, entity)
        self.numbers = max(self.numbers, entity.number + 1)
        self.table.last_timeline = max(self.table.last_timeline, entity.head.timeline)

    def _replay(self, group: JournalGroup) -> None:
        sequence = group.sequence
        by_number, spans = self.by_number, self._spans
        self.floor = max(self.floor, group.now)
        self.report.groups += 1
        self.report.commits += len(group.entries)
        may_be_seen = sequence <= self._last_seen
        for entry in group.entries:
            length = len(entry)
            if length > 5:
                self._replay_change(entry, group)
                continue
            number = entry[0]
            found = by_number.get(number)
            if found is None:
                self._strays.add(number)
                continue
            data = entry[3]
            if data:
                span = spans.get(number)
                if span is not None and span.end == entry[2]:
                    span.add(data)
                else:
                    self._cover(found[1], entry[2], data, group)
            if length == 5 and not (may_be_seen and sequence <= self._seen.get(number, 0)):
                found[1].set_fields(entry[4])
        self._note(group)

    def _note(self, group: JournalGroup) -> None:
        """Keep the latest commits, without their data where that is much."""
        latest = self._latest
        latest.append(group.entries)
        self._latest_count += len(group.entries)
        while self._latest_count - len(latest[0]) >= REMEMBERED_COMMITS:
            self._latest_count -= len(latest.popleft())
        if group.end - group.begin > _MUCH:
            for entry in group.entries:
                if len(entry) <= 5:
                    entry[2:4] = entry[2] + len(entry[3]), b""

    def _replay_change(self, entry: list[Any], group: JournalGroup) -> None:
        number, _, position, data, fields, close, state, deadline, path, removed, created = entry
        if removed:
            gone = self.by_number.pop(removed, None)
            self._strays.discard(removed)
            self._spans.pop(removed, None)
            self._tails.pop(removed, None)
            if gone is not None:
                self._removed.add(removed, gone[1].head)
                if self._paths.get(path) is gone[1]:
                    del self._paths[path]
        if created is not None:
            if path in self._paths:
                raise CorruptionError(group.name, group.begin, f"it creates {path!r} twice")
            self._add(path, Stored(unpack_head(created), number=number))
        found = self.by_number.get(number)
        if found is None:
            if number != removed:
                self._strays.add(number)
            return
        entity = found[1]
        if data:
            self._cover(entity, position, data, group)
        if group.sequence <= self._seen.get(number, 0):
            return
        entity.head = entity.head.apply(Delta(close=close, state=state, deadline=deadline))
        if fields:
            entity.set_fields(fields)

    def _cover(self, entity: Stored, position: int, data: bytes, group: JournalGroup) -> None:
        span = self._spans.get(entity.number)
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
            span = self._spans[entity.number] = Span(entity)
        span.add(data)

    def _finish_entities(self) -> None:
        for number in self._dropped:
            found = self.by_number.pop(number, None)
            if found is not None:
                del self._paths[found[0]]
                self._spans.pop(number, None)
                self._tails.pop(number, None)
        for number, span in self._spans.items():
            _, entity = self.by_number[number]
            entity.head = _with_tail(entity.head, span.end)
            entity.sums = span.sums
        for number, tail in self._tails.items():
            path, entity = self.by_number[number]
            if entity.head.tail < tail:
                problem = (
                    f"the journal has no bytes {entity.head.tail} to {tail} of the stream {path!r}"
                )
                if not self._set_aside:
                    raise CorruptionError(JOURNAL, 0, problem)
                self.report.set_aside.append(problem)
        if self._strays and not self._set_aside:
            raise CorruptionError(
                JOURNAL,
                0,
                f"it changes the stream number {min(self._strays)}, which nothing created",
            )

    def _remember(self) -> None:
        for entries in self._latest:
            for entry in entries:
                if len(entry) > 5 and entry[9] == entry[0]:
                    self.recent.add(entry[1], Applied(0))
                else:
                    self._remember_append(entry)
        self._latest.clear()

    def _remember_append(self, entry: list[Any]) -> None:
        number, commit_id, tail = entry[0], entry[1], entry[2] + len(entry[3])
        found = self.by_number.get(number)
        head = self._removed.get(number) if found is None else found[1].head
        if head is not None:
            self.recent.add(commit_id, Applied(tail, head.timeline_at(tail)))
        else:
            # Of a stream that was gone before the snapshot was whole, the snapshot knows it.
            self.recent.add(commit_id, self.recent.get(commit_id) or Applied(tail))

    # Proving.

    def _prove_files(self) -> list[CorruptionError]:
        """Compare the stream files with what the snapshot proves and the journal holds; what is
        not there as proven.
        """
        damaged = []
        for number, (path, entity) in self.by_number.items():
            span = self._spans.get(number)
            head = entity.head
            proven = head.tail if span is None else span.begin
            size = self._disk.file_size(file_name(number)) if head.tail > head.start else None
            if proven > head.start and (size is None or size < proven - head.start):
                name = file_name(number)
                is_there = f"it has {size} of {proven - head.start} bytes"
                problem = "it is missing" if size is None else is_there
                damaged.append(
                    CorruptionError(
                        name, size or 0, f"{problem}; it holds the stream {path!r}", number=number
                    )
                )
                continue
            if self._set_aside and proven > head.start and not self._is_sound(entity, proven):
                damaged.append(
                    CorruptionError(
                        file_name(number),
                        0,
                        "its bytes are not those that were stored",
                        number=number,
                    )
                )
                continue
            entity.unverified = all_blocks(proven - head.start) & ~self._sound.get(number, 0)
            if size is not None and size > head.tail - head.start:
                self._cut[number] = head.tail - head.start
            if span is not None and not self._holds(entity, span, size):
                self._rewrite.add(number)
        for number in file_numbers(self._disk):
            found = self.by_number.get(number)
            if found is None or found[1].head.tail == found[1].head.start:
                self._remove.append(number)
        return damaged

    def _is_sound(self, entity: Stored, proven: int) -> bool:
        """Whether the bytes up to ``proven`` are those that were stored."""
        number = entity.number
        if number not in self._sound:
            span = self._spans.get(number)
            sums = entity.sums if span is None else span.begin_sums
            length = proven - entity.head.start
            if self.file_sums(number, 0, length) != sums:
                return False
            self._sound[number] = all_blocks(length)
        return True

    def _holds(self, entity: Stored, span: Span, size: int | None) -> bool:
        start = entity.head.start
        if self.files.distrusted or size is None or size < span.end - start:
            return False
        begin, end = span.begin - start, span.end - start
        return self.file_sums(entity.number, begin, end, span.begin_sums) == span.sums

    def lacks(self, number: int) -> bool:
        """Whether the entity's file has yet to be completed from the journal."""
        return number in self._rewrite

    def file_sums(self, number: int, begin: int, end: int, sums: Sums = NO_SUMS) -> Sums | None:
        """The sums of a file up to ``end``, going on from those up to ``begin``; None where it is
        shorter.
        """
        fd = self._disk.open(file_name(number))
        try:
            while begin < end:
                data = self._disk.read(fd, begin, min(_PIECE, end - begin))
                if not data:
                    return None
                sums = extend(sums, begin, data)
                begin += len(data)
        finally:
            self._disk.close(fd)
        return sums

    # Making it so.

    def settle(self) -> None:
        """Make the directory hold what was loaded, and no more."""
        disk, journal = self._disk, self.journal
        for name in JOURNAL, STREAMS:
            disk.make_directory(name)
        disk.sync_directory("")
        for run in journal.unsure:
            self._write_again(run)
        if journal.tail is not None and journal.tail.name not in journal.unused:
            fd = disk.open(journal.tail.name, write=True)
            try:
                disk.truncate(fd, journal.tail.position)
                disk.sync(fd)
            finally:
                disk.close(fd)
        # First what makes room, then what needs it.
        for number, length in self._cut.items():
            self.files.cut(number, length)
        for name in disk.names(""):
            if name.endswith(UNFINISHED) and name != FORMAT + UNFINISHED:
                disk.unlink(name)
        self.files.changed(number for number in self._spans if number in self.by_number)
        if self.report.set_aside:
            # They may hold what was lost.
            for number in self._remove:
                self._quarantine.move(file_name(number))
        self.files.remove(self._remove)
        self._complete_files()
        self.report.rewritten_files = len(self._rewrite)
        self.report.cut_files = len(self._cut)
        self.report.removed_files = len(self._remove)
        self._reset_working()
        give_back_memory()

    def _write_again(self, run: Unsure) -> None:
        fd = self._disk.open(run.name, write=True)
        try:
            for begin in range(run.begin, run.end, _PIECE):
                content = self._disk.read(fd, begin, min(_PIECE, run.end - begin))
                self._disk.write(fd, [content], begin)
            self._disk.sync(fd)
        finally:
            self._disk.close(fd)

    def _complete_files(self) -> None:
        """Write from the journal what the stream files lack."""
        if not self._rewrite:
            return
        gathered: dict[int, Write] = {}
        held, at_once = 0, _REWRITE_AT_ONCE
        sums = {number: self._spans[number].begin_sums for number in self._rewrite}
        ends = {number: self._spans[number].begin for number in self._rewrite}
        for group in self._groups():
            for entry in group.entries:
                number, position, data = entry[0], entry[2], entry[3]
                if not data or ends.get(number) != position:
                    continue
                ends[number] = position + len(data)
                write = gathered.get(number)
                if write is None:
                    start = self.by_number[number][1].head.start
                    write = gathered[number] = Write(
                        number, position - start, bytearray(), sums[number]
                    )
                    held += OVERHEAD
                write.data.extend(data)
                held += len(data)
            if held > at_once:
                if self._write(gathered, sums):
                    held = 0
                else:
                    at_once = sys.maxsize
        self._write(gathered, sums)
        for number, write in gathered.items():
            _, entity = self.by_number[number]
            entity.sums = sums[number]
            begin = entity.head.start + write.offset
            self.unsaved.append((entity, begin, bytes(write.data)))

    def _write(self, gathered: dict[int, Write], sums: dict[int, Sums]) -> bool:
        """Take out what could be written; False if the disk is full."""
        written = self.files.write(list(gathered.values()))
        for number, after in zip(list(gathered), written.sums, strict=False):
            sums[number] = after
            del gathered[number]
        if written.error is not None and not is_full(written.error):
            raise written.error
        return written.error is None

    # Quarantine.

    def _quarantine_damage(self, error: CorruptionError) -> None:
        """Take what is damaged, and what cannot be understood without it, out of the way."""
        quarantine = self._quarantine
        if error.number:
            self._dropped.add(error.number)
            path, _ = self.by_number[error.number]
            what = f"the stream {path!r}"
            if self._disk.file_size(error.name) is not None:
                quarantine.move(error.name)
        elif error.baseless:
            what = "everything"
            for name in snapshot_names(self._disk):
                quarantine.move(name)
            for name in self._disk.names(JOURNAL):
                quarantine.move(f"{JOURNAL}/{name}")
            for number in list(file_numbers(self._disk)):
                quarantine.move(file_name(number))
        else:
            what = f"the journal from byte {error.position} of {error.name} on"
            short = error.name.rpartition("/")[2]
            for name in self._disk.names(JOURNAL):
                if name > short or (name == short and not error.position):
                    quarantine.move(f"{JOURNAL}/{name}")
            if error.position:
                quarantine.cut(error.name, error.position)
        self.report.set_aside.append(f"{what}, because {error.problem}; see {quarantine.directory}")


def give_back_memory() -> None:
    """Return to the system what was needed for a while only, where the C library is asked to."""
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _with_tail(head: Head, tail: int) -> Head:
    return msgspec.structs.replace(head, tail=tail)
