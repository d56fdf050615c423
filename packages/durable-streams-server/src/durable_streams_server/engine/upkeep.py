"""Upkeep: the engine's own work, which no caller waits for.

It ends lifetimes, finishes and undoes interrupted forks, releases the sources of forks that are
gone, and forgets the producers that were idle longest. Work that fails is repeated in a
later sweep.
"""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

from durable_streams_core.drafts import Draft
from durable_streams_core.entities import FORKING, LIVE, Commit, Facts
from durable_streams_core.errors import ProtocolError, Unavailable
from durable_streams_core.operations import Expire, ForgetProducers
from durable_streams_core.protocol import RESERVED_SEGMENT
from durable_streams_core.store import LocalStore, Store
from durable_streams_core.streams import PRODUCER, Origin, birth_of, decode_producer
from durable_streams_server.engine.commit_queue import Ticket
from durable_streams_server.engine.forks import Forks
from durable_streams_server.engine.meter import EngineMeter
from durable_streams_server.perform import Perform

log = logging.getLogger("durable_streams_server.engine")

SWEEP_SECONDS: Final = 1.0
_SWEEP_PAGE: Final = 200
_SWEEP_PAGES: Final = 50
_PRODUCER_PAGE: Final = 1000
_FORGOTTEN_AT_ONCE: Final = 500
_RESERVED: Final = RESERVED_SEGMENT + "/"


class Upkeep:
    """Follows up on the commits of one engine, and sweeps its store.

    ``control_due`` is called with the path of a control entity whose deadline is over.
    """

    def __init__(
        self,
        store: Store,
        perform: Perform,
        forks: Forks,
        meter: EngineMeter,
        *,
        max_producers: int,
        control_due: Callable[[str], None],
    ) -> None:
        self._store = store
        self._local = store if isinstance(store, LocalStore) else None
        self._perform = perform
        self._forks = forks
        self._meter = meter
        self._max_producers = max_producers
        self._control_due = control_due
        self._tasks: set[asyncio.Task[Any]] = set()
        self._releases: dict[str, asyncio.Task[None]] = {}
        self._trimming: set[str] = set()
        self._sweeper: asyncio.Task[None] | None = None
        self._pace = LogPace()

    # Tasks.

    def start(self) -> None:
        """Sweep from now on."""
        self._sweeper = asyncio.create_task(self._sweep_for_ever())

    async def stop_sweeping(self) -> None:
        """Sweep no more. Other tasks go on: see :meth:`finish` and :meth:`cancel`."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.gather(self._sweeper, return_exceptions=True)

    @property
    def busy(self) -> bool:
        """Whether any task is under way."""
        return bool(self._tasks)

    async def finish(self) -> None:
        """Wait for the tasks under way, which may begin more."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def cancel(self, patience: float) -> None:
        """Cancel the tasks that do not end within so many seconds."""
        if self._tasks:
            _, stuck = await asyncio.wait(self._tasks, timeout=patience)
            for task in stuck:
                task.cancel()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run work that belongs to the engine and not to a caller."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _spawn_logged(self, work: Awaitable[Any]) -> asyncio.Task[None]:
        return self.spawn(self._logged(work))

    # After a commit.

    def applied(self, draft: Draft, commit: Commit, facts: Facts | None) -> None:
        """Release the source of a fork that was removed, and forget surplus producers."""
        removed = draft.removed
        if removed is not None and not draft.path.startswith(_RESERVED):
            origin = birth_of(removed).origin
            if origin is not None:
                self._release(origin, draft.path, removed.incarnation)
        if commit.delta.fields:
            if self._local is not None:
                facts = self._local.peek(draft.path)
            if facts is not None and facts.counts.get(PRODUCER, 0) > self._max_producers:
                self._trim(draft.path, facts)

    def _release(self, origin: Origin, fork: str, incarnation: str) -> None:
        task = self._spawn_logged(self._forks.release(origin, fork, incarnation))
        self._releases[incarnation] = task
        task.add_done_callback(lambda _: self._releases.pop(incarnation, None))

    async def released(self, incarnation: str) -> None:
        """Wait until the source of a fork that was just removed has been released."""
        release = self._releases.get(incarnation)
        if release is not None:
            await asyncio.shield(release)

    def _trim(self, path: str, facts: Facts) -> None:
        if path not in self._trimming:
            self._trimming.add(path)
            task = self._spawn_logged(self._forget_producers(path, facts.head.incarnation))
            task.add_done_callback(lambda _: self._trimming.discard(path))

    async def _forget_producers(self, path: str, incarnation: str) -> None:
        """Forget the tenth of a stream's producers that has been idle longest."""
        producers: list[tuple[int, str, bytes]] = []
        after = ""
        while True:
            rows = await self._store.scan(path, incarnation, PRODUCER, after, _PRODUCER_PAGE)
            for key, value in rows:
                entry = decode_producer(value)
                producers.append((0 if entry is None else entry.used, key, value))
            if len(rows) < _PRODUCER_PAGE:
                break
            after = rows[-1][0]
        surplus = len(producers) - self._max_producers * 9 // 10
        producers.sort()
        oldest = [(key, value) for _, key, value in producers[: max(0, surplus)]]
        for begin in range(0, len(oldest), _FORGOTTEN_AT_ONCE):
            some = oldest[begin : begin + _FORGOTTEN_AT_ONCE]
            await self._perform(path, ForgetProducers(incarnation, some))

    # Forks.

    def unconfirmed(self, path: str, ticket: Ticket) -> None:
        """Finish or undo the fork that an operation met, then repeat the operation."""
        _ = self.spawn(self._repeat(path, ticket))

    async def _repeat(self, path: str, ticket: Ticket) -> None:
        try:
            await self._forks.resolve(path)
            result = await self._perform(path, ticket.operation)
        except ProtocolError as error:
            result = error
        except Exception:
            log.exception("finishing a fork failed")
            result = Unavailable("The fork here could not be finished; try again.")
        ticket.finish(result)

    # Sweeping.

    async def _sweep_for_ever(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + SWEEP_SECONDS * random.uniform(0.8, 1.2)
            await asyncio.sleep(due - loop.time())
            self._meter.loop_lag.observe(max(0.0, loop.time() - due))
            await self._logged(self.sweep())

    async def sweep(self) -> None:
        """End every life that is over and tidy up after forks that were interrupted."""
        for _ in range(_SWEEP_PAGES):
            paths = await self._store.due(self._store.now(), _SWEEP_PAGE)
            streams = [path for path in paths if not path.startswith(_RESERVED)]
            for path in streams:
                await self._logged(self._sweep_one(path))
            for path in paths:
                if path.startswith(_RESERVED):
                    self._control_due(path)
            if len(paths) < _SWEEP_PAGE or not streams:
                return

    async def _sweep_one(self, path: str) -> None:
        facts = await self._store.load(path)
        if facts is None:
            return
        if facts.head.state == LIVE:
            await self._perform(path, Expire())
        elif facts.head.state == FORKING:
            await self._forks.resolve(path)
        else:
            await self._forks.examine(path)

    async def _logged(self, work: Awaitable[Any]) -> None:
        """Await work and log its failure."""
        try:
            await work
        except ProtocolError as error:
            # A store that is away for an hour would fail thousands of times.
            if self._pace.is_due(asyncio.get_running_loop().time()):
                log.warning("upkeep is left to the next sweep: %s", error)
        except Exception:
            log.exception("upkeep failed")


class LogPace:
    """Says when to log a failure that repeats: at once, then at intervals that grow to an hour.

    It begins again after a minute without a failure.
    """

    FIRST_SECONDS: Final = 5.0
    GROWTH: Final = 3
    MOST_SECONDS: Final = 3600.0
    QUIET_SECONDS: Final = 60.0

    __slots__ = ("_failed_at", "_interval", "_next")

    def __init__(self) -> None:
        self._failed_at = self._next = float("-inf")
        self._interval = self.FIRST_SECONDS

    def is_due(self, now: float) -> bool:
        """Whether to log a failure at this moment, in seconds of any steady clock."""
        if now - self._failed_at > self.QUIET_SECONDS:
            self._next, self._interval = now, self.FIRST_SECONDS
        self._failed_at = now
        if now < self._next:
            return False
        self._next = now + self._interval
        self._interval = min(self._interval * self.GROWTH, self.MOST_SECONDS)
        return True
