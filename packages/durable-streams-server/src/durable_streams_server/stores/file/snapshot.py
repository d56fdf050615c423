"""Snapshots: every entity as it was after some group, with a proof of its bytes.

The file is a row of frames, each with its length and CRC:

    {what is true of the whole: `Cover`}
    [seen, [entity, …]]    a slice: the entities as they were after group ``seen``
    …
    [count, [`Done`, …]]    the end: how many entities there were, and the latest commits

Slices are taken one after another while commits go on, so each says after which group it was
taken: a group up to that one changes its entities no more. Bytes are proven up to ``proven``,
which is never before the tail that the entity had at ``Cover.through``; what comes after is in the
journal.
"""

import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec

from durable_streams_core.entities import Head
from durable_streams_core.offsets import NO_TIMELINE
from durable_streams_server.stores.file.directory import SNAPSHOT, UNFINISHED, read_whole
from durable_streams_server.stores.file.disk import Disk
from durable_streams_server.stores.file.journal_reader import CorruptionError
from durable_streams_server.stores.file.sums import Sums
from durable_streams_server.stores.file.write_behind import Stored

_MAGIC: Final = b"DSSNAPS2"
_MAGIC_WITHOUT_BLOCKS: Final = b"DSSNAPSH"
_FRAME: Final = struct.Struct("<QII")

_encoder: Final = msgspec.msgpack.Encoder()


class Cover(msgspec.Struct, frozen=True):
    """``through`` is the last group that all slices hold, ``numbers`` the next entity's number,
    ``last_timeline`` the latest timeline that was given.
    """

    store: str
    through: int
    numbers: int
    now: int
    last_timeline: bytes = NO_TIMELINE


class SnapshotEntity(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An entity in a snapshot: its head, taken apart, and the proof of its bytes."""

    number: int
    path: str
    incarnation: str
    birth: bytes
    start: int
    tail: int
    closed: bool
    state: str
    deadline: int
    proven: int
    crc: int
    """Of what follows the whole blocks; of all bytes, where a snapshot is without blocks."""
    fields: dict[str, bytes] | None
    timeline: bytes = NO_TIMELINE
    past: tuple[tuple[bytes, int], ...] = ()
    blocks: bytes = b""

    @property
    def head(self) -> Head:
        return Head(
            self.incarnation, self.birth, self.start, self.tail, self.closed, self.state,
            self.deadline, self.timeline, self.past,
        )  # fmt: skip


class Done(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The outcome of one of the latest commits."""

    id: str
    tail: int
    timeline: bytes = NO_TIMELINE


_cover: Final = msgspec.msgpack.Decoder(Cover)
_slice: Final = msgspec.msgpack.Decoder(tuple[int, list[SnapshotEntity]])
_end: Final = msgspec.msgpack.Decoder(tuple[int, list[Done]])


def keep(path: str, entity: Stored, proven: int, sums: Sums) -> SnapshotEntity:
    """An entity as it is now, with the proof of its bytes."""
    head = entity.head
    return SnapshotEntity(
        entity.number, path, head.incarnation, head.birth, head.start, head.tail, head.closed,
        head.state, head.deadline, proven, sums.rest, dict(entity.fields) if entity.fields else None,
        head.timeline, head.past, sums.full,
    )  # fmt: skip


def snapshot_name(through: int) -> str:
    return f"{SNAPSHOT}{through:016x}"


class SnapshotWriter:
    """Writes a snapshot aside, and puts it into effect at the end."""

    def __init__(self, disk: Disk, cover: Cover) -> None:
        self._disk = disk
        self._name = snapshot_name(cover.through)
        self._position = 0
        self._count = 0
        self._fd = disk.open(self._name + UNFINISHED, create=True, write=True)
        try:
            disk.truncate(self._fd, 0)
            self._frame(_MAGIC + _encoder.encode(cover))
        except BaseException:
            self.abandon()
            raise

    def add(self, seen: int, entities: Sequence[SnapshotEntity]) -> None:
        self._count += len(entities)
        self._frame(_encoder.encode((seen, entities)))

    def finish(self, recent: Sequence[Done]) -> None:
        """Make it the snapshot that counts; durable when this returns."""
        self._frame(_encoder.encode((self._count, recent)))
        self._disk.sync(self._fd)
        self._disk.close(self._fd)
        self._fd = -1
        self._disk.rename(self._name + UNFINISHED, self._name)
        self._disk.sync_directory("")
        for name in snapshot_names(self._disk):
            if name != self._name:
                self._disk.unlink(name)

    def abandon(self) -> None:
        """Remove what is not finished."""
        if self._fd >= 0:
            self._disk.close(self._fd)
            self._fd = -1
        with suppress(FileNotFoundError):
            self._disk.unlink(self._name + UNFINISHED)

    def _frame(self, content: bytes) -> None:
        head = _FRAME.pack(len(content), zlib.crc32(content), 0)[:-4]
        head += zlib.crc32(head).to_bytes(4, "little")
        self._disk.write(self._fd, [head, content], self._position)
        self._position += len(head) + len(content)


def snapshot_names(disk: Disk) -> list[str]:
    """Finished snapshots, oldest first."""
    return sorted(
        name
        for name in disk.names("")
        if name.startswith(SNAPSHOT) and not name.endswith(UNFINISHED)
    )


def snapshot_bytes(disk: Disk) -> int:
    """The length of the newest finished snapshot, 0 if there is none."""
    names = snapshot_names(disk)
    return (disk.file_size(names[-1]) or 0) if names else 0


class SnapshotReader:
    """A finished snapshot. Raises :class:`CorruptionError` wherever it is not whole."""

    def __init__(self, disk: Disk, name: str, store: str) -> None:
        self.name = name
        self._frames = self._read_frames(read_whole(disk, name) or b"")
        content = next(self._frames)
        magic = bytes(content[:8])
        self.with_blocks = magic == _MAGIC
        if magic not in (_MAGIC, _MAGIC_WITHOUT_BLOCKS):
            raise CorruptionError(name, 0, "it does not begin as a snapshot does", baseless=True)
        self.cover = self._decode(_cover, content[8:])
        if self.cover.store != store:
            raise CorruptionError(name, 0, "it belongs to another store", baseless=True)
        self.recent: list[Done] = []

    def slices(self) -> Iterator[tuple[int, list[SnapshotEntity]]]:
        """Slices of entities, each with the group up to which it has seen the journal.

        Read them once, to the end: then ``recent`` is known.
        """
        count = 0
        content = next(self._frames, memoryview(b""))
        for following in self._frames:
            seen, entities = self._decode(_slice, content)
            count += len(entities)
            yield seen, entities
            content = following
        wanted, self.recent = self._decode(_end, content)
        if count != wanted:
            raise CorruptionError(
                self.name, 0, f"{wanted} entities were written and {count} are there", baseless=True
            )

    def _decode(self, decoder: "msgspec.msgpack.Decoder[Any]", content: memoryview) -> Any:
        try:
            return decoder.decode(content)
        except msgspec.MsgspecError as error:
            raise CorruptionError(
                self.name, 0, f"it is not understood ({error})", baseless=True
            ) from error

    def _read_frames(self, content: bytes) -> Iterator[memoryview]:
        view = memoryview(content)
        position = 0
        while position < len(view) or position == 0:
            begin = position + _FRAME.size
            head = view[position:begin]
            if len(head) < _FRAME.size or zlib.crc32(head[:-4]) != int.from_bytes(
                head[-4:], "little"
            ):
                raise CorruptionError(
                    self.name, position, "it is cut off or was changed", baseless=True
                )
            length, crc, _ = _FRAME.unpack(head)
            frame = view[begin : begin + length]
            if len(frame) < length or zlib.crc32(frame) != crc:
                raise CorruptionError(
                    self.name, position, "it is cut off or was changed", baseless=True
                )
            yield frame
            position = begin + length
