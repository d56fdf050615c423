"""What async and sync do differently: waiting, spawning, cancelling, time limits.

Written by hand in each flavour, with the same names, so that everything else translates.
"""

import inspect
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from types import TracebackType
from typing import Any, Generic, Self, TypeAlias, TypeVar

from durable_streams_client import forking
from durable_streams_client.errors import (
    ENDED,
    Cancelled,
    ClientClosed,
    ClientError,
    InvalidArgument,
    TimedOut,
)

T = TypeVar("T")

Work: TypeAlias = Callable[[], None]
"""The function that a :class:`Worker` runs."""

_current = threading.local()


def resolve(value: T) -> T:
    """The value itself; a coroutine is refused, for there is no loop to run it."""
    if inspect.isawaitable(value):
        if inspect.iscoroutine(value):
            value.close()
        raise InvalidArgument(
            "a coroutine function was given to the sync client",
            advice="Use AsyncClient, or a plain function.",
        )
    return value


def blocking(function: Callable[..., Any], *args: Any) -> Any:
    """The result of a function that may touch the disk."""
    return resolve(function(*args))


class Local(Generic[T]):
    """One value for this process, made when it is first asked for.

    ``end`` is called with it when :meth:`close` is.
    """

    def __init__(self, make: Callable[[], T], end: Callable[[T], None] | None = None) -> None:
        self._make = make
        self._end = end
        self._value: T | None = None
        self._mutex = Mutex()
        forking.register(self, Local.after_fork)

    def get(self) -> T:
        """The value of this process."""
        value = self._value
        if value is None:
            with self._mutex:
                value = self._value
                if value is None:
                    value = self._value = self._make()
        return value

    def close(self) -> None:
        """Forget the value, and end it."""
        with self._mutex:
            value, self._value = self._value, None
        if value is not None and self._end is not None:
            self._end(value)

    def after_fork(self) -> None:
        forking.keep(self._value)
        self._value = None
        self._mutex = Mutex()


def owner() -> object:
    """What objects that cannot be shared belong to: threads may share all of them."""
    return None


class Notifier:
    """Waits for a change. Read ``version`` before looking at what may change, then wait for it."""

    def __init__(self) -> None:
        self.version = 0
        self._condition = threading.Condition()

    def notify(self) -> None:
        with self._condition:
            self.version += 1
            self._condition.notify_all()

    def wait(self, version: int, seconds: float | None = None) -> None:
        """Return when :meth:`notify` was called after ``version`` was read, or time is up."""
        scope = current_scope()
        if scope is not None:
            scope.watch(notifier=self)
        try:
            with self._condition:
                self._condition.wait_for(
                    lambda: self.version != version or (scope is not None and scope.ended),
                    remaining(seconds),
                )
        finally:
            if scope is not None:
                scope.watch()
        if scope is not None:
            scope.check()
        _check_limit()

    def wake(self) -> None:
        """Let those who wait look whether their scope was ended."""
        with self._condition:
            self._condition.notify_all()


class Limit:
    """A time limit on a block; raises ``TimedOut``.

    It shortens every wait on a connection of this thread; see ``connections``.
    """

    def __init__(self, seconds: float | None, what: str) -> None:
        self._what = what
        self._until = None if seconds is None else time.monotonic() + seconds
        self._outer: float | None = None

    def __enter__(self) -> Self:
        self._outer = getattr(_current, "until", None)
        if self._until is not None:
            _current.until = min(self._until, self._outer or self._until)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        _current.until = self._outer
        late = self._until is not None and time.monotonic() >= self._until
        if (
            isinstance(error, Exception)
            and late
            and not isinstance(error, (Cancelled, ClientClosed))
        ):
            raise TimedOut(self._what) from error


def remaining(seconds: float | None) -> float | None:
    """A time limit of the transport, shortened to the one of the block around it."""
    until: float | None = getattr(_current, "until", None)
    if until is None:
        return seconds
    left = max(until - time.monotonic(), 1e-6)
    return left if seconds is None else min(seconds, left)


class Scope:
    """A block of waits that another thread can end.

    ``group`` holds it while it is entered, so that all waits of a client can be ended at once.
    Ending it sets a flag and then shuts down the socket that is waited on, which therefore never
    looks like the end of an answer.
    """

    def __init__(self, group: "set[Scope]") -> None:
        self._group = group
        self._reason: type[ClientError] | None = None
        self._mutex = threading.Lock()
        self._woken = threading.Event()
        self._socket: socket.socket | None = None
        self._notifier: Notifier | None = None
        self._outer: Scope | None = None
        self._inner: Scope | None = None

    @property
    def ended(self) -> bool:
        return self._reason is not None

    def cancel(self) -> None:
        """End it: who waits gets ``Cancelled``. From any thread."""
        self.end(Cancelled)

    def close(self) -> None:
        """End it because the client is closed: who waits gets ``ClientClosed``."""
        self.end(ClientClosed)

    def end(self, reason: type[ClientError]) -> None:
        """End it, and the blocks within it, with an error of that class."""
        self._reason = self._reason or reason
        self._woken.set()
        with self._mutex:
            notifier, inner = self._notifier, self._inner
            if self._socket is not None:
                with suppress(OSError):
                    # The method of the plain socket: that of a TLS socket is not for two threads.
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
        if notifier is not None:
            notifier.wake()
        if inner is not None:
            inner.end(reason)

    def check(self) -> None:
        """Raise the error that says why it was ended, if it was."""
        if self._reason is not None:
            raise self._reason(ENDED[self._reason])

    def watch(
        self, waited_on: socket.socket | None = None, notifier: "Notifier | None" = None
    ) -> None:
        """What this thread is about to wait on, or nothing after the wait."""
        with self._mutex:
            self._socket = waited_on
            self._notifier = notifier
            if waited_on is not None or notifier is not None:
                self.check()

    def __enter__(self) -> Self:
        self._outer = current_scope()
        if self._outer is not None:
            self._outer.contain(self)
        self.check()
        _current.scope = self
        self._group.add(self)
        return self

    def contain(self, inner: "Scope | None") -> None:
        """A block within this one, which ends with it."""
        with self._mutex:
            self._inner = inner
            if inner is not None:
                self.check()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._group.discard(self)
        _current.scope = self._outer
        if self._outer is not None:
            self._outer.contain(None)
        if self._reason is not None and isinstance(error, Exception):
            raise self._reason(ENDED[self._reason]) from None

    def sleep(self, seconds: float) -> None:
        self._woken.wait(remaining(seconds))
        self.check()
        _check_limit()


def current_scope() -> Scope | None:
    """The scope that this thread is in."""
    return getattr(_current, "scope", None)


def _check_limit() -> None:
    until: float | None = getattr(_current, "until", None)
    if until is not None and time.monotonic() >= until:
        raise TimedOut("Time is up.")


class Worker:
    """Work that runs beside the caller, in a thread that does not keep a program alive."""

    def __init__(self, work: Work, name: str, group: set[Scope]) -> None:
        self._scope = Scope(group)
        self._work = work
        # As a task has the context of whoever makes it, with the current span of a trace.
        run = partial(copy_context().run, self._run)
        self._thread = threading.Thread(target=run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with suppress(Cancelled, ClientClosed), self._scope:
            self._work()

    def join(self, seconds: float | None = None) -> None:
        """Wait for its end; after ``seconds`` stop it."""
        if self._thread is not threading.current_thread():
            self._thread.join(seconds)
            if self._thread.is_alive():
                self.stop()

    def stop(self) -> None:
        """End it now."""
        self._scope.cancel()
        if self._thread is not threading.current_thread():
            self._thread.join(5.0)


def release_later(close: Callable[[], None]) -> None:
    """Give back a connection when nobody is left to wait for that."""
    close()


def wait_at_exit(changed: Notifier, left: Callable[[], int], patience: float) -> None:
    """Wait until nothing is left, but no longer than ``patience`` seconds for the next change."""
    least = left()
    until = time.monotonic() + patience
    while least > 0:
        version = changed.version
        count = left()
        if count < least:
            least = count
            until = time.monotonic() + patience
        seconds = until - time.monotonic()
        if seconds <= 0:
            return
        if least > 0:
            changed.wait(version, seconds)


Mutex = threading.Lock
"""Guards fields that threads share. Never held across a wait."""
