"""A store that has to be waited for, as one behind a network is, and that fails when told to.

It keeps its data in a :class:`MemoryStore` that several of them may share, each then being one
process's view of it. What happens to a commit on its way is decided by ``fate``.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum

from durable_streams_core.entities import Commit, Facts, Head, Outcome, Slice, Unknown
from durable_streams_core.store import Store, Watcher
from durable_streams_server.stores.memory import MemoryStore


class Fate(Enum):
    """What may become of a commit, beside the outcomes themselves."""

    ARRIVES = "it arrives, and so does its answer"
    ANSWER_LOST = "it is applied and nobody hears of it"
    LOST = "it never arrives"


Fates = Callable[[Commit], "Fate | Outcome | Exception"]


def always_arrives(_commit: Commit) -> Fate:
    return Fate.ARRIVES


class Gate:
    """Open at first; whoever passes while it is shut waits there."""

    def __init__(self) -> None:
        self._open = asyncio.Event()
        self._open.set()
        self.reached = asyncio.Event()
        """Somebody waits, or has waited, at the shut gate."""

    def shut(self) -> None:
        self.reached.clear()
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    async def passed(self) -> None:
        if not self._open.is_set():
            self.reached.set()
            await self._open.wait()
        else:
            await asyncio.sleep(0)


class RemoteStore(Store):
    """Counts what it is asked (``loads``, ``reads``, ``sent``) and delays or fails it."""

    api = 1

    def __init__(self, inner: MemoryStore) -> None:
        self.inner = inner
        self.fate: Fates = always_arrives
        self.loading = Gate()
        self.committing = Gate()
        self.reading = Gate()
        self.before_commit: Callable[[Commit], Awaitable[None]] | None = None
        self.load_error: Exception | None = None
        self.loads = 0
        self.reads = 0
        self.sent: list[Commit] = []
        self.opened = False

    async def open(self) -> None:
        self.opened = True

    async def close(self) -> None:
        self.opened = False

    def now(self) -> int:
        return self.inner.now()

    async def load(self, path: str, fields: Sequence[str] = ()) -> Facts | None:
        self.loads += 1
        await self.loading.passed()
        if self.load_error is not None:
            raise self.load_error
        return await self.inner.load(path, fields)

    async def commit(self, batch: Sequence[Commit]) -> Sequence[Outcome]:
        self.sent.extend(batch)
        await self.committing.passed()
        return [await self._commit(commit) for commit in batch]

    async def _commit(self, commit: Commit) -> Outcome:
        if self.before_commit is not None:
            await self.before_commit(commit)
        fate = self.fate(commit)
        if isinstance(fate, Exception):
            raise fate
        if fate is Fate.LOST:
            return Unknown("The request was lost.")
        if not isinstance(fate, Fate):
            return fate
        (outcome,) = await self.inner.commit([commit])
        if fate is Fate.ANSWER_LOST:
            return Unknown("The answer was lost.")
        return outcome

    async def read(self, path: str, incarnation: str, start: int, limit: int) -> Slice | None:
        self.reads += 1
        await self.reading.passed()
        return await self.inner.read(path, incarnation, start, limit)

    async def scan(
        self, path: str, incarnation: str, kind: str, after: str, limit: int
    ) -> Sequence[tuple[str, bytes]]:
        return await self.inner.scan(path, incarnation, kind, after, limit)

    async def list(self, prefix: str, after: str, limit: int) -> Sequence[tuple[str, Head]]:
        return await self.inner.list(prefix, after, limit)

    async def due(self, before: int, limit: int) -> Sequence[str]:
        return await self.inner.due(before, limit)

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        return self.inner.watch(watcher)


def commits_of(store: RemoteStore, path: str) -> Sequence[str]:
    """The ids of what was sent for a path, in order, resends included."""
    return [commit.id for commit in store.sent if commit.path == path]
