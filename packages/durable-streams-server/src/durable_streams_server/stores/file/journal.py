"""The journal: a sequence of groups, in segments, each group one write and one sync.

A segment begins with a header and is filled with zeros a step ahead, so that a sync has no
metadata to write and a full disk shows before a group is begun, not within it. A group is

    salt  sequence  known durable  length  length of the array  CRC  CRC of this header
    the array of entries (`records`)
    large data

The salt is the segment's own and random, so that neither what an earlier group left there nor what
a client sends can be taken for a group. ``known durable`` is the last group that was surely on the
disk when this one was written: what tells a torn tail, which was never acknowledged, from
corruption.
"""

import struct
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from time import perf_counter
from typing import Final, NamedTuple

from durable_streams_server.stores.file.directory import FORMAT_VERSION, JOURNAL
from durable_streams_server.stores.file.disk import Disk
from durable_streams_server.stores.file.errors import NO_DESCRIPTOR, WriteFailedError, is_passing
from durable_streams_server.stores.file.meter import FileMeter
from durable_streams_server.stores.file.records import Entry, encode_group

SEGMENT_HEADER: Final = struct.Struct("<8sI16s8sQQI")
SEGMENT_MAGIC: Final = b"DSJOURNL"
GROUP_HEADER: Final = struct.Struct("<8sQQQIII")
SALT_LENGTH: Final = 8

RESERVE: Final = 256 * 1024
"""Bytes of each segment that only deletes may use, so that a full disk can be emptied."""

SMALL_GROUP: Final = 64 * 1024
"""A group of this size is what a probe of the store asks room for."""

_SMALLEST_STEP: Final = 128 * 1024
_LEAST_SEGMENT: Final = 64 * 1024
"""The least that a segment counts for: each has a cost at the next start, however short it is."""
_LARGEST_STEP: Final = 2 * 1024 * 1024
_ZEROS: Final = memoryview(bytes(_LARGEST_STEP))


class Segment(NamedTuple):
    """A segment that has ended: the number of its first group, and its length in bytes."""

    name: str
    first: int
    size: int


def shorten(disk: Disk, name: str) -> None:
    """Leave a segment without groups only its header."""
    fd = disk.open(name, write=True)
    try:
        disk.truncate(fd, min(disk.size(fd), SEGMENT_HEADER.size))
    finally:
        disk.close(fd)


def _weight(segment: Segment) -> int:
    return max(segment.size, _LEAST_SEGMENT)


def segment_name(ordinal: int) -> str:
    return f"{JOURNAL}/{ordinal:08d}.log"


class Journal:
    """The end of the journal, where groups are added. Not for two threads at once.

    ``draw`` gives random bytes. ``ordinal`` and ``sequence`` are those of the next segment and
    group, ``earlier`` the segments that are still there. Without a call of
    :meth:`begin`, the first append begins the segment.
    """

    def __init__(
        self,
        disk: Disk,
        store: bytes,
        *,
        sync: bool,
        segment_bytes: int,
        draw: Callable[[int], bytes],
        ordinal: int,
        sequence: int,
        meter: FileMeter,
        earlier: Sequence[Segment] = (),
    ) -> None:
        self._meter = meter
        self._disk = disk
        self._store = store
        self._sync = sync
        self._segment_bytes = segment_bytes
        self._draw = draw
        self._ordinal = ordinal
        self.sequence = sequence
        self.durable = sequence - 1
        self._earlier = list(earlier)
        self._earlier_bytes = sum(map(_weight, earlier))
        self._name = ""
        self._first = sequence
        self._fd = -1
        self._salt = b""
        self._position = 0
        self._filled = 0
        self._step = _SMALLEST_STEP
        self.written = 0
        """Bytes of all groups since the start."""

    @property
    def held(self) -> int:
        """Bytes in all segments that there are, written by this process or by one before it."""
        return self._earlier_bytes + self._position

    def append(
        self, now: int, entries: Sequence[Entry], large: Sequence[bytes], *, urgent: bool = False
    ) -> int:
        """Add a group and return its sequence number; durable when this returns, if so wished.

        Raises :class:`WriteFailedError` when nothing may be written any more. After any other error
        nothing was done. ``urgent`` groups may use the reserve.
        """
        body = encode_group(now, entries)
        length = len(body)
        crc = zlib.crc32(body)
        for piece in large:
            length += len(piece)
            crc = zlib.crc32(piece, crc)
        total = GROUP_HEADER.size + length
        if self._fd < 0:
            self.begin()
        elif self._position + total > self._segment_bytes:
            # The segment goes on while no other can be begun.
            with suppress(OSError, MemoryError):
                self.roll()
        position = self._position
        end = position + total
        if end + (0 if urgent else RESERVE) > self._filled:
            self._fill(end + RESERVE, required=end if urgent else end + RESERVE)
        header = GROUP_HEADER.pack(
            self._salt, self.sequence, self.durable, length, len(body), crc, 0
        )[:-4]
        header += zlib.crc32(header).to_bytes(4, "little")
        try:
            self._disk.write(self._fd, [header, body, *large], position)
        except (OSError, MemoryError) as error:
            self._cut(position)
            if is_passing(error):
                raise
            raise WriteFailedError(unsure=False) from error
        if self._sync:
            self._make_durable()
            self.durable = self.sequence
        self._position = end
        self.written += total
        self._meter.written += total
        self.sequence += 1
        return self.sequence - 1

    def make_ready(self) -> None:
        """Take up the room that a small group needs. Raises as :meth:`append` does."""
        if self._fd < 0:
            self.begin()
        end = self._position + SMALL_GROUP + RESERVE
        if end > self._filled:
            self._fill(end, required=end)

    def roll(self) -> None:
        """End this segment, unless it is empty, and begin another. Raises as :meth:`begin` does."""
        if self._position <= SEGMENT_HEADER.size:
            return
        self.flush()
        fd, ended = self._fd, Segment(self._name, self._first, self._position)
        try:
            self.begin()
        except (OSError, MemoryError) as error:
            if is_passing(error):
                raise
            raise WriteFailedError(unsure=False) from error
        self._earlier.append(ended)
        self._earlier_bytes += _weight(ended)
        try:
            self._disk.truncate(fd, ended.size)
        except OSError:
            pass  # only room that is not given back yet
        finally:
            self._disk.close(fd)

    def begin(self) -> None:
        """Begin a segment: usable only when its header and its name are durable.

        Raises ``OSError`` when there is none, :class:`WriteFailedError` when nothing may be written
        any more.
        """
        disk = self._disk
        name = segment_name(self._ordinal)
        salt = self._draw(SALT_LENGTH)
        header = SEGMENT_HEADER.pack(
            SEGMENT_MAGIC, FORMAT_VERSION, self._store, salt, self.sequence, self.durable, 0
        )[:-4]
        header += zlib.crc32(header).to_bytes(4, "little")
        fd = disk.open(name, create=True, write=True)
        try:
            disk.truncate(fd, 0)
            disk.write(fd, [header, _ZEROS[: _SMALLEST_STEP - len(header)]], 0)
        except (OSError, MemoryError):
            self._discard(fd, name)
            raise
        try:
            disk.sync(fd)
        except OSError as error:
            disk.close(fd)
            raise WriteFailedError(unsure=False) from error
        try:
            disk.sync_directory(JOURNAL)
        except OSError as error:
            if error.errno in NO_DESCRIPTOR:
                # It was not even opened, so nothing is lost.
                self._discard(fd, name)
                raise
            disk.close(fd)
            raise WriteFailedError(unsure=False) from error
        self._fd, self._salt = fd, salt
        self._position = len(header)
        self._filled = self._step = _SMALLEST_STEP
        self._ordinal += 1
        self._name, self._first = name, self.sequence

    def _discard(self, fd: int, name: str) -> None:
        """Remove a segment that could not be begun; its number is not used again."""
        self._ordinal += 1
        self._disk.close(fd)
        self._disk.unlink(name)

    def drop(self, through: int) -> None:
        """Remove the segments that hold nothing after group ``through``."""
        while self._earlier:
            following = self._earlier[1].first if len(self._earlier) > 1 else self._first
            if following > through + 1:
                return
            self._disk.unlink(self._earlier[0].name)
            self._earlier_bytes -= _weight(self._earlier.pop(0))

    def close(self, now: int, *, keep_time: bool = False) -> None:
        """Write an empty group, which proves that the one before it is complete, and close.
        ``keep_time`` writes it in any case, so that the next start knows the time.

        Raises :class:`WriteFailedError` if what was acknowledged may not be on the disk.
        """
        try:
            if self.written or keep_time:
                self.flush()
                self.append(now, (), (), urgent=True)
                self.flush()
                self._disk.truncate(self._fd, self._position)
        except OSError:
            pass  # the empty group only helps a later start to prove the ones before it
        finally:
            self.abandon()

    def flush(self) -> None:
        """Make everything so far durable, where it is not at once."""
        if self.durable < self.sequence - 1:
            self._make_durable()
            self.durable = self.sequence - 1

    def abandon(self) -> None:
        """Close the file as it is."""
        if self._fd >= 0:
            self._disk.close(self._fd)
            self._fd = -1

    def _make_durable(self) -> None:
        begun = perf_counter()
        try:
            self._disk.sync(self._fd)
        except OSError as error:
            raise WriteFailedError(unsure=True) from error
        finally:
            self._meter.syncs.observe(perf_counter() - begun)

    def _fill(self, wanted: int, *, required: int) -> None:
        """Fill the segment with zeros ahead of what is to be written."""
        before = self._filled
        while self._filled < wanted:
            count = self._step
            try:
                self._disk.write(self._fd, [_ZEROS[:count]], self._filled)
            except (OSError, MemoryError) as error:
                self._cut(self._filled)
                if not is_passing(error):
                    raise WriteFailedError(unsure=False) from error
                if count > _SMALLEST_STEP:
                    self._step = _SMALLEST_STEP
                    continue
                if self._filled >= required:
                    return
                self._cut(before)
                raise
            self._filled += count
            self._step = min(self._step * 2, _LARGEST_STEP)

    def _cut(self, length: int) -> None:
        """Take back what a failed write left."""
        try:
            self._disk.truncate(self._fd, length)
        except OSError as error:
            raise WriteFailedError(unsure=False) from error
        self._filled = min(self._filled, length)
