"""When to try again: exponential delays with jitter, ``Retry-After`` as their floor.

Pure: randomness and the wall clock come in as arguments. A policy is a value; a
:class:`Backoff` counts the faults of one operation and forgets them when it makes progress.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime

from durable_streams_client.errors import InvalidArgument


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How a client repeats requests that may succeed later.

    Delays are seconds. They grow from ``initial`` by ``multiplier`` to ``maximum``; each is drawn
    from the upper half of what that gives. How often one request is sent in all: ``attempts`` for
    writes and questions, ``read_attempts`` for a page of a catch-up read, ``follow_attempts`` for a
    reader that follows a stream, where None means for ever. Progress starts the count anew, and so
    does a live connection that worked before it was cut.

    With the defaults an outage of 10 s is always waited out, and a server that is back is noticed
    within 5 s.
    """

    initial: float = 0.1
    maximum: float = 5.0
    multiplier: float = 2.0
    attempts: int = 10
    read_attempts: int = 10
    follow_attempts: int | None = None
    retry_after_limit: float = 300.0
    """A server's ``Retry-After`` beyond this is taken as this."""

    def __post_init__(self) -> None:
        if not (self.initial > 0 and math.isfinite(self.initial)):
            raise InvalidArgument("initial must be a positive number of seconds")
        if not self.maximum >= self.initial:
            raise InvalidArgument("maximum must not be less than initial")
        if not self.multiplier >= 1:
            raise InvalidArgument("multiplier must be at least 1")
        for name in ("attempts", "read_attempts"):
            if not getattr(self, name) >= 1:
                raise InvalidArgument(f"{name} must be at least 1")
        if self.follow_attempts is not None and self.follow_attempts < 1:
            raise InvalidArgument("follow_attempts must be at least 1, or None for ever")
        if not self.retry_after_limit >= 0:
            raise InvalidArgument("retry_after_limit must not be negative")

    def ceiling(self, failures: int) -> float:
        """The longest delay after that many failures, at least one; the shortest is half of it."""
        try:
            delay = self.initial * self.multiplier ** (failures - 1)
        except OverflowError:
            return self.maximum
        return min(self.maximum, delay)


@dataclass(slots=True)
class Backoff:
    """The failures of one operation so far.

    ``random`` gives numbers from 0 up to 1.
    """

    policy: RetryPolicy
    attempts: int | None
    random: Callable[[], float]
    failures: int = field(default=0, init=False)

    def failed(self, retry_after: float | None = None) -> float | None:
        """Count a failure: seconds to wait before the next try, or None to give up."""
        self.failures += 1
        if self.attempts is not None and self.failures >= self.attempts:
            return None
        delay = self.pause()
        if retry_after is not None:
            delay = max(delay, min(retry_after, self.policy.retry_after_limit))
        return delay

    def pause(self) -> float:
        """Seconds to wait after the failures so far."""
        return (1 + self.random()) / 2 * self.policy.ceiling(max(1, self.failures))

    def progress(self) -> None:
        """Something worked: start counting anew."""
        self.failures = 0


def parse_retry_after(value: str | None, now: float) -> float | None:
    """Seconds that a ``Retry-After`` header asks for; ``now`` is Unix time, for its date form."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return float(text[:300])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, OverflowError, OSError):
        return None
