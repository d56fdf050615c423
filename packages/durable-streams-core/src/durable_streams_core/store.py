"""The storage interface: a few methods, without any rule of the protocol.

Every store implements :class:`Store`. A store that keeps its facts in this process implements
:class:`LocalStore`: it returns them without waiting, so the engine needs no task per request. A
store that also commits without waiting implements :class:`ImmediateStore`. A store whose data is
elsewhere implements :class:`RemoteStore`: reading again what was read before then needs no task.
"""

import logging
from abc import ABC, abstractmethod
from asyncio import Future, get_running_loop
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, TypeVar

from durable_streams_core.entities import Change, Commit, Facts, Head, Outcome, Refused, Slice
from durable_streams_core.errors import StoreError
from durable_streams_core.metrics import Metric

__all__ = [
    "STORE_API",
    "ImmediateStore",
    "LocalStore",
    "RemoteStore",
    "Store",
    "Watcher",
    "Watchers",
    "as_future",
    "check_api",
]

_log = logging.getLogger("durable_streams_core.store")

STORE_API: Final = 1
"""Version of this interface; the engine refuses a store of another one."""

_Result = TypeVar("_Result")
_Begun = TypeVar("_Begun")

Watcher = Callable[[Sequence[Change] | None], None]
"""Called in the event loop with what was committed, in order per path.

None is a resync: anything may have happened in between.
"""


def as_future(
    begin: Callable[[Callable[[_Result], None]], _Begun],
) -> tuple["Future[_Result]", _Begun]:
    """Begin work that calls back with its result: the result as a future, and what was begun.

    Cancelling the future does not disturb the callback.
    """
    future: Future[_Result] = get_running_loop().create_future()

    def resolve(result: _Result) -> None:
        if not future.done():
            future.set_result(result)

    return future, begin(resolve)


class Watchers:
    """The watchers of a store, for its implementation: :meth:`Store.watch` calls :meth:`add`."""

    __slots__ = ("_all", "_telling", "_untold", "_watchers")

    def __init__(self) -> None:
        self._watchers: dict[object, Watcher] = {}
        self._all: tuple[Watcher, ...] = ()
        self._untold: deque[Sequence[Change] | None] = deque()
        self._telling = False

    def __bool__(self) -> bool:
        return bool(self._watchers)

    def add(self, watcher: Watcher) -> Callable[[], None]:
        """Notify ``watcher`` of commits from now on. Returns a function that stops it; calling that
        again is harmless.
        """
        token = object()
        self._watchers[token] = watcher
        self._all = tuple(self._watchers.values())

        def stop() -> None:
            self._watchers.pop(token, None)
            self._all = tuple(self._watchers.values())

        return stop

    def tell(self, changes: Sequence[Change] | None) -> None:
        """Notify every watcher. An exception of one is logged; the others are still notified.

        A watcher may change more. Every watcher is notified of that after what came before it.
        """
        untold = self._untold
        untold.append(changes)
        if self._telling:
            return
        self._telling = True
        try:
            while untold:
                changes = untold.popleft()
                for watcher in self._all:
                    try:
                        watcher(changes)
                    except Exception:
                        _log.exception("a watcher failed")
        finally:
            self._telling = False


class Store(ABC):
    """Keeps entities under paths. All methods are called from one event loop."""

    api: int
    """The version of this interface that the store implements, as a literal number of its own:
    ``api = 1``. It must not follow :data:`STORE_API`, or the check could never fail."""

    @property
    def descriptors(self) -> int:
        """How many file descriptors this store may need at once. A server that accepts connections
        leaves so many free for it.
        """
        return 0

    def metrics(self) -> Sequence[Metric]:
        """What this store counts of itself, at once; open or not. A store need not count."""
        return ()

    @abstractmethod
    async def open(self) -> None:
        """Get ready; raises :class:`StoreError` saying what is wrong and what to do."""

    @abstractmethod
    async def close(self) -> None:
        """Finish what was begun and release everything. Safe to call twice."""

    @abstractmethod
    def now(self) -> int:
        """This store's clock: milliseconds since 1970, shared by all who share the store."""

    @abstractmethod
    async def load(self, path: str, fields: Sequence[str] = ()) -> Facts | None:
        """Head, named fields and counts, or None where nothing is."""

    @abstractmethod
    async def commit(self, batch: Sequence[Commit]) -> Sequence[Outcome]:
        """Try every commit in order, each for itself, in one durable write.

        Durable, by the store's stated promise, before it returns, and visible not before that.
        """

    @abstractmethod
    async def read(self, path: str, incarnation: str, start: int, limit: int) -> Slice | None:
        """At most ``limit`` of the incarnation's own bytes from position ``start``.

        Fewer only at the tail, none from there on. None where that incarnation is not.
        """

    @abstractmethod
    async def scan(
        self, path: str, incarnation: str, kind: str, after: str, limit: int
    ) -> Sequence[tuple[str, bytes]]:
        """A page of the fields whose key begins with ``kind``, in order of keys, from past
        ``after`` (``""`` to begin). Fewer than ``limit`` only at the end; none where that
        incarnation is not.
        """

    @abstractmethod
    async def list(self, prefix: str, after: str, limit: int) -> Sequence[tuple[str, Head]]:
        """A page of the paths that begin with ``prefix``, in code-point order, from past
        ``after``. Fewer than ``limit`` only at the end.
        """

    async def probe(self) -> Refused | None:
        """Why a small commit would be refused now, None if it would be stored.

        The engine asks about twice a second while the store is open, and takes a store that does
        not answer within a second for one that takes no commits. So an implementation asks what
        the data depends on (the disk, the servers), changes nothing, and does not raise for what it
        finds. ``code`` is the outcome's own or a more exact one. A store that is always able to
        commit needs none.
        """
        return None

    @abstractmethod
    async def due(self, before: int, limit: int) -> Sequence[str]:
        """At most ``limit`` of the paths whose deadline is not 0 and not later than ``before``,
        earliest first. An empty answer means that there is none.
        """

    @abstractmethod
    def watch(self, watcher: Watcher) -> Callable[[], None]:
        """Tell ``watcher`` of every commit from now on that changes bytes, closing or state; call
        what is returned to stop, once or more.
        """


class LocalStore(Store):
    """A store that keeps its facts in this process and is the only writer of its data.

    Implement :meth:`peek`, :meth:`submit` and :meth:`slice`; the awaitable methods call them.
    """

    large_read: int = 128 * 1024
    """Reads of more than this many bytes are asked for through :meth:`read`, off the loop."""

    @abstractmethod
    def peek(self, path: str, fields: Sequence[str] = ()) -> Facts | None:
        """Return what :meth:`load` returns, at once."""

    @abstractmethod
    def submit(self, batch: Sequence[Commit], done: Callable[[Sequence[Outcome]], None]) -> None:
        """Do as :meth:`Store.commit` does, and call ``done`` once, in the event loop, perhaps
        before this returns.

        The outcome is :class:`Unknown` only for commits that were being written when the disk
        failed. The store then takes no more commits until it is opened again.
        """

    def submit_append(
        self,
        path: str,
        facts: Facts,
        data: bytes,
        fields: Mapping[str, bytes | None],
        done: Callable[[Outcome], None],
    ) -> bool:
        """Append ``data`` and set ``fields``, and call ``done`` as :meth:`submit` does, where the
        entity still has the very head of ``facts`` and its fields; else nothing is done.

        False if nothing was begun: the caller submits a commit then. A store need not implement
        this; it saves the most frequent commits their guard and their id.
        """
        return False

    @abstractmethod
    def slice(self, path: str, incarnation: str, start: int, limit: int) -> Slice | None:
        """Return what :meth:`read` returns, at once."""

    async def load(self, path: str, fields: Sequence[str] = ()) -> Facts | None:
        """Return what :meth:`peek` returns."""
        return self.peek(path, fields)

    async def commit(self, batch: Sequence[Commit]) -> Sequence[Outcome]:
        """Submit the batch and wait for its outcomes."""
        future: Future[Sequence[Outcome]]
        future, _ = as_future(partial(self.submit, batch))
        return await future

    async def read(self, path: str, incarnation: str, start: int, limit: int) -> Slice | None:
        """Return what :meth:`slice` returns."""
        return self.slice(path, incarnation, start, limit)


class ImmediateStore(LocalStore):
    """A local store whose commits are done when the call returns: implement :meth:`commit_nowait`.

    The engine then needs no queue for an operation on a stream that is otherwise idle.
    """

    @abstractmethod
    def commit_nowait(self, batch: Sequence[Commit]) -> Sequence[Outcome]:
        """Do as :meth:`Store.commit` does, and notify the watchers before the outermost call
        returns. A watcher may commit more; every watcher is notified of that after this.
        """

    def append_nowait(
        self, path: str, head: Head, data: bytes, fields: Mapping[str, bytes | None]
    ) -> bool:
        """Append ``data`` to the entity that has this very head and set ``fields``, as a commit
        without a guard does.

        False if nothing was done: the caller commits it then. A store need not implement this; it
        saves the most frequent commits their guard and their id.
        """
        return False

    def submit(self, batch: Sequence[Commit], done: Callable[[Sequence[Outcome]], None]) -> None:
        """Commit and call ``done``, before this returns."""
        done(self.commit_nowait(batch))


class RemoteStore(Store):
    """A store that asks others for its data, and can ask for a head without a task: implement
    :meth:`look`.

    The engine keeps pages. Before it serves one again, it looks whether the stream is as it was.
    """

    visible_early: bool = False
    """Whether a commit can be seen before it is durable. The engine then confirms a result that
    rests on an earlier commit, such as a producer's duplicate, by a commit that changes nothing.
    """

    @abstractmethod
    def look(self, path: str, done: Callable[[Head | Exception | None], None]) -> None:
        """Call ``done`` once, later and in the event loop, with the head that ``load`` would
        find, None where nothing is, or with what ``load`` would raise.

        The head is one that was there after this call began. Raises where nothing can be asked.
        """


def check_api(store: Store) -> None:
    """Raise :class:`StoreError` unless the store states this version of the interface."""
    stated = getattr(store, "api", None)
    if stated is None:
        raise StoreError(
            f"{type(store).__name__} does not state which version of the store interface it "
            f"implements: give the class `api = {STORE_API}`, as a literal number."
        )
    if stated != STORE_API:
        raise StoreError(
            f"{type(store).__name__} implements version {stated} of the store interface and this "
            f"server needs {STORE_API}: install matching versions of both packages."
        )
