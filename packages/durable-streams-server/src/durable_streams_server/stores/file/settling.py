"""Makes a directory hold what was recovered from it, and no more.

A torn tail of the journal is cut. The last groups are written again unless a later group says that
they are on the disk: a sync that failed before a crash may have left them in the system's cache
only. Data files are cut, removed, or completed from the journal.
"""

import sys
from typing import Final

from durable_streams_server.stores.file.data_files import FileWriter, Write, file_name
from durable_streams_server.stores.file.directory import FORMAT, JOURNAL, STREAMS, UNFINISHED
from durable_streams_server.stores.file.disk import Disk
from durable_streams_server.stores.file.errors import is_full
from durable_streams_server.stores.file.journal_reader import Unsure
from durable_streams_server.stores.file.proof import Proof
from durable_streams_server.stores.file.quarantine import Quarantine
from durable_streams_server.stores.file.replay import Replay
from durable_streams_server.stores.file.write_behind import OVERHEAD, Stored

_PIECE: Final = 1024 * 1024
_REWRITE_AT_ONCE: Final = 32 * 1024 * 1024

Unsaved = tuple[Stored, int, bytes]
"""An entity, and bytes of the journal that its file lacks, from a position on."""


def settle(
    disk: Disk,
    replay: Replay,
    proof: Proof,
    files: FileWriter,
    quarantine: Quarantine | None,
) -> list[Unsaved]:
    """Write what is missing and take away what is too much.

    Files that belong to no entity are removed, and those that are too long are cut. Where something
    was lost, which they may hold, they go or are copied to ``quarantine``. Returns what a full disk
    has no room for.
    """
    for name in JOURNAL, STREAMS:
        disk.make_directory(name)
    disk.sync_directory("")
    for run in replay.journal.unsure:
        _write_again(disk, run)
    _cut_torn_tail(disk, replay)
    # First what makes room, then what needs it.
    for number, length in proof.too_long.items():
        if quarantine is not None:
            quarantine.copy(file_name(number))
        files.cut(number, length)
    for name in disk.names(""):
        if name.endswith(UNFINISHED) and name != FORMAT + UNFINISHED:
            disk.unlink(name)
    files.changed(number for number in replay.spans if number in replay.by_number)
    if quarantine is not None:
        for number in proof.unowned:
            quarantine.move(file_name(number))
    files.remove(proof.unowned)
    if not proof.incomplete:
        return []
    return _Completion(replay, proof, files).run()


def _write_again(disk: Disk, run: Unsure) -> None:
    fd = disk.open(run.name, write=True)
    try:
        for begin in range(run.begin, run.end, _PIECE):
            content = disk.read(fd, begin, min(_PIECE, run.end - begin))
            disk.write(fd, [content], begin)
        disk.sync(fd)
    finally:
        disk.close(fd)


def _cut_torn_tail(disk: Disk, replay: Replay) -> None:
    journal = replay.journal
    if journal.tail is None or journal.tail.name in journal.unused:
        return
    fd = disk.open(journal.tail.name, write=True)
    try:
        disk.truncate(fd, journal.tail.position)
        disk.sync(fd)
    finally:
        disk.close(fd)


class _Completion:
    """Writes to data files what they lack of the journal's bytes."""

    def __init__(self, replay: Replay, proof: Proof, files: FileWriter) -> None:
        self._replay = replay
        self._files = files
        self._gathered: dict[int, Write] = {}
        """The next writes, by the entity's number."""
        spans = replay.spans
        self._sums = {number: spans[number].begin_sums for number in proof.incomplete}
        self._ends = {number: spans[number].begin for number in proof.incomplete}

    def run(self) -> list[Unsaved]:
        """Read the journal again, and write; returns what a full disk has no room for."""
        held, at_once = 0, _REWRITE_AT_ONCE
        for group in self._replay.journal_groups():
            for entry in group.entries:
                held += self._gather(entry[0], entry[2], entry[3])
            if held > at_once:
                if self._write():
                    held = 0
                else:
                    at_once = sys.maxsize
        self._write()
        return [self._unsaved(number, write) for number, write in self._gathered.items()]

    def _gather(self, number: int, position: int, data: bytes) -> int:
        """Add an entry's data to what is to be written; returns how much memory that takes."""
        if not data or self._ends.get(number) != position:
            return 0
        self._ends[number] = position + len(data)
        write = self._gathered.get(number)
        size = len(data)
        if write is None:
            start = self._replay.by_number[number][1].head.start
            write = Write(number, position - start, bytearray(), self._sums[number])
            self._gathered[number] = write
            size += OVERHEAD
        write.data.extend(data)
        return size

    def _write(self) -> bool:
        """Take out what could be written; False if the disk is full."""
        written = self._files.write(list(self._gathered.values()))
        for number, after in zip(list(self._gathered), written.sums, strict=False):
            self._sums[number] = after
            del self._gathered[number]
        if written.error is not None and not is_full(written.error):
            raise written.error
        return written.error is None

    def _unsaved(self, number: int, write: Write) -> Unsaved:
        _, entity = self._replay.by_number[number]
        entity.sums = self._sums[number]
        return entity, entity.head.start + write.offset, bytes(write.data)
