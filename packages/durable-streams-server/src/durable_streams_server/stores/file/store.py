"""The file store: durable by default, in one directory, for one process.

Commits gather while a group of them is being written, go to the journal together in a thread of
their own, and are visible to nobody before they are durable. A guard is checked against the table
and what the gathering group will change; there is one group at a time, so there is nothing else.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal

from durable_streams_core.entities import Commit, Facts, Head, Outcome, Refused, Slice
from durable_streams_core.metrics import Metric, metric
from durable_streams_core.store import LocalStore, Watcher, Watchers
from durable_streams_server import process_forks
from durable_streams_server.stores.clock import Clock, wall_clock
from durable_streams_server.stores.file.descriptors import SPARE
from durable_streams_server.stores.file.directory import make_root
from durable_streams_server.stores.file.disk import Disk
from durable_streams_server.stores.file.meter import FileMeter
from durable_streams_server.stores.file.opening import DirectoryLock, Settings, recover
from durable_streams_server.stores.file.pending import PendingAppend, PendingCommits
from durable_streams_server.stores.file.pipeline import CLOSED
from durable_streams_server.stores.file.records import LARGE
from durable_streams_server.stores.file.report import Report
from durable_streams_server.stores.file.session import Session
from durable_streams_server.stores.file.worker import ThreadWorker, Worker
from durable_streams_server.stores.file.write_behind import Stored
from durable_streams_server.stores.table import Table, streams_metric

_log: Final = logging.getLogger(__name__)

Sync = Literal["commit", "off"]
Corruption = Literal["refuse", "set-aside"]

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
        """The findings and the work of the start, once open."""
        self._disk = disk
        self._settings = Settings(
            path=self.path,
            sync=sync == "commit",
            set_aside=corruption == "set-aside",
            segment_bytes=segment_bytes,
            checkpoint_bytes=checkpoint_bytes,
            save_bytes=save_bytes,
            worker=worker,
            wall=clock,
            monotonic=monotonic,
            draw=draw,
        )
        self._clock = Clock(0, clock, monotonic)
        self._table: Table[Stored] = Table(Stored)
        self._watchers = Watchers()
        self._meter = FileMeter()
        self._session: Session | None = None
        self._of_parent: Session | None = None
        """Kept in a child, so that nothing of it is closed or finalized there."""
        process_forks.register(self)

    def after_fork(self) -> None:
        """Become a store that was never opened: the directory stays the parent's."""
        if self._session is None:
            return
        # A copy of the lock would keep the directory locked after the parent has closed it.
        self._session.lock.unlock()
        self._of_parent = self._session
        self._session = None
        self._watchers = Watchers()

    @property
    def descriptors(self) -> int:
        return _most_open_files() + SPARE + _OTHER_FILES

    @property
    def failure(self) -> str | None:
        """Why nothing can be written; None while the store takes commits."""
        return CLOSED if self._session is None else self._session.pipeline.failure

    async def probe(self) -> Refused | None:
        session = self._session
        return Refused("unavailable", CLOSED) if session is None else await session.probe()

    def metrics(self) -> Sequence[Metric]:
        session, meter, report = self._session, self._meter, self.recovered
        held = unsaved = 0
        if session is not None:
            held, unsaved = session.journal.held, session.pipeline.write_behind.held
        return (
            streams_metric(self._table),
            metric(
                "batch_commits", "Commits that one write to the store made durable.", meter.groups
            ),
            metric("fsync_seconds", "How long an fsync of the journal took.", meter.syncs),
            metric("journal_bytes", "Bytes in the segments of the journal.", held),
            metric(
                "journal_written_bytes_total",
                "Bytes of commits that were written to the journal.",
                meter.written,
            ),
            metric(
                "unsaved_bytes", "Bytes of streams that the journal has and no data file.", unsaved
            ),
            metric("checkpoint_seconds", "How long a checkpoint took.", meter.checkpoints),
            metric(
                "recovery_seconds",
                "How long the last start took to recover the directory.",
                0.0 if report is None else report.seconds,
            ),
            metric(
                "recovery_quarantined_files",
                "Damaged files that the last start set aside.",
                0 if report is None else len(report.set_aside),
            ),
        )

    # Opening and closing.

    async def open(self) -> None:
        if self._session is not None:
            return
        settings, disk = self._settings, self._disk
        if disk is None:
            loop = asyncio.get_running_loop()
            disk = await loop.run_in_executor(None, make_root, self.path)
        lock = DirectoryLock(disk, self.path)
        worker = settings.worker("durable-streams-journal")
        try:
            recovered = await worker.run(lambda: recover(disk, lock, settings, self._meter))
        except BaseException:
            # Also one that is cancelled has to wait until the thread is done with the directory.
            await worker.stop()
            lock.release()
            raise
        self._session = session = Session(
            settings,
            disk,
            lock,
            recovered,
            journal_worker=worker,
            watchers=self._watchers,
            meter=self._meter,
            large_read=self.large_read,
            open_files=_most_open_files(),
        )
        self._table, self._clock = session.table, session.clock
        report = self.recovered = recovered.recovery.report
        report.clock_behind = session.clock.behind
        level = logging.WARNING if report.set_aside or report.clock_behind else logging.INFO
        _log.log(level, "%s: %s", self.path, report)
        if self.sync == "off":
            _log.warning(
                "%s: sync is off: what is acknowledged survives the end of this process and may be "
                "lost with the machine",
                self.path,
            )
        if report.set_aside:
            # The next start must not miss what was quarantined.
            await session.checkpoints.run()
        session.checkpoints.begin_if_due()

    async def close(self) -> None:
        session = self._session
        if session is None or session.closing:
            return
        try:
            await session.close()
        finally:
            self._session = None

    async def checkpoint(self) -> None:
        """Bring data files and snapshot up to date, and give back the journal's room."""
        if self._session is not None:
            await self._session.checkpoints.run()

    # Reading.

    def now(self) -> int:
        return self._clock.now()

    def peek(self, path: str, fields: Sequence[str] = ()) -> Facts | None:
        return self._table.facts(path, fields)

    def slice(self, path: str, incarnation: str, start: int, limit: int) -> Slice | None:
        session = self._session
        return None if session is None else session.bytes.slice(path, incarnation, start, limit)

    async def read(self, path: str, incarnation: str, start: int, limit: int) -> Slice | None:
        session = self._session
        if session is None:
            return None
        return await session.bytes.read(path, incarnation, start, limit)

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
        session = self._session
        if session is None:
            done([Refused("unavailable", CLOSED)] * len(batch))
        else:
            session.pipeline.put(PendingCommits(batch, done))

    def submit_append(
        self,
        path: str,
        facts: Facts,
        data: bytes,
        fields: Mapping[str, bytes | None],
        done: Callable[[Outcome], None],
    ) -> bool:
        session = self._session
        if session is None or len(data) > LARGE:
            return False
        session.pipeline.put(PendingAppend(path, facts, data, fields, done))
        return True
