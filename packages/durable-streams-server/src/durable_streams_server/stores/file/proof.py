"""Compares the data files with what the snapshot proves and the journal holds. Only reads."""

from collections.abc import MutableMapping
from typing import Final

from durable_streams_server.stores.file.data_files import file_name, file_numbers
from durable_streams_server.stores.file.disk import Disk
from durable_streams_server.stores.file.journal_reader import CorruptionError
from durable_streams_server.stores.file.replay import Replay, Span
from durable_streams_server.stores.file.sums import NO_SUMS, Sums, all_blocks, extend
from durable_streams_server.stores.file.write_behind import Stored

_PIECE: Final = 1024 * 1024


class Proof:
    """How the data files differ from what was stored."""

    def __init__(
        self,
        disk: Disk,
        replay: Replay,
        *,
        distrusted: bool,
        thorough: bool,
        sound: MutableMapping[int, int],
    ) -> None:
        """Look at every file.

        With ``distrusted``, no file is believed to hold the journal's bytes. ``thorough`` reads
        what is proven of each file; ``sound`` keeps the blocks that were found as they were stored,
        by the entity's number, so that a second proof does not read them again.
        """
        self._disk = disk
        self._spans = replay.spans
        self._distrusted = distrusted
        self._thorough = thorough
        self._sound = sound
        self.damaged: list[CorruptionError] = []
        """Files that do not hold what is proven."""
        self.incomplete: set[int] = set()
        """Entities whose files lack bytes that the journal has."""
        self.too_long: dict[int, int] = {}
        """The right length of files that hold more than their entity."""
        self.unowned: list[int] = []
        """Files that belong to no entity."""
        for number, (path, entity) in replay.by_number.items():
            damage = self._examine(number, path, entity)
            if damage is not None:
                self.damaged.append(damage)
        for number in file_numbers(disk):
            named = replay.by_number.get(number)
            if named is None or named[1].head.tail == named[1].head.start:
                self.unowned.append(number)

    def _examine(self, number: int, path: str, entity: Stored) -> CorruptionError | None:
        span = self._spans.get(number)
        head = entity.head
        proven = head.tail if span is None else span.begin
        size = self._disk.file_size(file_name(number)) if head.tail > head.start else None
        if proven > head.start and (size is None or size < proven - head.start):
            is_there = f"it has {size} of {proven - head.start} bytes"
            problem = "it is missing" if size is None else is_there
            return CorruptionError(
                file_name(number),
                size or 0,
                f"{problem}; it holds the stream {path!r}",
                number=number,
            )
        if self._thorough and proven > head.start and not self._is_sound(entity, proven):
            problem = "its bytes are not those that were stored"
            return CorruptionError(file_name(number), 0, problem, number=number)
        entity.unverified = all_blocks(proven - head.start) & ~self._sound.get(number, 0)
        if size is not None and size > head.tail - head.start:
            self.too_long[number] = head.tail - head.start
        if span is not None and not self._holds(entity, span, size):
            self.incomplete.add(number)
        return None

    def _is_sound(self, entity: Stored, proven: int) -> bool:
        """Whether the bytes up to ``proven`` are those that were stored."""
        number = entity.number
        if number not in self._sound:
            span = self._spans.get(number)
            sums = entity.sums if span is None else span.begin_sums
            length = proven - entity.head.start
            if file_sums(self._disk, number, 0, length) != sums:
                return False
            self._sound[number] = all_blocks(length)
        return True

    def _holds(self, entity: Stored, span: Span, size: int | None) -> bool:
        """Whether an entity's file has the journal's bytes."""
        start = entity.head.start
        if span.begin == span.end:
            return True
        if self._distrusted or size is None or size < span.end - start:
            return False
        begin, end = span.begin - start, span.end - start
        return file_sums(self._disk, entity.number, begin, end, span.begin_sums) == span.sums


def file_sums(disk: Disk, number: int, begin: int, end: int, sums: Sums = NO_SUMS) -> Sums | None:
    """The sums of a data file up to ``end``, going on from those up to ``begin``.

    None where the file is shorter.
    """
    fd = disk.open(file_name(number))
    try:
        while begin < end:
            data = disk.read(fd, begin, min(_PIECE, end - begin))
            if not data:
                return None
            sums = extend(sums, begin, data)
            begin += len(data)
    finally:
        disk.close(fd)
    return sums
