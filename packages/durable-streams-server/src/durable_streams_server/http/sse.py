"""Server-sent events: catch-up pages, then what is committed, for as long as it lasts (§5.8)."""

import asyncio
from enum import Enum
from typing import Final

from durable_streams_core.content import Kind, incomplete_suffix
from durable_streams_core.entities import Change
from durable_streams_core.errors import ProtocolError
from durable_streams_core.offsets import format_offset
from durable_streams_core.protocol import LIVE_SSE
from durable_streams_core.sse import KEEP_ALIVE, encode_control, encode_data, encode_id
from durable_streams_server.engine.engine import Engine
from durable_streams_server.engine.fanout import Notification
from durable_streams_server.engine.pages import Page
from durable_streams_server.http import live
from durable_streams_server.http.messages import Response, Sink

PAGE_BYTES = 64 * 1024
"""The size of one event in catch-up, and so about the cost of a client that stalls."""


class SsePhase(Enum):
    """How far an SSE response is. Pages lead from reading to live, or to reading again."""

    NEW = "new"
    """Its first page waits for a sink."""
    PAUSED = "paused"
    """There is more to read: in the next turn of the loop, or once the sink has drained."""
    READING = "reading"
    LIVE = "live"
    """It has everything, and frames are sent as they are committed."""
    ENDED = "ended"


# Looking a member up in its enum costs more than calling a function.
_LIVE: Final = SsePhase.LIVE


class SseReader(live.Reader):
    """One SSE response (§5.8): catch-up pages, then frames as they are committed.

    Each data event is paired with a control event and written together with it. When the sink is
    full nothing is queued: the reader falls behind and reads on from the store once it drains, so
    a slow client costs one page at most.
    """

    __slots__ = (
        "_base64", "_behind", "_born", "_cursor", "_first", "_frames_key", "_full", "_kind",
        "_phase", "_sink", "_written", "response",
    )  # fmt: skip

    mode = LIVE_SSE

    def __init__(
        self, registration: live.Registration, page: Page, response: Response, cursor: str | None
    ) -> None:
        """Be ready to send ``response``, which has no body, and then ``page``."""
        super().__init__(registration, page, page.start)
        self._cursor = cursor
        self.response = response
        self._first: Page | None = page
        self._sink: Sink | None = None
        self._phase = SsePhase.NEW
        self._full = False
        """Whether the sink takes no more for now."""
        self._behind = registration.missed
        """Whether there is something that no page or frame so far holds."""
        self._born = self._written = 0.0
        self._kind = page.birth.kind
        self._base64 = needs_base64(page)
        # Most readers bring no cursor, so they can share frames.
        self._frames_key = (self._base64, None) if cursor is None else None

    def attach(self, sink: Sink) -> None:
        page, self._first = self._first, None
        if self._phase is SsePhase.ENDED or page is None:
            self.leave()
            sink.end()
            return
        self._sink = sink
        self._born = self._written = asyncio.get_running_loop().time()
        self._phase = SsePhase.PAUSED
        self.enlist()
        self._take(page, first=True)
        if self._readers.closing:
            self.finish()

    def drained(self) -> None:
        self._full = False
        if self._behind and self._phase is not SsePhase.ENDED:
            self._behind = False
            self._catch_up()

    def gone(self) -> None:
        self._phase = SsePhase.ENDED
        self.leave()

    def finish(self) -> None:
        """End the response so that the client comes back from where it is."""
        if self._phase is not SsePhase.ENDED:
            self._phase = SsePhase.ENDED
            self.leave()
            if self._sink is not None:
                self._sink.end()

    def tick(self, now: float) -> None:
        super().tick(now)
        if now - self._born >= self._readers.options.sse_rotation:
            self.finish()
        elif not self._full and now - self._written >= (
            self._readers.options.sse_keep_alive - live.TICK_SECONDS / 2
        ):
            self._write(KEEP_ALIVE)

    def notify(self, notification: Notification) -> None:
        change = notification.change
        if (
            notification.start == self.position
            and self._phase is _LIVE
            and not self._full
            and change is not None
            and change.timeline == self.timeline
            and change.incarnation == self.incarnation
        ):
            # The way that every message to every reader goes.
            frame = notification.frames.get(self._frames_key) or self._frame(notification, change)
            if frame is None:
                self._catch_up(notification)
                return
            self.position = change.tail
            self._write(frame)
            if change.closed:
                self.finish()
            return
        if change is not None and self.concerns(change):
            if change.gone:
                self.finish()
                return
            if (
                change.tail <= self.position
                and change.timeline == self.timeline
                and not change.closed
            ):
                return
        # It asks for a look, came before the first page, or concerns a former incarnation.
        if self._full or self._phase is not SsePhase.LIVE:
            self._behind = True
        else:
            self._catch_up(notification)

    def _frame(self, notification: Notification, change: Change) -> bytes | None:
        """The events of a change, encoded once for all readers at the same position.

        None where this response cannot carry the data.
        """
        data = change.data
        assert data is not None
        frames = notification.frames
        event = frames.get((self._base64, "data"))
        if event is None:
            if not self._base64 and self._kind is Kind.TEXT and not is_text(data):
                return None
            event = encode_data(self._kind, data, base64=self._base64) if data else b""
            frames[self._base64, "data"] = event
        plain = self.engine.cursor(None)
        cursor = plain if self._cursor is None else self.engine.cursor(self._cursor)
        key = (self._base64, None)
        whole = frames.get(key) if cursor == plain else None
        if whole is None:
            offset = format_offset(change.timeline, change.tail)
            control = encode_control(offset, cursor=cursor, up_to_date=True, closed=change.closed)
            whole = encode_id(offset) + event + control
            if cursor == plain:
                frames[key] = whole
        return whole

    def _catch_up(self, notification: Notification | None = None) -> None:
        """Read on until the tail is reached or the sink is full."""
        if self._phase is SsePhase.READING:
            # The page that is being read may be older than this; two reads at once would
            # send the same data twice.
            self._behind = True
            return
        self._phase = SsePhase.READING
        self.read(page_bytes(self.engine), self._caught, notification)

    def _caught(self, page: Page | ProtocolError) -> None:
        self._task = None
        if self._phase is SsePhase.ENDED:
            return
        self._phase = SsePhase.PAUSED
        if isinstance(page, ProtocolError):
            # The client comes back from where it is, and is told.
            self.finish()
            return
        self._take(page, first=False)

    def _take(self, page: Page, *, first: bool) -> None:
        """Send a page and decide how to go on."""
        data = page.data
        if self._kind is Kind.TEXT and not self._base64:
            # An incomplete last character waits for its other bytes.
            kept = incomplete_suffix(data)
            data = data[: len(data) - kept] if kept else data
            if not is_text(data) or (kept and page.closed):
                # Not text after all: the client comes back and is given base64.
                self.finish()
                return
        end = page.start + len(data)
        whole = end == page.end
        closed = page.closed and whole
        if data or closed or first:
            timeline = page.timeline
            if not whole and end >= page.head.start:
                timeline = page.head.timeline_at(end)
            offset = format_offset(timeline, end)
            control = encode_control(
                offset,
                cursor=self.engine.cursor(self._cursor),
                up_to_date=page.up_to_date,
                closed=closed,
            )
            event = self._readers.data_event(page, data, base64=self._base64) if data else b""
            retry = self._readers.retry if first else b""
            self.position, self.timeline = end, timeline
            self._write(retry + encode_id(offset) + event + control)
        if closed:
            self.finish()
        elif page.up_to_date:
            self._phase = SsePhase.LIVE
            if self._behind and not self._full:
                # Something came while this page was being read.
                self._behind = False
                self._catch_up()
        elif self._full:
            self._behind = True
        else:
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        if self._full:
            self._behind = True
        elif self._phase is not SsePhase.ENDED:
            self._catch_up()

    def _write(self, frame: bytes) -> None:
        assert self._sink is not None
        self._written = self._readers.now
        self.sent += len(frame)
        if not self._sink.write(frame):
            self._full = True


def page_bytes(engine: Engine) -> int:
    """The size of a page that becomes one event."""
    return min(PAGE_BYTES, engine.limits.page_bytes)


def is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def needs_base64(page: Page) -> bool:
    """Whether a response that begins with this page carries base64 (§5.8)."""
    kind = page.birth.kind
    if kind is not Kind.TEXT:
        return kind is Kind.BINARY
    kept = incomplete_suffix(page.data)
    if kept and page.closed:
        return True
    return not is_text(page.data[: len(page.data) - kept])
