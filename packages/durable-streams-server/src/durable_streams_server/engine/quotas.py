"""Quotas: how large single streams and whole prefixes may become.

A stream's size is in its head, so its quota holds after a restart without being counted. What lies
below a prefix is counted in this process: from the heads in the store at the start, and with each
commit from then on. On a store that other processes write to as well, it is counted again every
:data:`RECOUNT_SECONDS`.

A commit's growth is held back when it is decided and settled with its outcome, so appends that are
decided at the same time cannot exceed a quota together.
"""

import asyncio
import logging
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from durable_streams_core.drafts import Draft, Growth
from durable_streams_core.entities import Head
from durable_streams_core.errors import ProtocolError
from durable_streams_core.operations import Operation, Unconfirmed
from durable_streams_core.protocol import RESERVED_SEGMENT
from durable_streams_core.store import LocalStore, Store
from durable_streams_server.caches import TwoGenerationCache
from durable_streams_server.engine.refusals import prefix_full, stream_full, too_many_streams
from durable_streams_server.path_patterns import PathPattern

log = logging.getLogger("durable_streams_server.engine")

RECOUNT_SECONDS: Final = 60.0
PAGE: Final = 1000
MAX_KNOWN_PATHS: Final = 10_000
_RESERVED: Final = RESERVED_SEGMENT + "/"


class StreamQuota(msgspec.Struct, frozen=True, kw_only=True):
    """The size that each stream of a pattern may have. Of several that fit, the smallest counts.

    Raises:
        ValueError: for a text that is not a pattern, or a size that is not positive.

    """

    path: str
    """A path pattern, such as ``chats/**``."""
    max_bytes: int
    """Of a fork, the bytes that it shares with its source count too."""

    def __post_init__(self) -> None:
        PathPattern(self.path)
        _check_positive(self, "max_bytes")


class PrefixQuota(msgspec.Struct, frozen=True, kw_only=True):
    """What may lie below each prefix that a pattern means: below ``users/*``, for each user.

    Raises:
        ValueError: for a text that is not a pattern of prefixes, or a number that is not positive.

    """

    prefix: str
    """A path pattern without ``**``, or the empty text for all streams together."""
    max_bytes: int | None = None
    """Stored bytes: those that a fork shares with its source count once."""
    max_streams: int | None = None
    """Streams, with deleted ones whose forks still read their data."""

    def __post_init__(self) -> None:
        if self.prefix:
            PathPattern(self.prefix)
        if "**" in self.prefix.split("/"):
            raise ValueError(
                f"A prefix has a fixed number of segments: ** cannot be in {self.prefix!r}."
            )
        if self.max_bytes is None and self.max_streams is None:
            raise ValueError(f"The quota of {self.prefix!r} needs max_bytes or max_streams.")
        _check_positive(self, "max_bytes", "max_streams")


Quota = StreamQuota | PrefixQuota


def _check_positive(quota: Quota, *names: str) -> None:
    for name in names:
        value = getattr(quota, name)
        if value is not None and not (type(value) is int and value > 0):
            raise ValueError(f"{name} must be a positive whole number, got {value!r}.")


class _Total:
    """What lies below one prefix, and what commits under way may add."""

    __slots__ = ("bytes", "held_bytes", "held_streams", "streams")

    def __init__(self) -> None:
        self.bytes = self.streams = self.held_bytes = self.held_streams = 0

    def empty(self) -> bool:
        return not (self.bytes or self.streams or self.held_bytes or self.held_streams)


_Key = tuple[int, str]
"""The number of a quota, and one prefix that it means."""


class _Concern(msgspec.Struct, frozen=True):
    """The quotas that one path concerns."""

    bytes: int | None
    """The size that the stream may have."""
    keys: tuple[_Key, ...]

    def __bool__(self) -> bool:
        return self.bytes is not None or bool(self.keys)


class Quotas:
    """Keeps quotas over the commits of one engine."""

    def __init__(self, quotas: Sequence[Quota]) -> None:
        self._streams = [
            (PathPattern(quota.path), quota.max_bytes)
            for quota in quotas
            if isinstance(quota, StreamQuota)
        ]
        self._prefixes = [
            (None if not quota.prefix else PathPattern(quota.prefix), quota)
            for quota in quotas
            if isinstance(quota, PrefixQuota)
        ]
        self._concerns: TwoGenerationCache[str, _Concern] = TwoGenerationCache(MAX_KNOWN_PATHS)
        self._totals: dict[_Key, _Total] = {}
        self._counted: dict[_Key, _Total] | None = None
        """Totals that are being counted anew, of the paths up to ``_reached``."""
        self._reached = ""
        self._recounting: asyncio.Task[None] | None = None

    # Life.

    async def start(self, store: Store) -> None:
        """Count what is in the store; again from time to time if others write to it too."""
        if not self._prefixes:
            return
        if not isinstance(store, LocalStore):
            self._recounting = asyncio.create_task(self._recount(store))
        await self.count(store)

    async def stop(self) -> None:
        """Count no more."""
        task, self._recounting = self._recounting, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _recount(self, store: Store) -> None:
        while True:
            await asyncio.sleep(RECOUNT_SECONDS)
            if self._counted is not None:
                continue
            try:
                await self.count(store)
            except Exception as error:
                log.warning("counting what lies below prefixes failed: %s", error)

    async def count(self, store: Store) -> None:
        """Count every prefix anew. Commits go on meanwhile, under the old totals."""
        counted = self._counted = {}
        self._reached = after = ""
        try:
            while True:
                rows = await store.list("", after, PAGE)
                for path, head in rows:
                    growth = Growth(head.tail - head.start, 1)
                    for key in self._concern(path).keys:
                        _add(counted, key, growth)
                    self._reached = path
                if len(rows) < PAGE:
                    break
                after = rows[-1][0]
                await asyncio.sleep(0)
            for key, total in self._totals.items():
                if total.held_bytes or total.held_streams:
                    kept = _total(counted, key)
                    kept.held_bytes, kept.held_streams = total.held_bytes, total.held_streams
            self._totals = counted
        finally:
            self._counted = None

    def adopt(self, before: "Quotas") -> None:
        """Begin with what was counted for the same prefixes."""
        known = before.totals()
        for number, (_, quota) in enumerate(self._prefixes):
            for prefix, growth in known.get(quota.prefix, {}).items():
                _add(self._totals, (number, prefix), growth)

    def totals(self) -> dict[str, dict[str, Growth]]:
        """The total of every prefix that holds anything, by its pattern and itself."""
        found: dict[str, dict[str, Growth]] = {}
        for (number, prefix), total in self._totals.items():
            pattern = self._prefixes[number][1].prefix
            found.setdefault(pattern, {})[prefix] = Growth(total.bytes, total.streams)
        return found

    # Decisions.

    def check(self, path: str, head: Head, size: int) -> None:
        """Raise :class:`ProtocolError` (507) if a stream may not grow by ``size`` bytes."""
        grown = Growth(size, 0)
        self._check(path, head.tail + size, grown, grown)

    def check_draft(self, draft: Draft) -> None:
        """Raise :class:`ProtocolError` (507) for a draft that exceeds a quota."""
        self._check(draft.path, draft.tail, draft.growth, draft.growth)

    def decide(
        self, draft: Draft, operation: Operation[Any], now: int
    ) -> tuple[Draft, Any | ProtocolError | Unconfirmed]:
        """Decide an operation on a draft; the draft after it, and its result or its error.

        One that exceeds a quota leaves the draft as it was.
        """
        if not self._concern(draft.path):
            try:
                return draft, operation.decide(draft, now)
            except (ProtocolError, Unconfirmed) as error:
                return draft, error
        before = draft.growth
        trial = draft.copy()
        try:
            result = operation.decide(trial, now)
        except (ProtocolError, Unconfirmed) as error:
            return trial, error
        after = trial.growth
        added = Growth(after.bytes - before.bytes, after.streams - before.streams)
        try:
            self._check(draft.path, trial.tail, after, added)
        except ProtocolError as error:
            return draft, error
        return trial, result

    def _check(self, path: str, tail: int, growth: Growth, added: Growth) -> None:
        """``growth`` is that of the whole commit, ``added`` the part that is being decided."""
        concern = self._concern(path)
        limit = concern.bytes
        if limit is not None and added.bytes > 0 and tail > limit:
            raise stream_full(limit)
        for key in concern.keys:
            total = self._totals.get(key) or _NOTHING
            quota = self._prefixes[key[0]][1]
            stored = total.bytes + total.held_bytes + growth.bytes
            if quota.max_bytes is not None and added.bytes > 0 and stored > quota.max_bytes:
                raise prefix_full(key[1], quota.max_bytes)
            streams = total.streams + total.held_streams + growth.streams
            if quota.max_streams is not None and added.streams > 0 and streams > quota.max_streams:
                raise too_many_streams(key[1], quota.max_streams)

    # Growth.

    def hold(self, path: str, growth: Growth) -> None:
        """Count what a commit under way will add; give it to :meth:`settle` with its outcome."""
        for key in self._concern(path).keys:
            total = _total(self._totals, key)
            total.held_bytes += max(0, growth.bytes)
            total.held_streams += max(0, growth.streams)

    def settle(self, path: str, growth: Growth, *, applied: bool) -> None:
        """The commit has an outcome: what was held counts, or does not."""
        for key in self._concern(path).keys:
            total = _total(self._totals, key)
            total.held_bytes -= max(0, growth.bytes)
            total.held_streams -= max(0, growth.streams)
            if total.empty():
                del self._totals[key]
        if applied:
            self.add(path, growth)

    def add(self, path: str, growth: Growth) -> None:
        """Count what was committed."""
        counted = self._counted
        for key in self._concern(path).keys:
            _add(self._totals, key, growth)
            if counted is not None and path <= self._reached:
                # The count has passed this path, and met it without this.
                _add(counted, key, growth)

    def _concern(self, path: str) -> _Concern:
        concern = self._concerns.get(path)
        if concern is None:
            concern = _Concern(None, ())
            if not path.startswith(_RESERVED):
                sizes = [size for pattern, size in self._streams if pattern.matches(path)]
                concern = _Concern(min(sizes, default=None), tuple(self._keys(path)))
            self._concerns.add(path, concern)
        return concern

    def _keys(self, path: str) -> Iterator[_Key]:
        names = path.split("/")
        for number, (pattern, quota) in enumerate(self._prefixes):
            depth = 0 if pattern is None else quota.prefix.count("/") + 1
            prefix = "/".join(names[:depth])
            if len(names) > depth and (pattern is None or pattern.matches(prefix)):
                yield number, prefix


_NOTHING: Final = _Total()


def _total(totals: dict[_Key, _Total], key: _Key) -> _Total:
    # To make one that is not needed would cost more than the rest.
    total = totals.get(key)
    if total is None:
        total = totals[key] = _Total()
    return total


def _add(totals: dict[_Key, _Total], key: _Key, growth: Growth) -> None:
    total = _total(totals, key)
    # On a shared store others may have removed what was never counted here.
    total.bytes = max(0, total.bytes + growth.bytes)
    total.streams = max(0, total.streams + growth.streams)
    if total.empty():
        del totals[key]
