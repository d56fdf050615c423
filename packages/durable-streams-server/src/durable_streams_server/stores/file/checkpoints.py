"""Decides when a checkpoint is made: when the journal holds much, and when the disk is full.

What counts is what the journal holds, not what this process wrote to it, so the journal stays
bounded however often the server is started.
"""

import asyncio
import logging
from collections.abc import Callable
from time import perf_counter
from typing import Final

from durable_streams_server.stores.file.checkpoint import Checkpoint
from durable_streams_server.stores.file.data_files import FileWriter
from durable_streams_server.stores.file.disk import Disk
from durable_streams_server.stores.file.errors import (
    WriteFailedError,
    describe,
    is_full,
    is_passing,
    stopped_by,
)
from durable_streams_server.stores.file.journal import Journal
from durable_streams_server.stores.file.meter import FileMeter
from durable_streams_server.stores.file.pipeline import Pipeline
from durable_streams_server.stores.file.reserve import Reserve
from durable_streams_server.stores.file.snapshot import Cover, snapshot_bytes
from durable_streams_server.stores.file.worker import Worker
from durable_streams_server.stores.file.write_behind import Stored
from durable_streams_server.stores.table import Recent, Table

_WORTH_WHILE: Final = 512 * 1024
"""On a full disk a checkpoint is tried if the journal holds so many bytes."""
_SEGMENT_AND_COMMITS: Final = 640 * 1024
"""More than a new segment and the latest commits in a snapshot take."""
_STREAM_BYTES: Final = 256
"""About how many bytes a stream takes in a snapshot."""

_log: Final = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of an open store, one at a time.

    There is one whenever the journal holds ``every`` bytes.
    """

    def __init__(
        self,
        *,
        disk: Disk,
        store: str,
        table: Table[Stored],
        recent: Recent,
        journal: Journal,
        journal_worker: Worker,
        files: FileWriter,
        files_worker: Worker,
        pipeline: Pipeline,
        meter: FileMeter,
        now: Callable[[], int],
        every: int,
    ) -> None:
        self._disk = disk
        self._store = store
        self._table = table
        self._recent = recent
        self._journal = journal
        self._journal_worker = journal_worker
        self._files = files
        self._files_worker = files_worker
        self._pipeline = pipeline
        self._meter = meter
        self._now = now
        self._every = every
        self._due_at = every
        self._reserve = Reserve(disk)
        self._hopeless = False
        self._lock = asyncio.Lock()
        self._running: asyncio.Task[None] | None = None

    def begin_if_due(self) -> None:
        """Begin a checkpoint if the journal holds enough. Called after each group."""
        self._hopeless = False
        if self._journal.held >= self._due_at and self._running is None:
            self._running = self._start()

    def make_room(self, done: Callable[[], None]) -> bool:
        """Give back the journal's room and then call ``done``; False if there is not enough to give
        back, or if the last try was in vain and nothing was stored or deleted since.
        """
        if self._running is None:
            if self._hopeless or self._journal.held < _WORTH_WHILE:
                return False
            self._running = self._start()
        self._running.add_done_callback(lambda _: done())
        return True

    async def close(self) -> None:
        """Wait for the one that is under way, and leave no journal that is due for another."""
        if self._running is not None:
            await asyncio.wait([self._running])
        if self._journal.held >= self._due_at:
            await self.run()

    async def run(self) -> None:
        """Bring data files and snapshot up to date, and give back the journal's room.

        Only logs when it fails.
        """
        async with self._lock:
            begun = perf_counter()
            error = await self._attempt()
            if error is not None and is_full(error) and await self._release_reserve():
                error = await self._attempt()
            self._meter.checkpoints.observe(perf_counter() - begun)
            await self._files_worker.run(self._reserve.take)
            self._hopeless = error is not None
            self._due_at = max(self._every, self._journal.held + self._every // 2)
            if error is not None:
                _log.warning("no checkpoint is possible: %s; trying again later", describe(error))

    async def _release_reserve(self) -> bool:
        """Give up the reserve if it is surely enough, and not for nothing."""
        streams = len(self._table.entities) * _STREAM_BYTES
        needed = self._pipeline.write_behind.room_needed + _SEGMENT_AND_COMMITS

        def release() -> bool:
            if self._reserve.size < needed + max(streams, snapshot_bytes(self._disk)):
                return False
            self._reserve.release()
            return True

        return await self._files_worker.run(release)

    def _start(self) -> "asyncio.Task[None]":
        task = asyncio.ensure_future(self.run())
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._running = None
        if not task.cancelled() and task.exception() is not None:
            _log.error("a checkpoint failed", exc_info=task.exception())

    async def _attempt(self) -> BaseException | None:
        """What kept a checkpoint from being made, for now."""
        pipeline = self._pipeline
        if pipeline.failure is not None:
            return None
        try:
            # The groups that it covers have to be in segments that can go.
            await self._journal_worker.run(self._journal.roll)
            cover = Cover(
                self._store,
                pipeline.sequence,
                pipeline.numbers,
                self._now(),
                self._table.last_timeline,
            )
            checkpoint = Checkpoint(
                self._disk,
                cover,
                table=self._table,
                recent=self._recent,
                write_behind=pipeline.write_behind,
                seen=lambda: pipeline.sequence,
            )
            await checkpoint.run(
                self._journal_worker, self._files_worker, self._journal, self._files
            )
        except (OSError, MemoryError, WriteFailedError) as error:
            if is_passing(error):
                return error
            pipeline.fail(stopped_by(error))
        return None
