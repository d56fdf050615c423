"""The file store: durable by default, in one directory, for one process.

Commits gather while a group of them is being written, go to the journal together in a thread of
their own, and are visible to nobody before they are durable. A guard is checked against the table
and what the gathering group will change; there is one group at a time, so there is nothing else.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Literal

from durable_streams_core.entities import Commit, Facts, Head, Outcome, Refused, Slice
from durable_streams_core.errors import StoreError
from durable_streams_core.store import LocalStore, Watcher, Watchers
from durable_streams_server import process_forks
from durable_streams_server.stores.clock import Clock, wall_clock
from durable_streams_server.stores.file.checkpoints import Checkpoints
from durable_streams_server.stores.file.data_file_reader import FileReader
from durable_streams_server.stores.file.descriptors import SPARE
from durable_streams_server.stores.file.directory import identify, make_root, take
from durable_streams_server.stores.file.disk import Disk
from durable_streams_server.stores.file.errors import (
    WriteFailedError,
    is_full,
)
from durable_streams_server.stores.file.journal import Journal, shorten
from durable_streams_server.stores.file.pipeline import CLOSED, Pipeline
from durable_streams_server.stores.file.recovery import Recovery, Report
from durable_streams_server.stores.file.reserve import Reserve
from durable_streams_server.stores.file.worker import ThreadWorker, Worker
from durable_streams_server.stores.file.write_behind import Stored
from durable_streams_server.stores.table import Table

_log: Final = logging.getLogger(__name__)

Sync = Literal["commit", "off"]
Corruption = Literal["refuse", "set-aside"]

_READ_THREADS: Final = 4
_OPEN_FILES: Final = 256
_OTHER_FILES: Final = 16
"""More than are open at once beside the data files that are kept open and the spare ones."""


def _most_open_files() -> int:
    """How many data files are kept open for reading: few where a process may open few."""
    import resource

    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _OPEN_FILES if limit < 0 else min(_OPEN_FILES, max(1, limit // 8))


class FileStore(LocalStore):
    """Keeps everything in the directory ``path``.

    With ``sync="commit"`` an acknowledged commit survives loss of power; with ``"off"`` it survives
    the end of this process and may be lost with the machine. ``corruption`` says what to do with
    damage found at the start: refuse to open, or set it aside and go on without it. The journal
    is cut into segments of about ``segment_bytes`` and brought to a checkpoint every
    ``checkpoint_bytes``; the streams' newest bytes go to their files when about ``save_bytes`` of
    them are in memory.

    ``disk``, ``worker``, ``clock``, ``monotonic`` and ``draw`` (random bytes) are for tests.
    """

    api = 1

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        sync: Sync = "commit",
        corruption: Corruption = "refuse",
        segment_bytes: int = 32 * 1024 * 1024,
        checkpoint_bytes: int = 256 * 1024 * 1024,
        save_bytes: int = 8 * 1024 * 1024,
        disk: Disk | None = None,
        worker: Callable[[str], Worker] = ThreadWorker,
        clock: Callable[[], int] = wall_clock,
        monotonic: Callable[[], float] = time.monotonic,
        draw: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self.path = os.fspath(path)
        self.sync = sync
        self.recovered: Report | None = None
        """What the start found and did, once open."""
        self._corruption = corruption
        self._segment_bytes = segment_bytes
        self._checkpoint_bytes = checkpoint_bytes
        self._save_bytes = save_bytes
        self._disk = disk
        self._make_worker = worker
        self._wall = clock
        self._monotonic = monotonic
        self._draw = draw
        self._clock = Clock(0, clock, monotonic)
        self._table: Table[Stored] = Table(Stored)
        self._watchers = Watchers()
        self._pipeline: Pipeline | None = None
        self._checkpoints: Checkpoints | None = None
        process_forks.register(self)

    def after_fork(self) -> None:
        """Become a store that was never opened: the directory stays the parent's."""
        if self._pipeline is None:
            return
        # A copy of the lock would keep the directory locked after the parent has closed it.
        self._unlock()
        self._of_parent = self._pipeline, self._checkpoints, self._watchers
        self._pipeline = None
        self._checkpoints = None
        self._watchers = Watchers()

    @property
    def descriptors(self) -> int:
        return _most_open_files() + SPARE + _OTHER_FILES

    # Opening and closing.

    async def open(self) -> None:
        if self._pipeline is not None:
            return
        loop = asyncio.get_running_loop()
        disk = self._disk
        if disk is None:
            disk = await loop.run_in_executor(None, make_root, self.path)
        self._journal_worker = self._make_worker("durable-streams-journal")
        try:
            self._unlock = await self._journal_worker.run(lambda: take(disk, self.path))
            try:
                recovery = await self._journal_worker.run(lambda: self._recover(disk))
            except BaseException:
                self._unlock()
                disk.spare_descriptors(0)
                raise
        except BaseException:
            await self._journal_worker.stop()
            raise
        self._files_worker = self._make_worker("durable-streams-files")
        self._threads = ThreadPoolExecutor(_READ_THREADS, "durable-streams-reads")
        self._large_reads = asyncio.Semaphore(_READ_THREADS)
        self._open_disk = disk
        self._files = recovery.files
        self._reader = FileReader(disk, _most_open_files())
        self._recent = recovery.recent
        self._table = recovery.table
        self._clock = Clock(recovery.floor, self._wall, self._monotonic)
        self._pipeline = Pipeline(
            table=recovery.table,
            recent=recovery.recent,
            journal=self._journal,
            journal_worker=self._journal_worker,
            files=recovery.files,
            files_worker=self._files_worker,
            reader=self._reader,
            now=self._clock.now,
            numbers=recovery.numbers,
            save_bytes=self._save_bytes,
            written=self._after_group,
            make_room=self._make_room,
        )
        self._pipeline.watchers = self._watchers
        self._checkpoints = checkpoints = Checkpoints(
            disk=disk,
            store=self._store_id,
            table=recovery.table,
            recent=recovery.recent,
            journal=self._journal,
            journal_worker=self._journal_worker,
            files=recovery.files,
            files_worker=self._files_worker,
            pipeline=self._pipeline,
            now=self._clock.now,
            every=self._checkpoint_bytes,
        )
        for entity, position, data in recovery.unsaved:
            self._pipeline.write_behind.add(entity, position, data)
        found = self.recovered = recovery.report
        found.clock_behind = self._clock.behind
        level = logging.WARNING if found.set_aside or found.clock_behind else logging.INFO
        _log.log(level, "%s: %s", self.path, found)
        if self.sync == "off":
            _log.warning(
                "%s: sync is off: what is acknowledged survives the end of this process and may be "
                "lost with the machine",
                self.path,
            )
        if found.set_aside:
            # What was set aside must not be found missing by the next start.
            await checkpoints.run()
        checkpoints.look()

    def _recover(self, disk: Disk) -> Recovery:
        try:
            disk.spare_descriptors(SPARE)
            store = identify(disk, self.path, lambda: self._draw(16).hex())
            recovery = Recovery(disk, store, set_aside=self._corruption == "set-aside")
            recovery.load()
            if recovery.damaged:
                raise recovery.damaged[0]
            recovery.settle()
            journal = Journal(
                disk,
                bytes.fromhex(store),
                sync=self.sync == "commit",
                segment_bytes=self._segment_bytes,
                draw=self._draw,
                ordinal=recovery.journal.next_ordinal,
                sequence=recovery.sequence,
                earlier=recovery.journal.segments(),
            )
            self._begin(disk, journal, recovery.journal.unused)
        except OSError as error:
            raise StoreError(
                f"The store in {self.path} cannot be opened: {error}. "
                "Make sure that the disk works, has room, and may be read and written by this user."
            ) from error
        except WriteFailedError as error:
            raise StoreError(
                f"The disk under {self.path} fails ({error.__cause__}); nothing can be stored there."
            ) from error
        self._journal = journal
        self._store_id = store
        return recovery

    def _begin(self, disk: Disk, journal: Journal, unused: Sequence[str]) -> None:
        """Begin a segment in the place of unused ones, and take up room for a checkpoint, both as
        far as there is room.
        """
        reserve = Reserve(disk)
        try:
            try:
                journal.begin()
            except OSError as error:
                if not is_full(error):
                    raise
                reserve.release()
                for name in unused:
                    shorten(disk, name)
                journal.begin()
            for name in unused:
                disk.unlink(name)
        except OSError as error:
            # The first append begins it. Till then an unused one says how far the journal went.
            if not is_full(error):
                raise
        if not reserve.take():
            _log.warning("%s: the disk is full; streams can be read and deleted", self.path)

    async def close(self) -> None:
        pipeline = self._pipeline
        if pipeline is None:
            return
        self._pipeline = None
        await pipeline.close()
        if self._checkpoints is not None:
            await self._checkpoints.close()
            self._checkpoints = None
        now, keep_time = self.now(), self._clock.ahead > 0
        try:
            if pipeline.failure is None:
                await self._journal_worker.run(
                    lambda: self._journal.close(now, keep_time=keep_time)
                )
            else:
                await self._journal_worker.run(self._journal.abandon)
        except WriteFailedError as error:
            _log.error("%s: the disk failed at the end: %s", self.path, error.__cause__)
        finally:
            await self._files_worker.stop()
            await self._journal_worker.stop()
            self._threads.shutdown()
            self._reader.close()
            self._open_disk.spare_descriptors(0)
            self._unlock()

    def _after_group(self) -> None:
        if self._checkpoints is not None:
            self._checkpoints.look()

    def _make_room(self, done: Callable[[], None]) -> bool:
        return self._checkpoints is not None and self._checkpoints.make_room(done)

    async def checkpoint(self) -> None:
        """Bring data files and snapshot up to date, and give back the journal's room."""
        if self._checkpoints is not None:
            await self._checkpoints.run()

    # Reading.

    def now(self) -> int:
        return self._clock.now()

    def peek(self, path: str, fields: Sequence[str] = ()) -> Facts | None:
        return self._table.facts(path, fields)

    def slice(self, path: str, incarnation: str, start: int, limit: int) -> Slice | None:
        entity = self._table.entities.get(path)
        if entity is None or entity.head.incarnation != incarnation:
            return None
        head = entity.head
        length = min(limit, head.tail - start)
        if length <= 0:
            return Slice(head, b"")
        unsaved = entity.unsaved
        if unsaved is not None and start >= unsaved.begin:
            return Slice(head, unsaved.read(start, length))
        in_file = min(length, entity.saved - start)
        data = self._reader.read(entity, start - head.start, in_file)
        if in_file < length:
            assert unsaved is not None
            data += unsaved.read(unsaved.begin, length - in_file)
        return Slice(head, data)

    async def read(self, path: str, incarnation: str, start: int, limit: int) -> Slice | None:
        if limit <= self.large_read:
            return self.slice(path, incarnation, start, limit)
        # Each keeps a file open, so no more than can be read at once.
        async with self._large_reads:
            return await self._read_large(path, incarnation, start, limit)

    async def _read_large(
        self, path: str, incarnation: str, start: int, limit: int
    ) -> Slice | None:
        entity = self._table.entities.get(path)
        if entity is None:
            return None
        head = entity.head
        saved = entity.saved
        in_file = min(limit, saved - start)
        if head.incarnation != incarnation or in_file <= self.large_read:
            return self.slice(path, incarnation, start, limit)
        rest = b""
        if start + limit > saved and entity.unsaved is not None:
            rest = entity.unsaved.read(saved, start + limit - saved)
        reader = self._reader
        file = reader.begin(entity.number)
        unverified = reader.unverified(entity, start - head.start, in_file)
        try:
            data = await asyncio.get_running_loop().run_in_executor(
                self._threads,
                reader.read_from,
                file,
                entity.number,
                start - head.start,
                in_file,
                unverified,
            )
        finally:
            reader.end(file)
        reader.verified(entity, unverified)
        return Slice(head, data + rest if rest else data)

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

    # Writing.

    def submit(self, batch: Sequence[Commit], done: Callable[[Sequence[Outcome]], None]) -> None:
        if self._pipeline is None:
            done([Refused("unavailable", CLOSED)] * len(batch))
        else:
            self._pipeline.submit(batch, done)
