"""Moving everything from one store to another, through an archive: offsets, forks, producers,
subscriptions and incarnations stay as they are, so readers resume and ETags hold.

An archive is a row of frames, each with length and CRC: a beginning, then of each entity its head,
pages of its fields and pieces of its bytes, then an end that counts them. It is made while the
source is not written to, or shows each entity as it was at one moment.
"""

import struct
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import IO, Any, Final
from uuid import uuid4

import msgspec

from durable_streams_core.entities import (
    DELETED,
    Applied,
    Commit,
    Conflicted,
    Delta,
    Guard,
    Head,
    Outcome,
    Unknown,
)
from durable_streams_core.errors import StoreError
from durable_streams_core.store import Store

PIECE: Final = 1024 * 1024
PAGE: Final = 500
PATIENCE: Final = 24 * 60 * 60 * 1000
"""Milliseconds after which the sweeper removes what an import that was broken off has left."""
_NAME: Final = "durable-streams archive"
_VERSION: Final = 1
_FRAME: Final = struct.Struct("<II")
_LONGEST_FRAME: Final = 64 * 1024 * 1024

Progress = Callable[[int, int], None]
"""Hears how many bytes of how many are through."""


class Beginning(msgspec.Struct, frozen=True, tag="beginning"):
    format: str
    version: int
    bytes: int


class Entity(msgspec.Struct, frozen=True, tag="entity"):
    path: str
    head: Head


class Fields(msgspec.Struct, frozen=True, tag="fields"):
    values: dict[str, bytes]


class Piece(msgspec.Struct, frozen=True, tag="piece"):
    data: bytes


class Ending(msgspec.Struct, frozen=True, tag="ending"):
    entities: int


Frame = Beginning | Entity | Fields | Piece | Ending

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Frame)


async def export_store(store: Store, file: IO[bytes], progress: Progress) -> int:
    """Write everything that an open store holds; the number of streams and subscriptions."""
    heads = [row async for row in _everything(store)]
    everything = sum(head.tail - head.start for _, head in heads)
    _write(file, Beginning(_NAME, _VERSION, everything))
    done = count = 0
    for path, _ in heads:
        facts = await store.load(path)
        if facts is None:
            continue  # removed meanwhile
        head = facts.head
        _write(file, Entity(path, head))
        for kind in facts.counts:
            async for page in _fields(store, path, head, kind):
                _write(file, Fields(page))
        position = head.start
        while position < head.tail:
            limit = min(PIECE, head.tail - position)
            piece = await store.read(path, head.incarnation, position, limit)
            if piece is None or not piece.data:
                raise StoreError(f"{path!r} was removed while it was exported; export again.")
            _write(file, Piece(piece.data))
            position += len(piece.data)
            done += len(piece.data)
            progress(done, max(done, everything))
        count += 1
    _write(file, Ending(count))
    return count


async def import_store(store: Store, file: IO[bytes], progress: Progress) -> int:
    """Put everything of an archive into an open store; the number of streams and subscriptions.

    Nothing is served before it is whole; what an import that was broken off has left is replaced.
    Raises :class:`StoreError` for a damaged archive and for a path that is taken.
    """
    frames = _frames(file)
    beginning = next(frames, None)
    if not isinstance(beginning, Beginning) or beginning.format != _NAME:
        raise StoreError("The file is no archive that this command has written.")
    if beginning.version > _VERSION:
        raise StoreError(
            f"The archive has version {beginning.version} and this server knows up to {_VERSION}: "
            "install a newer one."
        )
    arriving: _Arriving | None = None
    done = count = 0
    for frame in frames:
        if arriving is not None and not isinstance(frame, Fields | Piece):
            await arriving.finish()
            arriving = None
        match frame:
            case Entity():
                arriving = _Arriving(store, frame)
                await arriving.begin()
                count += 1
            case Fields() if arriving is not None:
                await arriving.commit(Delta(fields=dict(frame.values)))
            case Piece() if arriving is not None:
                await arriving.commit(Delta(data=frame.data))
                done += len(frame.data)
                progress(done, max(done, beginning.bytes))
            case Ending() if frame.entities == count and next(frames, None) is None:
                return count
            case _:
                break
    raise StoreError("The archive is cut off or damaged. Export it again; what arrived is whole.")


class _Arriving:
    """An entity on its way in: kept out of sight as a soft-deleted one is, until it is whole. One
    that never gets whole is reaped as such.
    """

    def __init__(self, store: Store, entity: Entity) -> None:
        self._store = store
        self._path = entity.path
        self._head = entity.head
        self._tail = entity.head.start

    async def begin(self) -> None:
        head = self._head
        deadline = self._store.now() + PATIENCE
        empty = msgspec.structs.replace(
            head, tail=head.start, closed=False, state=DELETED, deadline=deadline
        )
        facts = await self._store.load(self._path)
        guard, delta = Guard(None), Delta(create=empty)
        if facts is not None:
            there = facts.head
            if there.incarnation != head.incarnation or there.state != DELETED:
                raise StoreError(
                    f"{self._path!r} is there already, so the import stops before it. Import into an "
                    "empty store, or delete that stream first."
                )
            guard, delta = Guard(head.incarnation), Delta(remove=True, create=empty)
        await self._apply(guard, delta)

    async def commit(self, delta: Delta) -> None:
        await self._apply(Guard(self._head.incarnation), delta)

    async def finish(self) -> None:
        head = self._head
        if self._tail != head.tail:
            raise StoreError(f"The archive lacks bytes of {self._path!r}: it is damaged.")
        await self.commit(Delta(close=head.closed, state=head.state, deadline=head.deadline))

    async def _apply(self, guard: Guard, delta: Delta) -> None:
        commit = Commit(uuid4().hex, self._path, guard, delta, self._tail)
        outcome: Outcome = Unknown("")
        for _ in range(5):
            (outcome,) = await self._store.commit([commit])
            if not isinstance(outcome, Unknown):
                break
        match outcome:
            case Applied():
                self._tail = outcome.tail
            case Conflicted():
                raise StoreError(f"{self._path!r} was changed by someone else during the import.")
            case _:
                raise StoreError(f"{self._path!r} could not be stored: {outcome.message}")


async def _everything(store: Store) -> AsyncIterator[tuple[str, Head]]:
    after = ""
    while True:
        page: Sequence[tuple[str, Head]] = await store.list("", after, PAGE)
        for row in page:
            yield row
        if len(page) < PAGE:
            return
        after = page[-1][0]


async def _fields(
    store: Store, path: str, head: Head, kind: str
) -> AsyncIterator[dict[str, bytes]]:
    after = ""
    while True:
        page = await store.scan(path, head.incarnation, kind, after, PAGE)
        if page:
            yield dict(page)
            after = page[-1][0]
        if len(page) < PAGE:
            return


def _write(file: IO[bytes], frame: Frame) -> None:
    content = _encoder.encode(frame)
    file.write(_FRAME.pack(len(content), zlib.crc32(content)))
    file.write(content)


def _frames(file: IO[bytes]) -> Iterator[Any]:
    """The frames up to the end, or up to the first that is not whole."""
    while len(start := file.read(_FRAME.size)) == _FRAME.size:
        length, crc = _FRAME.unpack(start)
        if length > _LONGEST_FRAME:
            return
        content = file.read(length)
        if len(content) < length or zlib.crc32(content) != crc:
            return
        try:
            yield _decoder.decode(content)
        except msgspec.MsgspecError:
            return
