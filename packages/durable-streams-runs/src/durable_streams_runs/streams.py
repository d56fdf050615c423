"""What runs need of the streams, whether these are in an engine of this process or on a server."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from enum import Enum
from typing import Any, Final, Protocol, TypeVar

from durable_streams_core.errors import DurableStreamsError, Unavailable
from durable_streams_core.protocol import NOW, START

__all__ = ["NOW", "START"]

PRODUCER: Final = "run"
"""The producer id of everything that is appended to a run."""

FIRST_PAUSE: Final = 0.05
LONGEST_PAUSE: Final = 1.0
"""Seconds between two attempts while a store is away."""

T = TypeVar("T")


class StreamBatch(Protocol):
    """Some data of a stream, as readers of engines and of clients yield it."""

    @property
    def data(self) -> bytes: ...
    @property
    def offset(self) -> str: ...
    @property
    def up_to_date(self) -> bool: ...
    @property
    def closed(self) -> bool: ...


class Why(Enum):
    """Why a writer may append no more."""

    CLOSED = "the stream is closed"
    FENCED = "a writer with a newer epoch took over"
    GONE = "there is no such stream"
    BROKEN = "the stream lost data, or refuses what a run writes"
    AWAY = "the server was away for too long"


class Lost(DurableStreamsError):
    """A writer may append no more. ``epoch`` is the newer one, if that is known."""

    def __init__(self, why: Why, epoch: int | None = None) -> None:
        super().__init__(f"Nothing more can be appended: {why.value}.")
        self.why = why
        self.epoch = epoch


class Writer(ABC):
    """Appends to one run under one epoch, each exactly once.

    Errors are :class:`Lost` for good, and :class:`Unavailable`, after which the same call with
    the same data is repeated. Calls must not overlap.
    """

    @abstractmethod
    async def append(self, parts: list[bytes]) -> None:
        """Append encoded items in one commit."""

    @abstractmethod
    async def close(self, parts: list[bytes], end: bytes) -> None:
        """Append encoded items, then the end, and close the stream in the commit of the end."""

    @abstractmethod
    async def release(self) -> None:
        """Give back what the writer holds."""


class Streams(ABC):
    """The streams of an engine or a server."""

    local: bool
    """Whether this process is the only one that uses the store."""

    @abstractmethod
    async def create(
        self,
        path: str,
        content_type: str,
        *,
        data: bytes | None = None,
        ttl: int | None = None,
        closed: bool = False,
    ) -> bool:
        """Create a stream with ``data`` as its first message or bytes.

        False if there is a stream at the path, whatever its configuration.
        """

    @abstractmethod
    async def is_closed(self, path: str) -> bool:
        """Whether the stream is closed; raises NotFound or Gone if there is none."""

    @abstractmethod
    async def content_type(self, path: str) -> str:
        """The content type of the stream; raises NotFound or Gone if there is none."""

    @abstractmethod
    async def append(self, path: str, messages: list[bytes], *, close: bool = False) -> str:
        """Append messages to a JSON stream in one commit, perhaps twice if its outcome is lost.

        Returns the offset after them.
        """

    @abstractmethod
    def writer(self, path: str, content_type: str, epoch: int, *, again: bool = False) -> Writer:
        """A new writer, whose first append claims the epoch.

        With ``again``, an earlier writer of this owner may have stored that append already.
        """

    @abstractmethod
    def read(self, path: str, offset: str = START) -> AsyncIterator[StreamBatch]:
        """Everything from an offset up to the tail."""

    @abstractmethod
    def follow(self, path: str, offset: str = START) -> AsyncIterator[StreamBatch]:
        """Everything from an offset on, then more, until the stream is closed."""

    @abstractmethod
    async def delete(self, path: str) -> None:
        """Delete a stream, if it is there."""

    @abstractmethod
    def url(self, path: str) -> str:
        """Where clients find the stream."""


def streams_of(given: Any, root: str) -> Streams:
    """The streams of an ``Engine`` or an ``AsyncClient``; raises ``TypeError``."""
    try:
        from durable_streams_runs.engine_streams import EngineStreams, is_engine
    except ModuleNotFoundError:
        pass
    else:
        if is_engine(given):
            return EngineStreams(given, root)
    try:
        from durable_streams_runs.client_streams import ClientStreams, is_client
    except ModuleNotFoundError:
        pass
    else:
        if is_client(given):
            return ClientStreams(given, root)
    raise TypeError(f"Runs takes an Engine or an AsyncClient, not {type(given).__name__}")


async def persistently(attempt: Callable[[], Awaitable[T]]) -> T:
    """Repeat an attempt until the store is available; raises what it raises otherwise."""
    pause = FIRST_PAUSE
    while True:
        try:
            return await attempt()
        except Unavailable:
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE, 2 * pause)
