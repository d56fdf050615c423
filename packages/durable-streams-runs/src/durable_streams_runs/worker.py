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
from durable_streams_runs.claiming import claim
from durable_streams_runs.errors import RunsUnavailable
from durable_streams_runs.finishing import INTERRUPTED, Finisher
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
from durable_streams_runs.states import End
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
        self._work: set[asyncio.Task[Any]] = set()
        self._starts: set[asyncio.Task[Any]] = set()
        self._starting: set[str] = set()
        """Runs that are being started or restarted, and have a place among the running ones."""
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
        try:
            await self._registry.open()
            await self._join()
        except BaseException:
            await self._registry.close()
            raise
        self._spawn(self._beat(), "heartbeat of runs")

    async def stop(self) -> None:
        """End the runs of this process as interrupted, or leave them to another process."""
        self._stopping = True
        try:
            if self._starts:
                await asyncio.wait(self._starts, timeout=self._limits.patience)
            # After the lease, other processes take them over anyway.
            async with asyncio.timeout(self._lease):
                await asyncio.gather(*map(self._hand_over, self.running.values()))
                await self._registry.post(Leave())
        except (TimeoutError, RunsUnavailable):
            log.warning("Not all runs were handed over; other processes find them by their lease.")
        finally:
            try:
                await self._end_tasks()
            finally:
                await self._registry.close()

    async def _end_tasks(self) -> None:
        tasks = self._work | self._starts
        for task in tasks:
            task.cancel()
        if tasks:
            _, left = await asyncio.wait(tasks, timeout=self._limits.patience)
            for task in left:
                log.warning("%s ignores that it was cancelled, and is left alone.", task.get_name())

    async def _hand_over(self, running: Running) -> None:
        if self._task_of(running.entry):
            await running.flush()
            running.abandon()
        else:
            await running.end(INTERRUPTED)

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
        first = record.id not in self._starting
        if first and self._has_no_place:
            raise RunsUnavailable("This worker has as many runs as it may have.")
        self._starting.add(record.id)
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
                self._starting.discard(record.id)
                self._busy.discard(record.id)

    @property
    def _has_no_place(self) -> bool:
        return len(self.running) + len(self._starting) >= self._limits.running

    def _check_refusal(self, run_id: str) -> None:
        """Raise unless a start was refused because there is such a run, or was."""
        if self.ledger.is_full and run_id not in self.ledger.entries:
            raise RunsUnavailable("The service has as many runs as it may have.")
        if self._registry.worker not in self.ledger.members:
            raise RunsUnavailable("This worker was taken for dead. Try again.")

    async def _create(self, entry: Entry, form: Format) -> bool:
        """Create the stream of a run; False if there is that of one that ended before."""
        may_be_there = False
        try:
            while (end := await self._finisher.earlier_end(entry.id)) is None:
                may_be_there = True
                if await self._streams.create(entry.id, form.content_type, ttl=entry.ttl):
                    return True
                # There was none a moment ago, so a proxy may have repeated the request.
                if await self._finisher.is_unused(entry.id, form):
                    return True
                may_be_there = False
        except DurableStreamsError as error:
            if may_be_there and isinstance(error, Unavailable):
                # Nobody else may find it without an end.
                self._spawn(self._interrupt(entry), f"end of the run {entry.id}")
            else:
                self._drop(entry)
            raise
        await self._record(entry, end)
        return False

    def _drop(self, entry: Entry) -> None:
        self._registry.tell(Drop(id=entry.id, number=entry.number))

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
            spawn=self._task,
        )
        self.running[entry.id] = running
        return running

    def _on_end(self, running: Running, end: End | None) -> None:
        entry, run_id = running.entry, running.entry.id
        if self.running.get(run_id) is running:
            del self.running[run_id]
        if end is not None:
            self._busy.add(run_id)
            recorded = self._registry.post_nowait(_ended(entry, end))
            recorded.add_done_callback(lambda _: self._busy.discard(run_id))
        elif running.is_gone:
            self._drop(entry)

    # Ending runs.

    async def end(self, entry: Entry, end: End) -> End:
        """End a run, of this process or another, and record how it ended."""
        running = self.running.get(entry.id)
        final = await running.end(end) if running is not None else None
        if final is None:
            final = await self._finisher.finish(entry, end)
            await self._record(entry, final)
        return final

    async def _record(self, entry: Entry, end: End) -> None:
        await self._registry.post(_ended(entry, end))

    async def _interrupt(self, entry: Entry) -> None:
        """End a run that nobody goes on with, in the registry alone if its stream takes no end."""
        try:
            await self.end(entry, INTERRUPTED)
        except RunsUnavailable:
            raise
        except Exception:
            log.exception("The stream of the run %r takes no end.", entry.id)
            await self._record(entry, INTERRUPTED)

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
                if not self._stopping:
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
                    self._spawn(self._registry.rotate(), "rotation of the registry")

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
            entry = running.entry
            if entry.id in self.ledger.entries or entry.id in self.ledger.ended:
                running.abandon()
            else:
                # The registry was lost, and nobody else knows of the run.
                self._spawn(self._interrupt(entry), f"end of the run {entry.id}")
        if not self._stopping:
            self._joined.clear()
            self._spawn(self._join(), "worker joins again")

    def _take(self, worker: str) -> None:
        if not self._stopping and worker != self._registry.worker:
            self._registry.tell(Take(worker=worker))

    def _adopt_all(self) -> None:
        if self._stopping:
            return
        for entry in self.ledger.owned_by(self._registry.worker):
            if entry.id not in self.running and entry.id not in self._busy:
                self._busy.add(entry.id)
                self._spawn(self._adopt(copy(entry)), f"adoption of the run {entry.id}")

    def _task_of(self, entry: Entry) -> Task | None:
        """The task that can go on with a run, if it may be restarted once more."""
        task = self._tasks.get(entry.task or "")
        may = task is not None and task.restart and entry.owners <= self._limits.restarts
        return task if may else None

    async def _adopt(self, entry: Entry) -> None:
        """End a run that its worker left behind, or go on with it."""
        try:
            async with self._adopting:
                # Another process may have ended it meanwhile.
                if not self.ledger.is_running(entry.id, entry.number):
                    return
                task = self._task_of(entry)
                if task is None or not await self._restart(entry, task):
                    await self._interrupt(entry)
        finally:
            self._busy.discard(entry.id)

    async def _restart(self, entry: Entry, task: Task) -> bool:
        """Go on with a run; False if that is not possible, and it has to be ended."""
        if self._has_no_place:
            log.warning("The run %r is not restarted: this worker has too many.", entry.id)
            return False
        self._starting.add(entry.id)
        writer = None
        try:
            writer = await claim(self._streams, entry, task.output)
            written = await persistently(lambda: self._finisher.items(entry.id, task.output))
            source = task.source(written, entry.args or {})
            self._run(entry, source, task.output, writer)
        except Lost as lost:
            return await self._is_lost(entry, lost)
        except Exception:
            log.exception("The run %r cannot be restarted.", entry.id)
            return False
        else:
            writer = None
            return True
        finally:
            self._starting.discard(entry.id)
            if writer is not None:
                await writer.release()

    async def _is_lost(self, entry: Entry, lost: Lost) -> bool:
        """Whether a run that cannot be restarted has ended, or has another owner."""
        end = await self._finisher.end_if_closed(entry.id)
        if end is not None:
            await self._record(entry, end)
        return end is not None or lost.why is Why.FENCED

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

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        _ = self._task(work, name)

    def _task(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """A task that ends with this worker at the latest."""
        task = asyncio.create_task(self._logged(work), name=name)
        self._work.add(task)
        task.add_done_callback(self._work.discard)
        return task

    async def _logged(self, work: Coroutine[Any, Any, Any]) -> None:
        try:
            await work
        except RunsUnavailable:
            pass  # shut down, or taken for dead: others go on with it
        except Exception:
            log.exception("Work on runs failed.")


def _ended(entry: Entry, end: End) -> Ended:
    return Ended(id=entry.id, number=entry.number, status=end.status, error=end.error)
