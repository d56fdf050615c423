"""Runs: start a source, let anybody follow what it yields, and have it end properly."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Self

import msgspec

from durable_streams_core.errors import Gone, InvalidRequest, NotFound
from durable_streams_core.paths import check_path
from durable_streams_core.protocol import NOW, START
from durable_streams_runs.errors import NotARun, RunNotFound, RunsUnavailable
from durable_streams_runs.finishing import Finisher
from durable_streams_runs.formats import JSON, TEXT, Format
from durable_streams_runs.ledger import Ledger, matching
from durable_streams_runs.limits import Limits
from durable_streams_runs.records import Start
from durable_streams_runs.states import End, Part, RunInfo, Status
from durable_streams_runs.streams import streams_of
from durable_streams_runs.tasks import Task
from durable_streams_runs.worker import Worker

__all__ = ["Run", "Runs"]


CREATION_PAUSE = 0.02
"""Seconds between two looks for a stream that another worker is about to create."""


class Runs:
    """Runs of one service. Use it in an ``async with`` block, in every process of the service.

    Long because it is the public API: most of its lines say what a call takes and returns.

    - ``streams``: an ``Engine`` or an ``AsyncClient``.
    - ``root``: the URL below which clients find the streams, such as ``"/streams/"``. By default
      that of the client.
    - ``registry``: the path of the stream by which the processes of the service know each other.
      No client needs access to it, or to what is below it.
    - ``lease``: the time in seconds within which the runs of a dead worker are ended or restarted.
      All processes of a service have the same.
    - ``formats``: more ways to write runs, beside ``TEXT`` and ``JSON``; the same in all processes.
    - ``limits``: see :class:`Limits`.

    Raises ``TypeError`` for streams of another kind and ``ValueError`` for a lease below 0.5.
    """

    def __init__(
        self,
        streams: Any,
        *,
        root: str = "",
        registry: str = "runs/registry",
        lease: float = 10.0,
        formats: Sequence[Format] = (),
        limits: Limits | None = None,
    ) -> None:
        if not lease >= 0.5:
            raise ValueError("lease must be at least 0.5 seconds")
        self._given = streams
        self._streams = streams_of(streams, root)
        self._registry = check_path(registry)
        self._lease = lease
        self._limits = limits or Limits()
        self._formats = {form.name: form for form in (TEXT, JSON, *formats)}
        self._finisher = Finisher(self._streams, self._formats)
        self._tasks: dict[str, Task] = {}
        self._worker: Worker | None = None

    # Start and stop.

    async def __aenter__(self) -> Self:
        if self._worker is not None:
            raise RunsUnavailable("These runs are started already.")
        worker = Worker(
            self._streams,
            self._finisher,
            self._tasks,
            registry=self._registry,
            lease=self._lease,
            limits=self._limits,
        )
        await worker.start()
        self._worker = worker
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the runs of this process as interrupted, or leave them to another process."""
        worker, self._worker = self._worker, None
        if worker is not None:
            await worker.stop()

    @asynccontextmanager
    async def lifespan(self, _app: object = None) -> AsyncIterator[None]:
        """For ``FastAPI(lifespan=runs.lifespan)``: starts and stops the streams as well."""
        async with self._given, self:
            yield

    # Runs.

    def task(
        self, *, output: Format = TEXT, restart: bool = False, name: str | None = None
    ) -> Callable[[Callable[..., AsyncIterable[Any]]], Task]:
        """Decorate a function that makes a source, so that it can be started by its name.

        With ``restart``, another process goes on with a run whose worker died or shut down. The
        function then takes what was written already as its first argument, a ``str`` or a list of
        messages, and yields what comes after it.

        Raises ``ValueError`` if the name is taken, or the format has no restarts.
        """

        def decorate(function: Callable[..., AsyncIterable[Any]]) -> Task:
            task = Task(name or function.__name__, function, output, restart)
            if task.name in self._tasks:
                raise ValueError(f"there is a task {task.name!r} already")
            if restart and output.restart() is None:
                raise ValueError(f"runs of the format {output.name!r} cannot be restarted")
            self._tasks[task.name] = task
            return task

        return decorate

    async def start(
        self,
        run_id: str,
        source: AsyncIterable[Any] | Task,
        *,
        args: Mapping[str, Any] | None = None,
        output: Format = TEXT,
        ttl: int | None = None,
    ) -> "Run":
        """Start a run in this process, and return when its stream is there.

        If there is a run of that id, running or ended, it is left as it is, and the caller
        attaches to it: ``source`` is not used, and ``Run.started`` is False. To use an id again,
        delete the stream first.

        Args:
            run_id: the path of the run's stream.
            source: an asynchronous iterator, such as a generator that was called; or a
                :class:`Task`.
            args: the arguments of a task, which JSON can hold.
            output: how the run is written: ``TEXT`` takes ``str``, ``JSON`` any value that JSON can
                hold. A task has its own.
            ttl: seconds after which the stream expires unless it is read or written.

        Raises:
            TypeError: if ``source`` is not one, or ``args`` are given without a task.
            InvalidRequest: for an id or a lifetime that no stream can have.
            NotARun: if another stream is at that path.
            RunsUnavailable: if the runs are not started, or there are too many.
            Unavailable: if the store takes no streams now.

        """
        if isinstance(source, Task):
            task, output = source, source.output
            made = task.source([], dict(args or {}))
        else:
            task, made = None, source
            if args is not None:
                raise TypeError("args are those of a task; call the generator with them instead")
        if not hasattr(made, "__aiter__"):
            raise TypeError(
                f"a source is an asynchronous iterator, not {type(made).__name__}; a generator"
                " function has to be called"
            )
        try:
            worker = self._started()
            record = self._record(run_id, task, args, output, ttl)
        except BaseException:
            await _discard(made)
            raise
        started = await worker.detached(self._start(worker, record, made, output))
        return Run(self, run_id, self.url(run_id), started=started)

    def _record(
        self, run_id: str, task: Task | None, args: Any, output: Format, ttl: int | None
    ) -> Start:
        check_path(run_id)
        if run_id == self._registry or run_id.startswith(self._registry + "/"):
            raise InvalidRequest("The registry of runs is there.", code="invalid-path")
        if ttl is not None and not ttl > 0:
            raise InvalidRequest("ttl must be above 0 seconds.", code="invalid-ttl")
        if output.name not in self._formats:
            raise ValueError(f"Runs was not given the format {output.name!r}")
        if task is None or not task.restart:
            return Start(id=run_id, format=output.name, ttl=ttl)
        encoded = msgspec.json.encode(dict(args or {}))
        if len(encoded) > self._limits.args_bytes:
            raise ValueError(f"args are larger than {self._limits.args_bytes} bytes as JSON")
        return Start(
            id=run_id,
            format=output.name,
            ttl=ttl,
            task=task.name,
            args=msgspec.json.decode(encoded),
        )

    async def _start(
        self, worker: Worker, record: Start, source: AsyncIterable[Any], form: Format
    ) -> bool:
        """Run the source, or close it and return False once another run has its stream."""
        used = False
        try:
            while not (used := await worker.begin(record, source, form) is not None):
                if await self._attach(worker, record.id):
                    break
        finally:
            if not used:
                await _discard(source)
        return used

    async def _attach(self, worker: Worker, run_id: str) -> bool:
        """Whether there is a run of that id; False if the id is free after all."""
        if await self._until_created(worker, run_id):
            return True
        if run_id in worker.ledger.ended:
            if await self._exists(run_id):
                return True
            await worker.forget(run_id)
        return False

    async def _until_created(self, worker: Worker, run_id: str) -> bool:
        """Wait until a running run has its stream; False if no running run has that id."""
        while run_id in worker.ledger.entries:
            if await self._exists(run_id):
                return True
            # Its worker is about to create the stream, or is dead.
            await asyncio.sleep(CREATION_PAUSE)
        return False

    async def _exists(self, run_id: str) -> bool:
        try:
            await self._streams.is_closed(run_id)
        except (NotFound, Gone):
            return False
        return True

    async def stop(self, run_id: str) -> RunInfo:
        """Stop a run of any process; one that ended before stays as it ended.

        The stream is closed at once. Its source is cancelled.

        Raises:
            RunNotFound: if there is no such run.
            NotARun: if the stream is not a run.
            RunsUnavailable: if the runs are not started.

        """
        worker = self._started()
        info = await self.status(run_id)
        entry = worker.ledger.entries.get(run_id)
        if entry is None or info.status is not Status.RUNNING:
            return info
        return self._info(run_id, await worker.end(msgspec.structs.replace(entry), END_STOPPED))

    async def status(self, run_id: str) -> RunInfo:
        """The status of a run. Raises what :meth:`stop` raises."""
        worker = self._started()
        ledger = worker.ledger
        try:
            check_path(run_id)
            if run_id not in ledger.ended and await self._streams.is_closed(run_id):
                return self._info(run_id, await self._end_of(run_id, ledger))
        except (NotFound, Gone, InvalidRequest):
            if run_id not in ledger.entries:
                raise RunNotFound(f"There is no run {run_id!r}.") from None
        if run_id not in ledger.ended and run_id not in ledger.entries:
            # Another process may have started it just now.
            await worker.sync()
        if run_id in ledger.ended:
            return self._info(run_id, ledger.ended[run_id])
        if run_id in ledger.entries:
            return self._info(run_id, End(Status.RUNNING))
        raise NotARun(f"The stream at {run_id!r} is not a run.")

    async def _end_of(self, run_id: str, ledger: Ledger) -> End:
        end = await self._finisher.read_end(run_id)
        if end is None and run_id not in ledger.entries:
            raise NotARun(f"The stream at {run_id!r} is not a run.")
        return end or End(Status.INTERRUPTED)

    async def list(self, prefix: str = "", *, after: str = "", limit: int = 100) -> list[RunInfo]:
        """Running runs and the latest ended ones, by id: at most ``limit`` past ``after``.

        The ends of the last 1,000 runs are listed; ``status`` knows those of all.
        """
        ledger = self._started().ledger
        known = {run_id: End(Status.RUNNING) for run_id in ledger.entries} | ledger.ended
        return [
            self._info(run_id, known[run_id]) for run_id in matching(known, prefix, after)[:limit]
        ]

    async def follow(self, run_id: str, offset: str = START) -> AsyncIterator[Part]:
        """Everything that a run yields from an offset on, until it ends.

        The last part has the ``end``. Items of a run that was restarted go on after those that
        were written before. Raises :class:`RunNotFound`, :class:`NotARun`, and what following a
        stream raises.
        """
        worker = self._started()
        entry = worker.ledger.entries.get(run_id)
        await self._until_created(worker, run_id)
        try:
            parser = await self._finisher.parser(run_id, entry.format if entry else None)
            safe = offset
            async for batch in self._streams.follow(run_id, offset):
                items = parser.feed(batch.data)
                if parser.between_records or batch.closed:
                    safe = batch.offset
                if batch.closed:
                    end = parser.end or await self._finisher.end_of(run_id)
                    yield Part(items=items, offset=safe, end=end)
                    return
                if items:
                    yield Part(items=items, offset=safe)
        except (NotFound, Gone):
            raise RunNotFound(f"There is no run {run_id!r}.") from None

    async def wait(self, run_id: str) -> RunInfo:
        """Wait until a run has ended. Raises what :meth:`follow` raises."""
        running = self._started().running.get(run_id)
        end = await running.ended() if running is not None else None
        if end is not None:
            return self._info(run_id, end)
        async for part in self.follow(run_id, NOW):
            if part.end is not None:
                return self._info(run_id, part.end)
        raise RunNotFound(f"There is no run {run_id!r}.")

    def url(self, run_id: str) -> str:
        """Where clients read the stream of a run."""
        return self._streams.url(run_id)

    def tasks(self) -> Mapping[str, Task]:
        """The tasks by their names."""
        return self._tasks

    def _info(self, run_id: str, end: End) -> RunInfo:
        return RunInfo(id=run_id, url=self.url(run_id), status=end.status, error=end.error)

    def _started(self) -> Worker:
        if self._worker is None:
            raise RunsUnavailable("The runs are not started: use them in an `async with` block.")
        return self._worker


END_STOPPED = End(Status.STOPPED)


class Run:
    """A run that was started, by this call or before it.

    ``url`` is where clients read its stream. ``started`` is False if there was one of its id.
    """

    def __init__(self, runs: Runs, run_id: str, url: str, *, started: bool) -> None:
        self.id = run_id
        self.url = url
        self.started = started
        self._runs = runs

    def __repr__(self) -> str:
        return f"<Run {self.id!r}>"

    async def stop(self) -> RunInfo:
        """Stop it; see ``Runs.stop``."""
        return await self._runs.stop(self.id)

    async def status(self) -> RunInfo:
        """Its status; see ``Runs.status``."""
        return await self._runs.status(self.id)

    async def wait(self) -> RunInfo:
        """Wait until it has ended; see ``Runs.wait``."""
        return await self._runs.wait(self.id)

    def follow(self, offset: str = START) -> AsyncIterator[Part]:
        """Its output; see ``Runs.follow``."""
        return self._runs.follow(self.id, offset)


async def _discard(source: Any) -> None:
    """Close a source that nobody will read."""
    close = getattr(source, "aclose", None)
    if close is not None:
        await close()
