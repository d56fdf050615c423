"""Limits per principal: appends, bytes, live readers, listings, new streams and subscriptions.

Rates are token buckets. A bucket fills at its rate, holds what comes in one second (of new streams
and subscriptions: in one hour), and pays for what a request really was. Of bytes it may run into
debt: a body larger than the bucket is taken once the bucket holds anything, and what follows waits
until the debt is paid. So the rate holds over time, and no request is too large to be ever taken.

Everything is counted in this process, and forgotten with it.
"""

import math
import time
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from durable_streams_core.errors import ProtocolError
from durable_streams_server.caches import TwoGenerationCache

MAX_PRINCIPALS: Final = 10_000
"""So many principals at least are remembered, and twice as many at most; those idle longest are
forgotten first and begin anew."""
READER_RETRY_SECONDS: Final = 5
_ROUNDING: Final = 1e-6
_HOUR: Final = 3600.0


class PrincipalLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of one principal; None sets none.

    Raises:
        ValueError: for a limit that is not a positive number.

    """

    appends_per_second: float | None = None
    """Appends, each one request, of any number of messages."""
    bytes_per_second: float | None = None
    """Bytes of all request bodies."""
    live_readers: int | None = None
    """Long-polls and SSE responses that wait at the same time."""
    streams_per_hour: float | None = None
    """Streams created, forks included."""
    subscriptions_per_hour: float | None = None
    """Subscriptions created."""
    listings_per_second: float | None = None
    """Pages of listings of streams and subscriptions."""

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if value is not None and not (0 < value < math.inf):
                raise ValueError(f"{name} must be a positive number, got {value!r}.")


class _Bucket:
    """Fills at a rate, up to a capacity, while it is looked at."""

    __slots__ = ("_at", "_capacity", "_level", "_rate")

    def __init__(self, rate: float, capacity: float, now: float) -> None:
        self._rate = rate
        self._capacity = self._level = capacity
        self._at = now

    def wait(self, least: float, now: float) -> float:
        """Seconds until the bucket holds ``least``; 0 or less if it does."""
        level = self._level + (now - self._at) * self._rate
        self._level = level = min(level, self._capacity)
        self._at = now
        missing = least - level
        return missing / self._rate if missing > _ROUNDING else 0.0

    def take(self, amount: float) -> None:
        self._level -= amount


class _Account:
    """The buckets of one principal; None without a limit."""

    __slots__ = ("appends", "bytes", "listings", "streams", "subscriptions")

    def __init__(self, limits: PrincipalLimits, now: float) -> None:
        self.appends = _bucket(limits.appends_per_second, 1.0, now)
        self.bytes = _bucket(limits.bytes_per_second, 1.0, now)
        self.streams = _bucket(limits.streams_per_hour, _HOUR, now)
        self.subscriptions = _bucket(limits.subscriptions_per_hour, _HOUR, now)
        self.listings = _bucket(limits.listings_per_second, 1.0, now)


def _bucket(limit: float | None, seconds: float, now: float) -> _Bucket | None:
    return None if limit is None else _Bucket(limit / seconds, max(1.0, limit), now)


class Limiter:
    """Counts what principals use, and refuses what is beyond their limits with 429.

    ``clock`` returns seconds that only ever grow.
    """

    def __init__(
        self,
        limits: PrincipalLimits,
        named: Mapping[str, PrincipalLimits] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``named`` are the limits of single principals by name, ``limits`` those of all others."""
        self._clock = clock
        self._readers: dict[str, int] = {}
        self.change(limits, named)

    def change(
        self, limits: PrincipalLimits, named: Mapping[str, PrincipalLimits] | None = None
    ) -> None:
        """Have other limits from now on; live readers stay counted, buckets begin full."""
        self._limits = limits
        self._named = dict(named or {})
        self._accounts: TwoGenerationCache[str, _Account] = TwoGenerationCache(MAX_PRINCIPALS)

    def limits_of(self, principal: str) -> PrincipalLimits:
        """The limits of a principal."""
        return self._named.get(principal, self._limits)

    def look(self, principal: str, *, append: bool) -> None:
        """Refuse what :meth:`charge` would refuse, before a body is received."""
        self._check(self._account(principal), self._clock(), append=append)

    def charge(self, principal: str, size: int, *, append: bool) -> None:
        """Charge a request body of ``size`` bytes, and an append if it is one.

        Raises :class:`ProtocolError` (429), and charges nothing then.
        """
        account = self._account(principal)
        self._check(account, self._clock(), append=append)
        if append and account.appends is not None:
            account.appends.take(1)
        if account.bytes is not None:
            account.bytes.take(size)

    def _check(self, account: _Account, now: float, *, append: bool) -> None:
        if append and account.appends is not None:
            wait = account.appends.wait(1, now)
            if wait > 0:
                raise _too_fast("appends", wait)
        if account.bytes is not None:
            wait = account.bytes.wait(2 * _ROUNDING, now)
            if wait > 0:
                raise _too_fast("bytes", wait)

    def charge_unused(self, principal: str, size: int) -> None:
        """Charge the bytes of a body that were received and not used. Refuses nothing."""
        account = self._account(principal)
        if account.bytes is not None:
            account.bytes.wait(0, self._clock())
            account.bytes.take(size)

    def charge_stream(self, principal: str) -> None:
        """Charge a new stream; raises :class:`ProtocolError` (429)."""
        self._charge_one(self._account(principal).streams, "new streams")

    def return_stream(self, principal: str) -> None:
        """Give back what :meth:`charge_stream` took: no stream was created."""
        _return_one(self._account(principal).streams)

    def charge_subscription(self, principal: str) -> None:
        """Charge a new subscription; raises :class:`ProtocolError` (429)."""
        self._charge_one(self._account(principal).subscriptions, "new subscriptions")

    def return_subscription(self, principal: str) -> None:
        """Give back what :meth:`charge_subscription` took: none was created."""
        _return_one(self._account(principal).subscriptions)

    def charge_listing(self, principal: str) -> None:
        """Charge a page of a listing; raises :class:`ProtocolError` (429)."""
        self._charge_one(self._account(principal).listings, "listings")

    def _charge_one(self, bucket: _Bucket | None, what: str) -> None:
        if bucket is not None:
            wait = bucket.wait(1, self._clock())
            if wait > 0:
                raise _too_fast(what, wait)
            bucket.take(1)

    def enter(self, principal: str) -> None:
        """Count a live reader; raises :class:`ProtocolError` (429)."""
        most = self.limits_of(principal).live_readers
        waiting = self._readers.get(principal, 0)
        if most is not None and waiting >= most:
            raise ProtocolError(
                f"You have {waiting} live readers already, and may have {most}: end one first.",
                status=429,
                code="too-many-live-readers",
                headers={"Retry-After": str(READER_RETRY_SECONDS)},
            )
        self._readers[principal] = waiting + 1

    def leave(self, principal: str) -> None:
        """Count a live reader no longer."""
        waiting = self._readers.pop(principal, 0) - 1
        if waiting > 0:
            self._readers[principal] = waiting

    def _account(self, principal: str) -> _Account:
        account = self._accounts.get(principal)
        if account is None:
            account = _Account(self.limits_of(principal), self._clock())
            self._accounts.add(principal, account)
        return account


def _return_one(bucket: _Bucket | None) -> None:
    if bucket is not None:
        bucket.take(-1)


def _too_fast(what: str, wait: float) -> ProtocolError:
    seconds = max(1, math.ceil(wait))
    return ProtocolError(
        f"You have used up your {what} for now; go on in {seconds} s.",
        status=429,
        code="rate-limited",
        headers={"Retry-After": str(seconds)},
    )
