"""Live readers: what long-polls (§5.7) and SSE responses (§5.8) have in common.

Both are subscribers of a stream: they subscribe before they look at it, are notified of each commit
once, and never move past bytes that they did not get, neither at a time limit nor at a close nor at
a shutdown. A frame or a page that many readers need is made once and shared through the
notification.
"""

import asyncio
import logging
from collections.abc import Callable, Iterator
from itertools import islice
from typing import ClassVar

from durable_streams_core.entities import Change
from durable_streams_core.errors import ProtocolError
from durable_streams_core.offsets import Offset
from durable_streams_core.operations import Touch
from durable_streams_core.sse import encode_data
from durable_streams_server.access.limits import Limiter
from durable_streams_server.caches import ByteCache
from durable_streams_server.engine.engine import Engine
from durable_streams_server.engine.fanout import SLICE, Notification
from durable_streams_server.engine.pages import Page
from durable_streams_server.http.options import Options
from durable_streams_server.http.time_limits import TimeLimits

log = logging.getLogger("durable_streams_server.http")

KEPT_FRAME_BYTES = 4 * 1024 * 1024
"""Encoded events that are kept for other readers of the same bytes: many of ordinary size, and none
of a single very large message."""
TICK_SECONDS = 1.0


class Readers:
    """The live readers of one front end: their clock and their end."""

    def __init__(self, engine: Engine, options: Options) -> None:
        self.engine = engine
        self.options = options
        self.time_limits = TimeLimits(options.long_poll_timeout)
        self.retry = b"retry: %d\n" % round(options.sse_retry * 1000)
        """The first line of an SSE response: after how many milliseconds a browser reconnects."""
        self._readers: set[Reader] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        """The loop that calls :meth:`_tick`; it may have been closed, and another be in use."""
        self._frames: ByteCache[tuple[str, bytes, int, int, bool], bytes] = ByteCache(
            KEPT_FRAME_BYTES
        )
        self.waiting = {"long-poll": 0, "sse": 0}
        """How many there are of each mode."""
        self._sent = 0
        self.closing = False
        self.now = 0.0
        """The loop's time at the last tick: near enough for keep-alives, and free to read."""

    def __len__(self) -> int:
        return len(self._readers)

    def __iter__(self) -> Iterator["Reader"]:
        return iter(tuple(self._readers))

    @property
    def sent(self) -> int:
        """Bytes of all frames that were ever sent."""
        return self._sent + sum(reader.sent for reader in tuple(self._readers))

    def add(self, reader: "Reader") -> None:
        self._readers.add(reader)
        self.waiting[reader.mode] += 1
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            self._loop = loop
            self.now = loop.time()
            loop.call_later(TICK_SECONDS, self._tick)

    def discard(self, reader: "Reader") -> None:
        if reader in self._readers:
            self._readers.remove(reader)
            self.waiting[reader.mode] -= 1
            self._sent += reader.sent

    def data_event(self, page: Page, data: bytes, *, base64: bool) -> bytes:
        """The data event of a page, encoded once for all who read the same bytes."""
        frames = self._frames
        key = (page.head.incarnation, page.timeline, page.start, len(data), base64)
        frame = frames.get(key)
        if frame is None:
            frame = encode_data(page.birth.kind, data, base64=base64)
            frames.add(key, frame, len(frame))
        return frame

    def _tick(self) -> None:
        if not self._readers:
            self._loop = None
            return
        loop = asyncio.get_running_loop()
        loop.call_later(TICK_SECONDS, self._tick)
        self.now = loop.time()
        self._pass_on(iter(tuple(self._readers)), self.now)

    def _pass_on(self, readers: Iterator["Reader"], now: float) -> None:
        """Tell readers the time, a slice of them in each turn of the loop."""
        told = tuple(islice(readers, SLICE))
        for reader in told:
            try:
                if reader in self._readers:
                    reader.tick(now)
            except Exception:
                log.exception("a live reader's timer failed")
        if len(told) == SLICE:
            asyncio.get_running_loop().call_soon(self._pass_on, readers, now)

    def close(self) -> None:
        """Answer every long-poll and end every SSE response, as at a time limit."""
        self.closing = True
        self.time_limits.close()
        for reader in tuple(self._readers):
            reader.finish()


class Registration:
    """A place among the subscribers of a stream, taken before the first look at the stream.

    The live reader takes the place over once it has the first page.
    """

    __slots__ = ("_unsubscribe", "missed", "notify", "path", "readers")

    def __init__(self, readers: Readers, path: str, principal: str | None = None) -> None:
        """``principal`` is whose live readers are limited, if any are.

        Raises :class:`ProtocolError` (429) where it or the stream has too many.
        """
        self.readers = readers
        self.path = path
        self.missed = False
        """Whether something happened that no reader was notified of."""
        self.notify: Callable[[Notification], None] = self._miss
        self._unsubscribe = readers.engine.fanout.subscribe(path, self)
        limiter = readers.options.limiter
        if principal is not None and limiter is not None:
            self._unsubscribe = _counted(limiter, principal, self._unsubscribe)

    def _miss(self, _notification: Notification) -> None:
        self.missed = True

    def leave(self) -> None:
        """Give the place up; safe to call again."""
        self._unsubscribe()
        # Both refer to this object. Without these circles it is freed at once.
        self._unsubscribe = _nothing
        self.notify = _ignore


class Reader:
    """A subscriber of one stream, which renews the stream's life while it waits."""

    __slots__ = (
        "_birth", "_head", "_readers", "_registration", "_task", "_touch_at", "engine",
        "incarnation", "path", "position", "sent", "timeline", "ttl",
    )  # fmt: skip
    mode: ClassVar[str]
    """The live mode, as in a query."""

    def __init__(self, registration: Registration, page: Page, position: int) -> None:
        """Begin at a position of the first page, which renewed the stream's life."""
        self._readers = readers = registration.readers
        self._registration = registration
        self.engine = readers.engine
        self.path = registration.path
        self.position = position
        self.timeline = page.timeline
        self._birth, self._head = page.birth, page.head
        self.incarnation = page.head.incarnation
        self.ttl = page.birth.ttl
        self.sent = 0
        """Bytes of all frames so far."""
        self._touch_at = 0.0
        self._task: asyncio.Task[None] | None = None
        registration.notify = self.notify

    def enlist(self) -> None:
        """Be told of the time from now on."""
        if self.ttl is not None:
            self._touch_at = asyncio.get_running_loop().time() + self.ttl / 10
        self._readers.add(self)

    def notify(self, notification: Notification) -> None:
        raise NotImplementedError

    def tick(self, now: float) -> None:
        """A stream that has live readers does not expire (§5.1)."""
        if self.ttl is not None and now >= self._touch_at:
            self._touch_at = now + max(TICK_SECONDS, self.ttl / 10)
            try:
                self.engine.submit(self.path, Touch(), _ignore)
            except ProtocolError as error:
                log.warning("renewing a stream's life failed: %s", error)

    def finish(self) -> None:
        raise NotImplementedError

    def leave(self) -> None:
        """Wait no longer; safe to call again."""
        self._registration.leave()
        self._readers.discard(self)
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def concerns(self, change: Change) -> bool:
        """Whether a change is one of the incarnation that is being read."""
        return change.incarnation == self.incarnation

    def read(
        self,
        limit: int,
        then: Callable[[Page | ProtocolError], None],
        notification: Notification | None = None,
    ) -> None:
        """Read a page from where the reader is, at once if possible.

        Those whom the same notification sent to look at the same offset share one look.
        """
        offset = Offset(self.timeline, self.position)
        if notification is not None:
            key = (offset, limit)
            look = notification.shared.get(key)
            if isinstance(look, SharedLook):
                look.join(then)
                return
            notification.shared[key] = look = SharedLook(then)
            then = look.complete
        try:
            page = self.engine.page_nowait(self.path, offset, limit)
        except ProtocolError as error:
            then(error)
            return
        if page is not None:
            then(page)
        elif notification is not None:
            # A look that is shared goes on when the reader that began it leaves.
            _ = self.engine.spawn(self._read_later(offset, limit, then))
        else:
            self._task = asyncio.create_task(self._read_later(offset, limit, then))

    async def _read_later(
        self, offset: Offset, limit: int, then: Callable[[Page | ProtocolError], None]
    ) -> None:
        result: Page | ProtocolError
        try:
            result = await self.engine.page(self.path, offset, limit)
        except ProtocolError as error:
            result = error
        except Exception:
            log.exception("reading for a live reader failed")
            result = ProtocolError("The server failed; see its log.")
        then(result)


class SharedLook:
    """One read on behalf of many readers."""

    __slots__ = ("_result", "_waiting")

    def __init__(self, first: Callable[[Page | ProtocolError], None]) -> None:
        self._waiting = [first]
        self._result: Page | ProtocolError | None = None

    def join(self, then: Callable[[Page | ProtocolError], None]) -> None:
        if self._result is None:
            self._waiting.append(then)
        else:
            then(self._result)

    def complete(self, result: Page | ProtocolError) -> None:
        self._result = result
        waiting, self._waiting = self._waiting, []
        for then in waiting:
            try:
                then(result)
            except Exception:
                log.exception("a live reader failed")


def _counted(
    limiter: Limiter, principal: str, unsubscribe: Callable[[], None]
) -> Callable[[], None]:
    """Count a live reader until what is returned is called."""
    try:
        limiter.enter(principal)
    except BaseException:
        unsubscribe()
        raise

    def leave() -> None:
        unsubscribe()
        limiter.leave(principal)

    return leave


def _nothing() -> None:
    """A reader that left has nothing to leave."""


def _ignore(_event: object) -> None:
    """Renewing a life needs no result: if it failed, the next tick tries again."""
