"""What async and sync do differently: waiting, spawning, cancelling, time limits.

Written by hand in each flavour, with the same names, so that everything else translates.
"""

import asyncio
import inspect
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import suppress
from types import TracebackType
from typing import Any, Generic, Self, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

from durable_streams_client import forking
from durable_streams_client.errors import ENDED, Cancelled, ClientClosed, ClientError, TimedOut

T = TypeVar("T")

Work: TypeAlias = Callable[[], Coroutine[Any, Any, None]]
"""The function that a :class:`Worker` runs."""


async def resolve(value: Awaitable[T] | T) -> T:
    """The value itself, awaited if it has to be."""
    if inspect.isawaitable(value):
        return await value
    return value


async def blocking(function: Callable[..., Any], *args: Any) -> Any:
    """The result of a function that may touch the disk, or of a coroutine function."""
    if inspect.iscoroutinefunction(function):
        return await function(*args)
    return await resolve(await asyncio.to_thread(function, *args))


class Local(Generic[T]):
    """One value for each event loop of this process, made when it is first asked for.

    ``end`` is called with it in its loop when :meth:`close` is, or when the loop ends.
    """

    def __init__(
        self, make: Callable[[], T], end: Callable[[T], Coroutine[Any, Any, None]] | None = None
    ) -> None:
        self._make = make
        self._end = end
        self._values: WeakKeyDictionary[
            asyncio.AbstractEventLoop, tuple[T, AsyncGenerator[None] | None]
        ] = WeakKeyDictionary()
        forking.register(self, Local.after_fork)

    async def get(self) -> T:
        """The value of the running loop."""
        loop = asyncio.get_running_loop()
        found = self._values.get(loop)
        if found is not None:
            return found[0]
        for other in list(self._values):
            if other.is_closed():
                del self._values[other]
        value = self._make()
        ending = None
        if self._end is not None:
            # `asyncio.run` ends all generators before it closes its loop, which is the only moment
            # at which a library can close what belongs to the loop.
            ending = _until_the_end(self._end, value)
            await anext(ending)
        self._values[loop] = value, ending
        return value

    async def close(self) -> None:
        """Forget all values, each ended in its own loop if that still runs."""
        here = asyncio.get_running_loop()
        values, self._values = self._values, WeakKeyDictionary()
        for loop, (_, ending) in list(values.items()):
            if ending is None:
                continue
            if loop is here:
                await ending.aclose()
            elif loop.is_running():
                asyncio.run_coroutine_threadsafe(ending.aclose(), loop)

    def after_fork(self) -> None:
        forking.keep(self._values)
        self._values = WeakKeyDictionary()


async def _until_the_end(
    end: Callable[[T], Coroutine[Any, Any, None]], value: T
) -> AsyncGenerator[None]:
    try:
        yield
    finally:
        await end(value)


def owner() -> object:
    """What objects that cannot be shared belong to: the running loop."""
    return asyncio.get_running_loop()


class Notifier:
    """Waits for a change. Read ``version`` before looking at what may change, then wait for it."""

    def __init__(self) -> None:
        self.version = 0
        self._event: asyncio.Event | None = None

    def notify(self) -> None:
        self.version += 1
        if self._event is not None:
            self._event.set()
            self._event = None

    async def wait(self, version: int, seconds: float | None = None) -> None:
        """Return when :meth:`notify` was called after ``version`` was read, or time is up."""
        if self.version != version:
            return
        if self._event is None:
            self._event = asyncio.Event()
        event = self._event
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()


class Limit:
    """A time limit on a block; raises ``TimedOut``."""

    def __init__(self, seconds: float | None, what: str) -> None:
        self._what = what
        self._timeout = asyncio.timeout(seconds)

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            raise TimedOut(self._what) from error


class Scope:
    """A block of waits that another task or thread can end.

    ``group`` holds it while it is entered, so that all waits of a client can be ended at once.
    """

    def __init__(self, group: "set[Scope]") -> None:
        self._group = group
        self._reason: type[ClientError] | None = None
        self._task: asyncio.Task[Any] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._interrupted = False
        self._cancelling = 0

    @property
    def ended(self) -> bool:
        return self._reason is not None

    def cancel(self) -> None:
        """End it: who waits gets ``Cancelled``. From any task or thread."""
        self._end(Cancelled)

    def close(self) -> None:
        """End it because the client is closed: who waits gets ``ClientClosed``."""
        self._end(ClientClosed)

    def _end(self, reason: type[ClientError]) -> None:
        self._reason = self._reason or reason
        task, loop = self._task, self._loop
        if task is None or loop is None:
            return
        with suppress(RuntimeError):  # the loop is closed, and nobody waits any more
            loop.call_soon_threadsafe(self._interrupt, task)

    def _interrupt(self, task: asyncio.Task[Any]) -> None:
        if self._task is task and not self._interrupted:
            self._interrupted = True
            task.cancel()

    def check(self) -> None:
        """Raise the error that says why it was ended, if it was."""
        if self._reason is not None:
            raise self._reason(ENDED[self._reason])

    async def __aenter__(self) -> Self:
        self.check()
        self._loop = asyncio.get_running_loop()
        self._task = task = asyncio.current_task()
        self._interrupted = False
        self._cancelling = 0 if task is None else task.cancelling()
        self._group.add(self)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._group.discard(self)
        task, self._task = self._task, None
        if self._reason is None or task is None:
            return
        left = task.uncancel() if self._interrupted else task.cancelling()
        if isinstance(error, asyncio.CancelledError) and left > self._cancelling:
            return  # the task itself is being cancelled, perhaps as well
        if error is not None:
            raise self._reason(ENDED[self._reason]) from None

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Worker:
    """A piece of work that runs beside the caller."""

    def __init__(self, work: Work, name: str, group: set[Scope]) -> None:
        self._task = asyncio.create_task(work(), name=name)

    async def join(self, seconds: float | None = None) -> None:
        """Wait for its end; after ``seconds`` stop it."""
        try:
            await asyncio.wait([self._task], timeout=seconds)
        finally:
            await self.stop()
        if not self._task.cancelled():
            self._task.result()

    async def stop(self) -> None:
        """End it now."""
        if self._task is asyncio.current_task():
            return
        loop = self._task.get_loop()
        if loop is not asyncio.get_running_loop():
            with suppress(RuntimeError):  # that loop is closed, and the work has ended with it
                loop.call_soon_threadsafe(self._task.cancel)
            return
        self._task.cancel()
        await asyncio.wait([self._task])


def release_later(close: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Give back a connection when nobody is left to wait for that."""
    try:
        task = asyncio.get_running_loop().create_task(close())
    except RuntimeError:
        return  # no loop runs any more, so its connections are gone with it
    _releasing.add(task)
    task.add_done_callback(_releasing.discard)


_releasing: set[asyncio.Task[None]] = set()


def wait_at_exit(changed: Notifier, left: Callable[[], int], patience: float) -> None:
    """Nothing can be waited for: the event loop has ended before the program."""


Mutex = threading.Lock
"""Guards fields that tasks, or in the sync flavour threads, share. Never held across a wait."""
