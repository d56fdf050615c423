"""The stores under test, and helpers that every part of the contract suite uses."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from unittest import SkipTest
from uuid import uuid4

from durable_streams_core.entities import (
    LIVE,
    NO_FIELDS,
    Applied,
    Change,
    Commit,
    Conflicted,
    Delta,
    Facts,
    Guard,
    Head,
    Outcome,
)
from durable_streams_core.offsets import NO_TIMELINE
from durable_streams_core.store import Store

EVERY_BYTE = bytes(range(256))

PATHS = (
    "a",
    "A",
    "a b",
    "a*[?]",
    "a/b",
    "a/b/c",
    "a0",
    "a{tag}:b",
    "chats/%2F",
    "chats/42",
    "chats/7",
    "'quoted' \"twice\"",
    "__ds/subscriptions/x",
    "zürich",
    "zu\u0308rich",
    "\u20ac/\uffee",
    "\uff21/\ufffd",
    "\U0001f600/\U0001f9d1\u200d\U0001f680",
    "~",
    "p" * 1024,
)
"""Paths that a stream, or a subscription, may have. Their order by code points is not that of any
language, nor that of UTF-16."""


class StoreHarness:
    """The stores under test. A subclass provides :meth:`make_store`, and what else it can."""

    patience: float = 30.0
    """Seconds until a test gives up waiting for a watcher to be told."""

    async def make_store(self) -> Store:
        """A new store that is open and holds nothing. The suite closes it."""
        raise NotImplementedError

    async def reopen(self, store: Store) -> Store | None:
        """``store``, which is open, closed and opened again over the same data.

        None, as here, where nothing outlives the store.
        """
        return None

    async def second_store(self, store: Store) -> Store | None:
        """Another open store over the data of ``store``, as another process would have it.

        None, as here, where a store has its data for itself. The suite closes it.
        """
        return None

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Store]:
        """One store, closed in the end."""
        store = await self.make_store()
        try:
            yield store
        finally:
            await store.close()

    @asynccontextmanager
    async def handles(self) -> AsyncIterator[tuple[Store, Store]]:
        """Two stores over the same data; the same one twice where only one store can."""
        async with AsyncExitStack() as stack:
            store = await stack.enter_async_context(self.opened())
            second = await self.second_store(store)
            if second is not None:
                stack.push_async_callback(second.close)
            yield store, store if second is None else second

    @asynccontextmanager
    async def watched(self, store: Store) -> AsyncIterator["Recorder"]:
        """Everything that a watcher of ``store`` is told from now on."""
        recorder = Recorder(self.patience)
        stop = store.watch(recorder)
        try:
            yield recorder
        finally:
            stop()


class Recorder:
    """A watcher that keeps what it is told, and can be waited for."""

    def __init__(self, patience: float) -> None:
        self.changes: list[Change] = []
        self._patience = patience
        self._changed = asyncio.Event()

    def __call__(self, changes: Sequence[Change] | None) -> None:
        assert changes is not None, "a resync, though nothing went wrong"
        self.changes += changes
        self._changed.set()

    def of(self, path: str) -> list[Change]:
        """The changes of one path."""
        return [change for change in self.changes if change.path == path]

    async def until(self, enough: Callable[[Change], bool]) -> None:
        """Wait for a change that is ``enough``."""
        try:
            async with asyncio.timeout(self._patience):
                while not any(map(enough, self.changes)):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"a change was never told, only {self.changes!r}") from None

    async def until_tail(self, head: Head, tail: int) -> None:
        """Wait until this incarnation was said to reach ``tail``."""
        await self.until(lambda c: c.incarnation == head.incarnation and c.tail >= tail)

    async def until_gone(self, head: Head) -> None:
        """Wait until this incarnation was said to be served no more."""
        await self.until(lambda c: c.incarnation == head.incarnation and c.gone)


def new_id() -> str:
    """An id as commits and incarnations have them."""
    return uuid4().hex


def new_head(
    *,
    birth: bytes = b"birth",
    start: int = 0,
    state: str = LIVE,
    deadline: int = 0,
    timeline: bytes = NO_TIMELINE,
    past: tuple[tuple[bytes, int], ...] = (),
) -> Head:
    """The head of a new entity."""
    return Head(new_id(), birth, start, start, False, state, deadline, timeline, past)


def change(path: str, guard: Guard, base: int = 0, **delta: object) -> Commit:
    """A commit with an id of its own; keywords are the delta."""
    return Commit(new_id(), path, guard, Delta(**delta), base)  # type: ignore[arg-type]


def creation(path: str, head: Head, **delta: object) -> Commit:
    """A commit that creates where nothing is."""
    return change(path, Guard(None), head.start, create=head, **delta)


def append(path: str, head: Head, data: bytes, **delta: object) -> Commit:
    """A commit as a plain append makes it."""
    guard = Guard(head.incarnation, state=LIVE, open=True)
    return change(path, guard, head.tail, data=data, **delta)


def removal(path: str, head: Head) -> Commit:
    """A commit that removes."""
    return change(path, Guard(head.incarnation), head.tail, remove=True)


async def commit(store: Store, one: Commit) -> Outcome:
    """The outcome of a batch of one."""
    (outcome,) = await store.commit([one])
    return outcome


async def applied(store: Store, one: Commit) -> int:
    """The tail after a commit that must be applied."""
    outcome = await commit(store, one)
    assert isinstance(outcome, Applied), f"{one!r} ended as {outcome!r}"
    return outcome.tail


async def conflicted(store: Store, one: Commit) -> Facts | None:
    """The facts of a commit that must meet a conflict."""
    outcome = await commit(store, one)
    assert isinstance(outcome, Conflicted), f"{one!r} ended as {outcome!r}"
    return outcome.facts


async def created(store: Store, path: str, head: Head | None = None, **delta: object) -> Head:
    """The head of an entity created for a test, as the store has it."""
    await applied(store, creation(path, head or new_head(), **delta))
    return (await loaded(store, path)).head


async def loaded(store: Store, path: str, fields: Sequence[str] = ()) -> Facts:
    """The facts of what must be there."""
    facts = await store.load(path, fields)
    assert facts is not None, f"nothing is at {path!r}"
    return facts


async def content(store: Store, path: str, head: Head, page: int = 1 << 20) -> bytes:
    """All own bytes of an incarnation, read page by page."""
    parts: list[bytes] = []
    position = head.start
    while True:
        found = await store.read(path, head.incarnation, position, page)
        assert found is not None, f"{path!r} cannot be read"
        assert len(found.data) == min(page, found.head.tail - position)
        if not found.data:
            return b"".join(parts)
        parts.append(found.data)
        position += len(found.data)


def counted(facts: Facts, kind: str) -> int:
    """How many fields of a kind there are."""
    return facts.counts.get(kind, 0)


def same_fields(facts: Facts, wanted: Mapping[str, bytes | None] = NO_FIELDS) -> bool:
    """Whether the facts hold at least these fields, with these values."""
    return all(key in facts.fields and facts.fields[key] == value for key, value in wanted.items())


def skip(reason: str) -> SkipTest:
    """What to raise from a test that does not concern this store."""
    return SkipTest(reason)
