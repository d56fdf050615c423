"""The worker: one process's part in a service of runs.

It runs sources, keeps its place in the registry by heartbeats, and takes over the runs of dead
workers.
"""

import asyncio
import logging
import os
import secrets
from collections.abc import AsyncIterable, Coroutine
from copy import copy
from functools import cache
from typing import Any, Final, TypeVar

from durable_streams_core.errors import DurableStreamsError, Unavailable
from durable_streams_runs.errors import NotARun, RunsUnavailable
from durable_streams_runs.finishing import Finisher
from durable_streams_runs.formats import Format
from durable_streams_runs.ledger import MISSED_BEATS, Ledger
from durable_streams_runs.limits import Limits
from durable_streams_runs.records import (
    Beat,
    Drop,
    Ended,
    Entry,
    Forget,
    Join,
    Leave,
    Record,
    Start,
    Sync,
    Take,
)
from durable_streams_runs.registry import Registry
from durable_streams_runs.running import Running
from durable_streams_runs.states import End, Status
from durable_streams_runs.streams import Lost, Streams, Why, Writer, persistently
from durable_streams_runs.tasks import Task

T = TypeVar("T")

log = logging.getLogger("durable_streams_runs")

ADOPTED_AT_A_TIME: Final = 64
"""Runs of a dead worker that are ended or restarted at the same time."""


@cache
def process_id(_pid: int) -> str:
    """A random name of this process; a child has another one after ``fork``."""
    return secrets.token_hex(8)


class Worker:
    """Runs sources in this process. ``lease`` is the time in seconds within which a dead worker's
    runs are ended.

    Long because starting, ending and taking over runs share the ledger and the set of runs that
    are under way.
    """

    def __init__(
        self,
        streams: Streams,
        finisher: Finisher,
        tasks: dict[str, Task],
        *,
        registry: str,
        lease: float,
        limits: Limits,
    ) -> None:
        self.running: dict[str, Running] = {}
        self._streams = streams
        self._finisher = finisher
        self._tasks = tasks
        self._limits = limits
        self._lease = lease
        self._interval = lease / (MISSED_BEATS + 1)
        self._process = process_id(os.getpid())
        self._registry = Registry(
            streams, registry, on_record=self._on_record, on_loaded=self._on_loaded
        )
        self._joined = asyncio.Event()
        self._stopping = False
        self._beating: asyncio.Task[None] | None = None
        self._work: set[asyncio.Task[Any]] = set()
        self._starts: set[asyncio.Task[Any]] = set()
        self._busy: set[str] = set()
        """Own runs that are being started or ended, so that nobody adopts them."""
        self._adopting = asyncio.Semaphore(ADOPTED_AT_A_TIME)

    @property
    def ledger(self) -> Ledger:
        """The records of the registry, folded."""
        return self._registry.ledger

    # Start and stop.

    async def start(self) -> None:
        """Join the service."""
        await self._registry.open()
        await self._join()
        self._beating = asyncio.create_task(self._beat(), name="heartbeat of runs")

    async def stop(self) -> None:
        """End the runs of this process as interrupted, or leave them to another process."""
        self._stopping = True
        if self._beating is not None:
            self._beating.cancel()
        if self._starts:
            await asyncio.wait(self._starts, timeout=self._limits.patience)
        running = list(self.running.values())
        tasks = self._work | self._starts
        try:
            # After the lease, other processes take them over anyway.
            async with asyncio.timeout(self._lease):
                await asyncio.gather(*(self._hand_over(each) for each in running))
                await self._registry.post(Leave())
        except (TimeoutError, RunsUnavailable):
            log.warning("Not all runs were handed over; other processes find them by their lease.")
        for task in tasks:
            task.cancel()
        if tasks:
            _, left = await asyncio.wait(tasks, timeout=self._limits.patience)
            for task in left:
                log.warning("%s ignores that it was cancelled, and is left alone.", task.get_name())
        await self._registry.close()

    async def _hand_over(self, running: Running) -> None:
        if self._task_of(running.entry):
            await running.flush()
            running.abandon()
        else:
            await running.end(End(Status.INTERRUPTED))

    async def _join(self) -> None:
        self._joined.clear()
        while True:
            self._registry.renew()
            try:
                if await self._registry.post(
                    Join(process=self._process, local=self._streams.local)
                ):
                    break
            except RunsUnavailable:
                if self._stopping:
                    raise
        self._joined.set()
        for member in list(self.ledger.members.values()):
            gone = member.local and self._streams.local and member.process != self._process
            if gone or member.left:
                self._take(member.worker)

    async def _beat(self) -> None:
        beat: asyncio.Future[bool] | None = None
        while True:
            await asyncio.sleep(self._interval)
            # One at a time: many that were held up by an outage would make others look silent.
            if self._joined.is_set() and (beat is None or beat.done()):
                beat = self._registry.post_nowait(Beat())

    # Starting runs.

    async def begin(
        self, record: Start, source: AsyncIterable[Any], form: Format
    ) -> Running | None:
        """Run a source, unless the id is taken: None then. Raises :class:`NotARun`."""
        if self._stopping or not self._joined.is_set():
            raise RunsUnavailable("The runs are not started, or were shut down.")
        if record.id in self.ledger.entries or record.id in self.ledger.ended:
            return None
        if len(self.running) >= self._limits.running:
            raise RunsUnavailable("This worker has as many runs as it may have.")
        first = record.id not in self._busy
        self._busy.add(record.id)
        try:
            if not await self._registry.post(record):
                self._check_refusal(record.id)
                return None
            entry = self.ledger.entries.get(record.id)
            if entry is None or entry.worker != self._registry.worker:
                return None
            entry = copy(entry)
            if not await self._create(entry, form):
                return None
            return self._run(entry, source, form, self._writer(entry, form))
        finally:
            if first:
                self._busy.discard(record.id)

    def _check_refusal(self, run_id: str) -> None:
        """Raise unless a start was refused because there is such a run, or was."""
        if self.ledger.is_full and run_id not in self.ledger.entries:
            raise RunsUnavailable("The service has as many runs as it may have.")
        if self._registry.worker not in self.ledger.members:
            raise RunsUnavailable("This worker was taken for dead. Try again.")

    async def _create(self, entry: Entry, form: Format) -> bool:
        try:
            if await self._streams.create(entry.id, form.content_type, ttl=entry.ttl):
                return True
            closed = await self._streams.is_closed(entry.id)
            end = await self._finisher.read_end(entry.id) if closed else None
        except Unavailable:
            # It may have been created. Nobody else may find it without an end.
            self._spawn(self.end(entry, End(Status.INTERRUPTED)))
            raise
        except DurableStreamsError:
            self._registry.tell(Drop(id=entry.id))
            raise
        if end is None:
            self._registry.tell(Drop(id=entry.id))
            raise NotARun(f"Another stream is at {entry.id!r}, which is not a run.")
        await self._record(entry.id, end)
        return False

    def _writer(self, entry: Entry, form: Format) -> Writer:
        return self._streams.writer(entry.id, form.content_type, entry.epoch)

    def _run(
        self, entry: Entry, source: AsyncIterable[Any], form: Format, writer: Writer
    ) -> Running:
        running = Running(
            entry,
            source,
            writer=writer,
            form=form,
            limits=self._limits,
            finisher=self._finisher,
            on_end=self._on_end,
        )
        self.running[entry.id] = running
        self._work.add(running.task)
        running.task.add_done_callback(self._work.discard)
        return running

    def _on_end(self, running: Running, end: End | None) -> None:
        run_id = running.entry.id
        if self.running.get(run_id) is running:
            del self.running[run_id]
        if end is not None:
            self._busy.add(run_id)
            record = Ended(id=run_id, status=end.status, error=end.error)
            recorded = self._registry.post_nowait(record)
            recorded.add_done_callback(lambda _: self._busy.discard(run_id))
        elif running.is_gone:
            self._registry.tell(Drop(id=run_id))

    # Ending runs.

    async def end(self, entry: Entry, end: End) -> End:
        """End a run, of this process or another, and record how it ended."""
        running = self.running.get(entry.id)
        final = await running.end(end) if running is not None else None
        if final is None:
            final = await self._finisher.finish(entry, end)
            await self._record(entry.id, final)
        return final

    async def _record(self, run_id: str, end: End) -> None:
        await self._registry.post(Ended(id=run_id, status=end.status, error=end.error))

    async def sync(self) -> None:
        """Wait until everything that is in the registry now is in the ledger."""
        await self._registry.post(Sync())

    def forget(self, run_id: str) -> Coroutine[Any, Any, bool]:
        """Let the id of an ended run be used again, whose stream was deleted."""
        return self._registry.post(Forget(id=run_id))

    # Records of the registry.

    def _on_record(self, record: Record, applied: bool) -> None:
        match record:
            case Ended(id=run_id) | Drop(id=run_id) if applied and run_id in self.running:
                self.running[run_id].abandon()
            case Take(worker=worker) if applied and worker == self._registry.worker:
                log.warning("This worker was taken for dead; its runs have another owner now.")
                self._start_again()
            case Take() if applied and record.w == self._registry.worker:
                self._adopt_all()
            case Leave() if applied and record.w in self.ledger.members:
                self._take(record.w)
            case Beat() if applied and record.w == self._registry.worker:
                for worker in self.ledger.silent(record.w):
                    self._take(worker)
                if self._registry.rotation_due() and record.w == min(self.ledger.members):
                    self._spawn(self._registry.rotate())

    def _on_loaded(self) -> None:
        """Compare the ledger, which was read anew, with what this process runs."""
        if not self._joined.is_set():
            return
        if self._registry.worker not in self.ledger.members:
            self._start_again()
            return
        self._adopt_all()

    def _start_again(self) -> None:
        for running in list(self.running.values()):
            running.abandon()
        if not self._stopping:
            self._joined.clear()
            self._spawn(self._join())

    def _take(self, worker: str) -> None:
        if not self._stopping and worker != self._registry.worker:
            self._registry.tell(Take(worker=worker))

    def _adopt_all(self) -> None:
        if self._stopping:
            return
        for entry in self.ledger.owned_by(self._registry.worker):
            if entry.id not in self.running and entry.id not in self._busy:
                self._busy.add(entry.id)
                self._spawn(self._adopt(copy(entry)))

    def _task_of(self, entry: Entry) -> Task | None:
        """The task that can go on with a run, if it may be restarted once more."""
        task = self._tasks.get(entry.task or "")
        may = task is not None and task.restart and entry.epoch // 2 <= self._limits.restarts
        return task if may else None

    async def _adopt(self, entry: Entry) -> None:
        """End a run that its worker left behind, or go on with it."""
        try:
            async with self._adopting:
                task = self._task_of(entry)
                if task is None:
                    await self.end(entry, End(Status.INTERRUPTED))
                else:
                    await self._restart(entry, task)
        finally:
            self._busy.discard(entry.id)

    async def _restart(self, entry: Entry, task: Task) -> None:
        form = task.output
        mark = form.restart()
        assert mark is not None
        while True:
            writer = self._writer(entry, form)
            try:
                await persistently(lambda: writer.append([mark]))  # noqa: B023
                break
            except Lost as lost:
                await writer.release()
                if lost.why is not Why.GONE:
                    await self._after_failed_restart(entry, lost)
                    return
            # Its owner died before it had created the stream.
            await persistently(
                lambda: self._streams.create(entry.id, form.content_type, ttl=entry.ttl)
            )
        written = await self._finisher.items(entry.id, form)
        self._run(entry, task.source(written, entry.args or {}), form, writer)

    async def _after_failed_restart(self, entry: Entry, lost: Lost) -> None:
        end = await self._finisher.end_if_closed(entry.id)
        if end is not None:
            await self._record(entry.id, end)
        elif lost.why is Why.BROKEN:
            await self.end(entry, End(Status.INTERRUPTED))

    async def detached(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for work that goes on if the caller is cancelled."""
        task = asyncio.create_task(work)
        self._starts.add(task)
        task.add_done_callback(self._detached_done)
        return await asyncio.shield(task)

    def _detached_done(self, task: asyncio.Task[Any]) -> None:
        self._starts.discard(task)
        if not task.cancelled():
            task.exception()  # its caller may have gone

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(self._logged(work))
        self._work.add(task)
        task.add_done_callback(self._work.discard)

    async def _logged(self, work: Coroutine[Any, Any, Any]) -> None:
        try:
            await work
        except RunsUnavailable:
            pass  # shut down, or taken for dead: others go on with it
        except Exception:
            log.exception("Work on runs failed.")
