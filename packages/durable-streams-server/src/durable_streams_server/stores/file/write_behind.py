"""The streams' bytes on their way to the files: written behind, from what is durable already.

A commit's bytes are durable in the journal. Here they first stay in memory, and go to the stream's
file when enough has gathered, or at a checkpoint. So an append costs no write to a file of its own,
and a short-lived stream has no file at all. Large data goes another way: see `direct`.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Final

import msgspec

from durable_streams_server.stores.file.data_files import FileWriter, Write, Written
from durable_streams_server.stores.file.sums import NO_SUMS, Sums
from durable_streams_server.stores.file.worker import Worker
from durable_streams_server.stores.table import Entity

OVERHEAD: Final = 256
"""What keeping some unsaved bytes of one stream costs beside them, about."""
BLOCK: Final = 4096
"""Bytes by which a file grows on the disk."""
AT_ONCE: Final = 1000
"""Streams that are written to their files in one go, so that the event loop is not held."""


class Unsaved(msgspec.Struct, eq=False, gc=False):
    """Bytes that are not in the stream's file yet: from position ``begin``, what is being written
    now (``leaving``) and then what came since (``fresh``).
    """

    begin: int
    gone: bool = False
    leaving: bytearray | None = None
    fresh: bytearray = msgspec.field(default_factory=bytearray)

    def read(self, start: int, limit: int) -> bytes:
        """At most ``limit`` bytes from position ``start``, which is not before ``begin``."""
        offset = start - self.begin
        leaving = self.leaving
        if leaving is None:
            return _part(self.fresh, offset, limit)
        if offset >= len(leaving):
            return _part(self.fresh, offset - len(leaving), limit)
        data = _part(leaving, offset, limit)
        if len(data) < limit:
            data += _part(self.fresh, 0, limit - len(data))
        return data


def _part(data: bytearray, offset: int, limit: int) -> bytes:
    with memoryview(data) as view:
        return bytes(view[offset : offset + limit])


class Stored(Entity, eq=False, gc=False):
    """An entity of the file store. ``sums`` are those of the bytes in its file, which are all up to
    ``unsaved.begin``, or to the tail. ``unverified`` has a bit for each block of it that was found
    at the start and not read since.
    """

    number: int = 0
    sums: Sums = NO_SUMS
    unverified: int = 0
    unsaved: Unsaved | None = None

    def copy(self) -> "Stored":
        """Its head and fields, without its bytes."""
        copy = Stored(self.head, number=self.number)
        copy.fields = None if self.fields is None else dict(self.fields)
        copy.counts = self.counts
        return copy

    @property
    def saved(self) -> int:
        """The position up to which its file has its bytes."""
        return self.head.tail if self.unsaved is None else self.unsaved.begin


class WriteBehind:
    """What of the streams' bytes is in memory only.

    ``told`` is called after each try to write them to the files, with what went wrong.
    """

    def __init__(
        self, worker: Worker, files: FileWriter, told: Callable[[BaseException | None], None]
    ) -> None:
        self._worker = worker
        self._files = files
        self._told = told
        self._dirty: dict[int, Stored] = {}
        self._leaving: list[Stored] = []
        self._taken: list[Stored] = []
        """Entities whose unsaved bytes go to their files with direct data."""
        self._waiting: list[asyncio.Future[BaseException | None]] = []
        self.held = 0
        """About how many bytes of memory the unsaved bytes take."""
        self.proofs: dict[int, tuple[int, Sums]] | None = None
        """While a checkpoint wants it: position and sums of files as they were when it began, for
        those that were written to since."""

    def add(self, entity: Stored, position: int, data: bytes) -> None:
        """Keep bytes that were appended at ``position``."""
        unsaved = entity.unsaved
        if unsaved is None:
            unsaved = entity.unsaved = Unsaved(position)
        if not unsaved.fresh:
            self._dirty[entity.number] = entity
            self.held += OVERHEAD
        unsaved.fresh += data
        self.held += len(data)

    def drop(self, entity: Stored) -> None:
        """Forget what is unsaved of an entity that was removed."""
        unsaved = entity.unsaved
        if unsaved is None:
            return
        unsaved.gone = True
        if self._dirty.pop(entity.number, None) is not None:
            self.held -= OVERHEAD + len(unsaved.fresh)
            unsaved.fresh = bytearray()

    @property
    def busy(self) -> bool:
        return bool(self._leaving)

    @property
    def room_needed(self) -> int:
        """About how many bytes of the disk it takes to write all that is unsaved to the files."""
        return self.held + BLOCK * (len(self._dirty) + len(self._leaving))

    async def save_all(self) -> None:
        """Return when all that is unsaved now is in the files; raises what the disk does."""
        await self._idle()
        left = len(self._dirty)
        while left > 0 and self._dirty:
            self.save()
            left -= len(self._leaving)
            await self._idle()

    async def _idle(self) -> None:
        """Return when no bytes are on their way to files; raises what kept some from arriving."""
        while self._leaving or self._taken:
            future: asyncio.Future[BaseException | None]
            future = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            error = await future
            if error is not None:
                raise error

    def save(self) -> None:
        """Write what was unsaved for longest to the files; not while :attr:`busy`."""
        dirty = self._dirty
        self._leaving = leaving = list(islice(dirty.values(), AT_ONCE))
        writes = []
        for entity in leaving:
            del dirty[entity.number]
            unsaved = entity.unsaved
            assert unsaved is not None
            unsaved.leaving, unsaved.fresh = unsaved.fresh, bytearray()
            offset = unsaved.begin - entity.head.start
            writes.append(Write(entity.number, offset, unsaved.leaving, entity.sums))
        self._worker.put(lambda: self._files.write(writes), self._written)

    def _written(self, result: Written | None, error: BaseException | None) -> None:
        sums: list[Sums] = []
        if result is not None:
            sums, error = result
        leaving, self._leaving = self._leaving, []
        for entity, after in zip(leaving, sums, strict=False):
            self._arrived(entity, after)
        for entity in leaving[len(sums) :]:
            self._put_back(entity)
        self._wake(error)
        self._told(error)

    def take(self, entities: Iterable[Stored]) -> None:
        """Take out what is unsaved of some entities, to be written with direct data.

        Not while :attr:`busy`. Followed by :meth:`taken`.
        """
        self._taken = [entity for entity in entities if entity.unsaved is not None]
        for entity in self._taken:
            unsaved = entity.unsaved
            assert unsaved is not None
            del self._dirty[entity.number]
            unsaved.leaving, unsaved.fresh = unsaved.fresh, bytearray()

    def taken(self, sums: Mapping[int, Sums], error: BaseException | None) -> None:
        """The bytes are in the files, whose sums are given by number, or met an error."""
        taken, self._taken = self._taken, []
        for entity in taken:
            if error is None:
                self._arrived(entity, sums[entity.number])
            else:
                self._put_back(entity)
        self._wake(error)

    def _wake(self, error: BaseException | None) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(error)

    def _arrived(self, entity: Stored, sums: Sums) -> None:
        unsaved = entity.unsaved
        assert unsaved is not None
        assert unsaved.leaving is not None
        if self.proofs is not None:
            self.proofs.setdefault(entity.number, (unsaved.begin, entity.sums))
        self.held -= OVERHEAD + len(unsaved.leaving)
        unsaved.begin += len(unsaved.leaving)
        unsaved.leaving = None
        entity.sums = sums
        if not unsaved.fresh:
            entity.unsaved = None

    def _put_back(self, entity: Stored) -> None:
        """Keep what could not be written: the disk may have room again later."""
        unsaved = entity.unsaved
        assert unsaved is not None
        assert unsaved.leaving is not None
        leaving, unsaved.leaving = unsaved.leaving, None
        if unsaved.gone:
            self.held -= OVERHEAD + len(leaving)
            return
        if unsaved.fresh:
            self.held -= OVERHEAD
        unsaved.fresh = leaving + unsaved.fresh
        self._dirty[entity.number] = entity
