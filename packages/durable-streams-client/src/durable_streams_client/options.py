"""Every option that several parts share, typed, defaulted and checked in one place."""

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from durable_streams_client.errors import ClientError, InvalidArgument
from durable_streams_client.fields import check_pairs
from durable_streams_client.retry import RetryPolicy

Live: TypeAlias = Literal["auto", "sse", "long-poll"]
"""How :meth:`Stream.follow` waits for new data."""

LIVE_MODES: Final = ("auto", "sse", "long-poll")

Value: TypeAlias = str | int | float | None
Asked: TypeAlias = Value | Callable[[], Value]
"""A header or parameter: a value, or a function that is asked for it at every request.

None leaves it out.
"""
AsyncAsked: TypeAlias = Asked | Callable[[], Awaitable[Value]]

Pairs: TypeAlias = Mapping[str, Asked] | Sequence[tuple[str, Asked]]
AsyncPairs: TypeAlias = Mapping[str, AsyncAsked] | Sequence[tuple[str, AsyncAsked]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Time limits in seconds; None means none.

    ``connect`` is for a connection, including a free one of the pool. ``read`` is the longest
    silence of a server that owes an answer. ``idle`` is the longest silence of a live read,
    which a server is entitled to keep up for as long as nothing happens: it must be longer than
    the server's long-poll limit. ``first_event`` is how long an SSE response may keep silent at
    its start before ``live="auto"`` takes it for buffered by a proxy and goes over to long-poll.
    ``total`` is for one call in all, repeats included; a reader counts it without progress.
    """

    connect: float | None = 10.0
    read: float | None = 30.0
    idle: float | None = 90.0
    first_event: float = 10.0
    total: float | None = None

    def __post_init__(self) -> None:
        for name in ("connect", "read", "idle", "first_event", "total"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise InvalidArgument(f"{name} must be a positive number of seconds or None")


@dataclass(frozen=True, slots=True)
class Retry:
    """What the ``on_retry`` hook is told: ``error`` came, and after ``delay`` seconds follows
    try number ``attempt`` + 1.
    """

    error: ClientError
    attempt: int
    delay: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a client was made with, as its streams need it."""

    timeouts: Timeouts
    retry: RetryPolicy
    on_retry: Callable[[Retry], Any] | None
    compress: bool
    safe_append: bool
    random: Callable[[], float]


def is_whole(value: object, least: int) -> bool:
    """Whether ``value`` is an integer of at least ``least``; a bool is none."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def pairs_of(pairs: Any, what: str) -> list[tuple[str, Any]]:
    """Headers or parameters as pairs, in order, repeated names kept."""
    if pairs is None:
        return []
    found = list(pairs.items()) if isinstance(pairs, Mapping) else [tuple(pair) for pair in pairs]
    for pair in found:
        if len(pair) != 2 or not isinstance(pair[0], str):
            raise InvalidArgument(f"{what} must be a mapping or pairs of name and value")
    check_pairs(found, what)
    return found


@dataclass(frozen=True, slots=True)
class Extra:
    """Headers and parameters of one stream's handle, added to those of its client."""

    headers: list[tuple[str, Any]]
    params: list[tuple[str, Any]]
