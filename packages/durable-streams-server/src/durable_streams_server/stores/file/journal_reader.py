"""Reading the journal: which groups are whole, what is a torn tail and what is corruption.

A group that is not whole was torn by a crash if it was never acknowledged: if no header that came
after it, of a group or of a segment, says that it was known durable. Otherwise the disk lost or
changed what it had promised to keep, and only the user can decide what to do.
"""

import zlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec

from durable_streams_core.errors import StoreError
from durable_streams_server.stores.file.directory import JOURNAL, read_whole
from durable_streams_server.stores.file.disk import Disk
from durable_streams_server.stores.file.journal import (
    GROUP_HEADER,
    SALT_LENGTH,
    SEGMENT_HEADER,
    SEGMENT_MAGIC,
    Segment,
)
from durable_streams_server.stores.file.records import decode_group


class CorruptionError(StoreError):
    """Something that was surely stored is not there any more as it was.

    ``name`` and ``position`` say where; ``number`` is the entity whose bytes they are, if known.
    ``baseless`` says that nothing after it can be made sense of.
    """

    def __init__(
        self, name: str, position: int, problem: str, *, number: int = 0, baseless: bool = False
    ) -> None:
        super().__init__(
            f"{name} is damaged at byte {position}: {problem}. Nothing was changed. Restore the "
            "directory from a backup, or open it with ?corruption=set-aside to go on without what "
            "is damaged."
        )
        self.name = name
        self.position = position
        self.problem = problem
        self.number = number
        self.baseless = baseless


class JournalGroup(NamedTuple):
    """A group that was read; ``begin`` and ``end`` are its place in the segment ``name``."""

    sequence: int
    now: int
    entries: list[list[Any]]
    name: str
    begin: int
    end: int


class Tail(NamedTuple):
    """Where the last segment ends to count, and how many bytes behind it do not."""

    name: str
    position: int
    torn: int


class Unsure(NamedTuple):
    """A run of groups up to ``last`` in one segment, from byte ``begin`` to byte ``end``."""

    name: str
    begin: int
    end: int
    last: int


class _Opened(NamedTuple):
    name: str
    ordinal: int
    salt: bytes
    first: int
    durable: int


class JournalReader:
    """The journal as it is found. :meth:`groups` may be gone through more than once."""

    def __init__(self, disk: Disk, store: bytes) -> None:
        self._disk = disk
        self._store = store
        self._opened: list[_Opened] = []
        self._headless: list[str] = []
        self.unused: list[str] = []
        """Segments that hold nothing: begun, and not used before the crash."""
        self.tail: Tail | None = None
        self.unsure: list[Unsure] = []
        """What nothing vouches for yet: whole as read, but maybe not on the disk."""
        self.last = 0
        """The last group that there was, as the groups and what vouches for them say."""
        names = sorted(
            (int(name[:-4]), name)
            for name in disk.names(JOURNAL)
            if name.endswith(".log") and name[:-4].isdecimal()
        )
        self.next_ordinal = names[-1][0] + 1 if names else 1
        for ordinal, short in names:
            name = f"{JOURNAL}/{short}"
            header = self._header(name, ordinal)
            if header is None:
                self._headless.append(name)
            else:
                self._opened.append(header)

    def segments(self) -> list[Segment]:
        """The segments that hold groups, once all were read."""
        return [
            Segment(each.name, each.first, self._disk.file_size(each.name) or 0)
            for each in self._opened
            if each.name not in self.unused
        ]

    def groups(self, after: int, *, may_end_early: bool = False) -> Iterator[JournalGroup]:
        """All groups past ``after``, in order; raises :class:`CorruptionError`, also when groups
        up to ``after`` are missing at the end, unless that may be.
        """
        opened = self._opened
        self.tail = None
        self.unsure = []
        self.unused = self._headless[:]
        self.last = max((each.durable for each in opened), default=0)
        if opened and opened[0].first > after + 1:
            raise CorruptionError(
                opened[0].name,
                0,
                f"it begins with group {opened[0].first}, and nothing holds the groups from "
                f"{after + 1} to {opened[0].first - 1}: a snapshot or a segment is missing",
                baseless=True,
            )
        expected = after + 1
        vouched_by_later = _greatest_after(each.durable for each in opened)
        for index, segment in enumerate(opened):
            vouched = vouched_by_later[index]
            ends = opened[index + 1].first if index + 1 < len(opened) else None
            for group in self._segment(segment, expected, vouched, ends):
                expected = group.sequence + 1
                yield group
        if self.last < after and not may_end_early:
            name = opened[-1].name if opened else JOURNAL
            raise CorruptionError(
                name, 0, f"groups {self.last + 1} to {after} were written after it and are missing"
            )

    def _header(self, name: str, ordinal: int) -> _Opened | None:
        size = SEGMENT_HEADER.size
        fd = self._disk.open(name)
        try:
            head = self._disk.read(fd, 0, size)
            whole = len(head) == size and zlib.crc32(head[:-4]) == int.from_bytes(
                head[-4:], "little"
            )
            if not whole:
                rest = self._disk.read(fd, size, self._disk.size(fd))
                if not rest.strip(b"\0"):
                    return None  # torn while it was begun, and never used
        finally:
            self._disk.close(fd)
        if not whole:
            raise CorruptionError(name, 0, "its header is not as it was written")
        magic, _, store, salt, first, durable, _ = SEGMENT_HEADER.unpack(head)
        if magic != SEGMENT_MAGIC or store != self._store:
            raise CorruptionError(name, 0, "it belongs to another store")
        return _Opened(name, ordinal, salt, first, durable)

    def _segment(
        self, segment: _Opened, expected: int, vouched: int, ends: int | None
    ) -> Iterator[JournalGroup]:
        """The groups of a segment from ``expected`` on; the next segment begins with ``ends``."""
        content = read_whole(self._disk, segment.name) or b""
        view = memoryview(content)
        position = SEGMENT_HEADER.size
        sequence = segment.first
        while True:
            group = _parse(view, position, segment.salt)
            if group is None or group.sequence != sequence:
                later = _later_headers(content, view, position + 1, segment.salt)
                following = next(later, None)
                if sequence < expected and following is not None:
                    # Damage in what a snapshot holds as well: go on behind it.
                    position, sequence = following.begin, following.sequence
                    continue
                if following is not None:
                    vouched = max(vouched, following.durable, *(each.durable for each in later))
                if sequence != ends and sequence <= vouched:
                    if sequence >= expected:
                        raise CorruptionError(
                            segment.name,
                            position,
                            f"group {sequence} was stored there and is not whole any more",
                        )
                    return
                torn = len(content[position:].rstrip(b"\0"))
                if position == SEGMENT_HEADER.size and not torn:
                    self.unused.append(segment.name)
                self.tail = Tail(segment.name, position, torn)
                return
            if sequence > expected:
                raise CorruptionError(
                    segment.name, position, f"group {expected} should be there, not {sequence}"
                )
            self.last = max(self.last, sequence)
            if sequence == expected:
                yield self._decoded(segment, group, view)
                expected += 1
            sequence += 1
            position = group.end

    def _decoded(self, segment: _Opened, found: "_Parsed", view: memoryview) -> JournalGroup:
        body_end = found.begin + GROUP_HEADER.size + found.body
        try:
            now, entries = decode_group(
                view[found.begin + GROUP_HEADER.size : body_end], view[body_end : found.end]
            )
        except msgspec.MsgspecError as error:
            raise CorruptionError(
                segment.name, found.begin, f"group {found.sequence} is not understood ({error})"
            ) from error
        unsure = self.unsure
        while unsure and unsure[0].last <= found.durable:
            del unsure[0]
        begin = found.begin
        if unsure and unsure[-1].name == segment.name:
            begin = unsure.pop().begin
        unsure.append(Unsure(segment.name, begin, found.end, found.sequence))
        return JournalGroup(found.sequence, now, entries, segment.name, found.begin, found.end)


class _Parsed(NamedTuple):
    sequence: int
    durable: int
    begin: int
    end: int
    body: int


def _parse_header(view: memoryview, position: int, salt: bytes) -> tuple[_Parsed, int] | None:
    """A header and the CRC of what follows it, whole or not."""
    body_begin = position + GROUP_HEADER.size
    header = view[position:body_begin]
    if header[:SALT_LENGTH] != salt or len(header) < GROUP_HEADER.size:
        return None
    _, sequence, durable, length, body, crc, own = GROUP_HEADER.unpack(header)
    if zlib.crc32(header[:-4]) != own:
        return None
    return _Parsed(sequence, durable, position, body_begin + length, body), crc


def _parse(view: memoryview, position: int, salt: bytes) -> _Parsed | None:
    """The whole group at a position."""
    header = _parse_header(view, position, salt)
    if header is None:
        return None
    parsed, crc = header
    begin = position + GROUP_HEADER.size
    if parsed.end > len(view) or zlib.crc32(view[begin : parsed.end]) != crc:
        return None
    return parsed


def _later_headers(content: bytes, view: memoryview, start: int, salt: bytes) -> Iterator[_Parsed]:
    position = content.find(salt, start)
    while position >= 0:
        header = _parse_header(view, position, salt)
        if header is not None:
            yield header[0]
        position = content.find(salt, position + 1)


def _greatest_after(numbers: Iterable[int]) -> list[int]:
    """For each number the greatest of those after it, 0 for the last."""
    greatest = [0]
    for number in reversed(list(numbers)):
        greatest.append(max(greatest[-1], number))
    return greatest[-2::-1]
