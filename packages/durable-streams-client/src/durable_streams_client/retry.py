"""The retry schedule: exponential delays with jitter, and ``Retry-After`` as their least.

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
    """When and how often a client repeats a request that may succeed later.

    Delays between attempts grow exponentially; each is drawn at random from the upper half of what
    the schedule gives, and at least the server's ``Retry-After``. With the defaults a
    call outlasts any outage of 10 s, and notices within 5 s that the server is back.

    Raises ``InvalidArgument`` for a value that has no meaning.

    >>> RetryPolicy(attempts=3, maximum=1.0).follow_attempts is None
    True
    """

    initial: float = 0.1
    """The longest delay before the second attempt, in seconds."""
    maximum: float = 5.0
    """The longest delay of all, in seconds."""
    multiplier: float = 2.0
    """By how much the delay grows from attempt to attempt."""
    attempts: int = 10
    """How often a request that is not a read is sent, at most."""
    read_attempts: int = 10
    """How often ``read`` asks for one page, at most."""
    follow_attempts: int | None = None
    """How often ``follow`` asks without any progress, at most; None is without limit. A live
    connection that worked for a while before it was cut counts as progress."""
    retry_after_limit: float = 300.0
    """The longest ``Retry-After`` that is obeyed, in seconds; a longer one counts as this."""

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
        """The longest delay after that many failures, at least one; the shortest is half of it.

        >>> RetryPolicy(initial=0.5, maximum=3.0).ceiling(2), RetryPolicy(maximum=3.0).ceiling(20)
        (1.0, 3.0)
        """
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
