"""The options of a client: types, defaults and checks."""

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from durable_streams_client.errors import ClientError, InvalidArgument
from durable_streams_client.fields import check_pairs
from durable_streams_client.retry import RetryPolicy

if TYPE_CHECKING:
    from durable_streams_client.tracing import Tracing

Live: TypeAlias = Literal["auto", "sse", "long-poll"]
"""How ``Stream.follow`` waits for new data."""

LIVE_MODES: Final = ("auto", "sse", "long-poll")

OnBad: TypeAlias = Literal["raise", "skip"]
"""How a reader treats a message that does not fit ``decode``."""

ON_BAD: Final = ("raise", "skip")

Value: TypeAlias = str | int | float | None
Dynamic: TypeAlias = Value | Callable[[], Value]
"""The value of a header or parameter, or a function that returns it for each request.

None leaves the header or parameter out.
"""
AsyncDynamic: TypeAlias = Dynamic | Callable[[], Awaitable[Value]]

Pairs: TypeAlias = Mapping[str, Dynamic] | Sequence[tuple[str, Dynamic]]
AsyncPairs: TypeAlias = Mapping[str, AsyncDynamic] | Sequence[tuple[str, AsyncDynamic]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """Time limits in seconds; None is without limit.

    Raises ``InvalidArgument`` for a limit that is not a positive number.

    >>> Timeouts(connect=2.0, total=60.0).read
    30.0
    """

    connect: float | None = 10.0
    """To open a connection, or to get a free one."""
    read: float | None = 30.0
    """Between two pieces of a response, or before its first, unless the read is live."""
    idle: float | None = 90.0
    """The same for a live read, where silence is normal while nothing is appended. It must be
    longer than the server's long-poll limit."""
    first_event: float = 10.0
    """Before the first event of an SSE response. After it ``live="auto"`` uses long-poll, because
    a proxy seems to buffer the response."""
    total: float | None = None
    """For one call, with all of its attempts and pauses; for a reader, without any progress."""

    def __post_init__(self) -> None:
        for name in ("connect", "read", "idle", "first_event", "total"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise InvalidArgument(f"{name} must be a positive number of seconds or None")


@dataclass(frozen=True, slots=True)
class Retry:
    """The argument of the ``on_retry`` hook: an attempt that failed and will be repeated.

    >>> seen = []
    >>> with Client(url, retry=RetryPolicy(initial=0.01), on_retry=seen.append) as patient:
    ...     _ = patient.stream("numbers").head()
    >>> [(retry.attempt, retry.error.status) for retry in seen]
    [(1, 503)]
    """

    error: ClientError
    """Why the attempt failed."""
    attempt: int
    """The number of the attempt that failed, from 1 on."""
    delay: float
    """Seconds until the next attempt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of one client that its calls need."""

    timeouts: Timeouts
    retry: RetryPolicy
    on_retry: Callable[[Retry], Any] | None
    compress: bool
    safe_append: bool
    tracing: "Tracing | None"
    random: Callable[[], float]

    def __post_init__(self) -> None:
        if not isinstance(self.timeouts, Timeouts):
            raise InvalidArgument("timeouts must be a Timeouts, such as Timeouts(read=10)")
        if not isinstance(self.retry, RetryPolicy):
            raise InvalidArgument("retry must be a RetryPolicy, such as RetryPolicy(attempts=3)")
        if self.on_retry is not None and not callable(self.on_retry):
            raise InvalidArgument("on_retry must be a function of one Retry")
        # The class itself needs OpenTelemetry, which may be absent.
        if self.tracing is not None and not callable(getattr(self.tracing, "call", None)):
            raise InvalidArgument(
                "tracing must be a Tracing of the module durable_streams_client.tracing"
            )


def is_whole(value: object, least: int) -> bool:
    """Whether ``value`` is an integer of at least ``least``; a bool is not an integer here."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def pairs_of(pairs: Any, what: str) -> list[tuple[str, Any]]:
    """Headers or parameters as pairs, in order; repeated names are kept.

    Raises ``InvalidArgument`` for a value that is neither text nor a number nor a function.
    """
    if pairs is None:
        return []
    listed = list(pairs.items()) if isinstance(pairs, Mapping) else [tuple(pair) for pair in pairs]
    for pair in listed:
        if len(pair) != 2 or not isinstance(pair[0], str):
            raise InvalidArgument(f"{what} must be a mapping or pairs of name and value")
    check_pairs(listed, what)
    return listed


@dataclass(frozen=True, slots=True)
class Extra:
    """The headers and parameters of one handle, sent in addition to those of its client."""

    headers: list[tuple[str, Any]]
    params: list[tuple[str, Any]]
