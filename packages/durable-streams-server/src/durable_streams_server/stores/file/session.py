"""The parts of a file store while it is open, from its recovery to its close."""

import logging
from collections.abc import Callable
from typing import Final

from durable_streams_core.entities import Refused
from durable_streams_core.store import Watchers
from durable_streams_server.stores.clock import Clock
from durable_streams_server.stores.file.checkpoints import Checkpoints
from durable_streams_server.stores.file.data_file_reader import FileReader
from durable_streams_server.stores.file.disk import Disk
from durable_streams_server.stores.file.errors import WriteFailedError
from durable_streams_server.stores.file.meter import FileMeter
from durable_streams_server.stores.file.opening import DirectoryLock, Recovered, Settings
from durable_streams_server.stores.file.pipeline import CLOSED, Pipeline
from durable_streams_server.stores.file.probe import Probe
from durable_streams_server.stores.file.stream_bytes import StreamBytes
from durable_streams_server.stores.file.worker import Worker

_log: Final = logging.getLogger(__name__)


class Session:
    """An open store. ``recovered`` is what its directory held."""

    def __init__(
        self,
        settings: Settings,
        disk: Disk,
        lock: DirectoryLock,
        recovered: Recovered,
        *,
        journal_worker: Worker,
        watchers: Watchers,
        meter: FileMeter,
        large_read: int,
        open_files: int,
    ) -> None:
        recovery, journal = recovered.recovery, recovered.journal
        self._path = settings.path
        self.lock = lock
        self.closing = False
        self.clock = Clock(recovery.floor, settings.wall, settings.monotonic)
        self.table = recovery.table
        self.journal = journal
        self._journal_worker = journal_worker
        self._files_worker = settings.worker("durable-streams-files")
        reader = FileReader(disk, open_files)
        self.bytes = StreamBytes(recovery.table, reader, large_read)
        self.pipeline = Pipeline(
            table=recovery.table,
            recent=recovery.recent,
            journal=journal,
            journal_worker=journal_worker,
            files=recovery.files,
            files_worker=self._files_worker,
            reader=reader,
            now=self.clock.now,
            numbers=recovery.numbers,
            save_bytes=settings.save_bytes,
            # Without syncs, the journal could name data that a loss of power takes away.
            may_be_direct=settings.sync,
            watchers=watchers,
            meter=meter,
            written=self._after_group,
            make_room=self._make_room,
        )
        for entity, position, data in recovery.unsaved:
            self.pipeline.write_behind.add(entity, position, data)
        self.checkpoints = Checkpoints(
            disk=disk,
            store=recovered.store,
            table=recovery.table,
            recent=recovery.recent,
            journal=journal,
            journal_worker=journal_worker,
            files=recovery.files,
            files_worker=self._files_worker,
            pipeline=self.pipeline,
            meter=meter,
            now=self.clock.now,
            every=settings.checkpoint_bytes,
        )

        self._probe = Probe(
            disk=disk,
            journal=journal,
            journal_worker=journal_worker,
            pipeline=self.pipeline,
            make_room=self._make_room,
        )

    async def probe(self) -> Refused | None:
        """Why an append would be refused now, None if it would be stored."""
        return Refused("unavailable", CLOSED) if self.closing else await self._probe.run()

    def _after_group(self) -> None:
        self.checkpoints.begin_if_due()

    def _make_room(self, done: Callable[[], None]) -> bool:
        return self.checkpoints.make_room(done)

    async def close(self) -> None:
        """Finish what was taken in, then release everything."""
        self.closing = True
        await self.pipeline.close()
        await self.checkpoints.close()
        now, keep_time = self.clock.now(), self.clock.ahead > 0
        journal = self.journal
        try:
            if self.pipeline.failure is None:
                await self._journal_worker.run(lambda: journal.close(now, keep_time=keep_time))
            else:
                await self._journal_worker.run(journal.abandon)
        except WriteFailedError as error:
            _log.error("%s: the disk failed at the end: %s", self._path, error.__cause__)
        finally:
            await self._files_worker.stop()
            await self._journal_worker.stop()
            self.bytes.close()
            self.lock.release()
