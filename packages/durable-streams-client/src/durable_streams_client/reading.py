"""The reader as a machine without I/O: catch up, go live, end (§5.6-§5.8, §8, §10).

    CATCH_UP ──up to date──▶ SSE ◀──────▶ LONG_POLL
        │                     │  fallback     │
        └──── closed ─────────┴───── closed ──┴──▶ end

Rules:

* Every reader begins with plain reads, also from ``now``: that pins the tail, so that a drop
  before the first live response misses nothing.
* Data counts once its control information has come: a page when its body is complete, an SSE data
  event when its control event has followed. Data that was cut before that is asked for again.
* ``Stream-Closed`` ends a reader, and nothing else does.
* With ``live="auto"`` SSE is left for long-poll where it is refused, keeps silent (a proxy that
  buffers) or is cut again and again; it is tried again after a while.
* A response without data is followed by a pause, so that no server makes a reader spin. A
  response that leads backwards is an error.

The caller passes in times (seconds, any monotonic clock) and random numbers.
"""

import binascii
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

import msgspec

from durable_streams_client.batches import Page
from durable_streams_client.encoding import response_kind
from durable_streams_client.errors import (
    ClientError,
    ConnectFailed,
    ConnectionLost,
    InvalidRequest,
    MalformedResponse,
    is_retryable,
)
from durable_streams_client.messages import ResponseHead, is_offset, next_offset
from durable_streams_client.options import Live
from durable_streams_client.parsing import NotJson, parse_json
from durable_streams_client.retry import Backoff
from durable_streams_core import protocol
from durable_streams_core.content import Kind
from durable_streams_core.sse import BASE64, Control, SseDecoder, SseError, SseEvent

SHORT_SECONDS: Final = 1.0
"""An SSE connection or a fruitless long-poll shorter than this counts as one that failed."""
MAX_SHORT: Final = 3
"""So many failed SSE connections in a row make ``auto`` go over to long-poll."""
SSE_AGAIN_SECONDS: Final = 300.0
MAX_HELD_BYTES: Final = 128 * 1024 * 1024
PART_BYTES: Final = 64
"""Counted for each data event beside its data, so that empty ones are bounded too."""

_CONTROL: Final = msgspec.json.Decoder(Control)


class Mode(Enum):
    CATCH_UP = "catch-up"
    SSE = protocol.LIVE_SSE
    LONG_POLL = protocol.LIVE_LONG_POLL


@dataclass(frozen=True, slots=True)
class Fetch:
    """The next request of a reader, to be sent after ``delay`` seconds."""

    mode: Mode
    params: list[tuple[str, str]]
    delay: float


@dataclass(slots=True)
class ReaderMachine:
    """Where one reader stands. ``offset`` is where the next request reads on.

    ``live`` None stops at the tail.
    """

    url: str
    offset: str
    live: Live | None
    backoff: Backoff
    mode: Mode = field(default=Mode.CATCH_UP, init=False)
    cursor: str | None = field(default=None, init=False)
    content_type: str = field(default=protocol.DEFAULT_CONTENT_TYPE, init=False)
    up_to_date: bool = field(default=False, init=False)
    closed: bool = field(default=False, init=False)
    _delay: float = field(default=0.0, init=False)
    _sent_at: float = field(default=0.0, init=False)
    _short: int = field(default=0, init=False)
    _sse_at: float = field(default=0.0, init=False)
    _sse_wait: float = field(default=SSE_AGAIN_SECONDS, init=False)
    _events: "_Events | None" = field(default=None, init=False)

    def next(self, now: float) -> Fetch | None:
        """The next request, or None at the end."""
        if self.closed or (self.live is None and self.up_to_date):
            return None
        if self.mode is Mode.LONG_POLL and self.live == "auto" and now >= self._sse_at:
            self.mode = Mode.SSE
        delay, self._delay = self._delay, 0.0
        params = [(protocol.OFFSET_PARAM, self.offset)]
        if self.mode is not Mode.CATCH_UP:
            params.append((protocol.LIVE_PARAM, self.mode.value))
            if self.cursor is not None:
                params.append((protocol.CURSOR_PARAM, self.cursor))
        self._sent_at = now + delay
        return Fetch(self.mode, params, delay)

    # -- whole responses: catch-up and long-poll --------------------------------------------------

    def page(self, head: ResponseHead, body: bytes, now: float) -> Page | None:
        """Take a complete response of a plain read or a long-poll; raises MalformedResponse."""
        offset = next_offset(self.url, head)
        if head.status == 200:
            self.content_type = head.get("content-type") or self.content_type
        elif head.status == 204:
            body = b""
        else:
            raise MalformedResponse(
                "A read is answered with 200 or 204.", url=self.url, status=head.status
            )
        closed = head.flag(protocol.STREAM_CLOSED)
        moved = offset != self.offset
        data = b"" if _is_empty(self.content_type, body) else body
        self._check_step(data, offset)
        at_tail = closed or head.flag(protocol.STREAM_UP_TO_DATE) or not moved
        if data or closed or (at_tail and self.mode is Mode.CATCH_UP):
            self.backoff.progress()
        elif self.mode is Mode.CATCH_UP:
            self._delay = self._pause_for_data()
        elif now - self._sent_at >= SHORT_SECONDS:
            self.backoff.progress()
        else:
            self._delay = self._pause()
        page = self._advance(
            data, offset, head.get(protocol.STREAM_CURSOR), at_tail=at_tail, closed=closed
        )
        if self.mode is Mode.CATCH_UP and at_tail and self.live is not None:
            self.mode = Mode.LONG_POLL if self.live == "long-poll" else Mode.SSE
        return page

    # -- SSE ---------------------------------------------------------------------------------------

    def opened(self, head: ResponseHead, now: float) -> None:
        """An SSE response has begun; raises MalformedResponse if it is none."""
        kind = (head.get("content-type") or "").partition(";")[0].strip().lower()
        if head.status != 200 or kind != protocol.SSE_CONTENT_TYPE:
            raise MalformedResponse(
                f"The server did not answer with an event stream but with {kind or 'nothing'}.",
                url=self.url,
                status=head.status,
                code="no-event-stream",
            )
        encoding = head.get(protocol.STREAM_SSE_DATA_ENCODING)
        base64 = (encoding or "").strip().lower() == BASE64
        self._events = _Events(self.url, response_kind(self.content_type), base64=base64)
        self._sent_at = now

    def events(self, chunk: bytes) -> list[Page]:
        """Take bytes of an SSE response: the pages whose control event has come."""
        assert self._events is not None
        pages = []
        for data, control in self._events.feed(chunk):
            self._check_step(data, control.stream_next_offset)
            if data or control.stream_closed:
                self.backoff.progress()
            page = self._advance(
                data,
                control.stream_next_offset,
                control.stream_cursor,
                at_tail=control.up_to_date or control.stream_closed,
                closed=control.stream_closed,
            )
            if page is not None:
                pages.append(page)
            if self.closed:
                break
        return pages

    @property
    def heard(self) -> bool:
        """Whether the current SSE response has brought a control event."""
        return self._events is not None and self._events.controls > 0

    def cut(self, now: float) -> None:
        """An SSE response ended without an error: rotation, or a proxy that cuts."""
        heard, self._events = self.heard, None
        if self.closed:
            return
        if heard and now - self._sent_at >= SHORT_SECONDS:
            self._short = 0
            self.backoff.progress()
            return
        self._sse_failed(now)
        self._delay = self._pause()

    def silent(self, now: float) -> None:
        """An SSE response brought nothing for too long."""
        self._events = None
        if self.live == "auto":
            self._leave_sse(now)
        else:
            self._delay = self._pause()

    # -- faults ------------------------------------------------------------------------------------

    def failed(self, error: ClientError, retry_after: float | None, now: float) -> float | None:
        """A request failed: seconds until the next, or None if ``error`` is to be raised."""
        in_sse = self.mode is Mode.SSE
        worked = self._worked(error, now)
        self._events = None
        if in_sse and self.live == "auto" and _refuses_sse(error):
            self._leave_sse(now)
            return 0.0
        if not is_retryable(error):
            return None
        if in_sse and now - self._sent_at < SHORT_SECONDS and not isinstance(error, ConnectFailed):
            self._sse_failed(now)
        if worked:
            # A proxy may end every connection after a while. The stream is well, however quiet.
            self._short = 0
            self.backoff.progress()
            self._delay = self.backoff.pause()
            return self._delay
        delay = self.backoff.failed(retry_after)
        if delay is not None:
            self._delay = delay
        return delay

    def _worked(self, error: ClientError, now: float) -> bool:
        """Whether a live connection was cut that had worked: it was held open for a while."""
        held = isinstance(error, ConnectionLost) and now - self._sent_at >= SHORT_SECONDS
        if self.mode is Mode.SSE:
            return held and self.heard
        return held and self.mode is Mode.LONG_POLL

    def _sse_failed(self, now: float) -> None:
        self._short += 1
        if self._short >= MAX_SHORT and self.live == "auto":
            self._leave_sse(now)

    def _leave_sse(self, now: float) -> None:
        self._short = 0
        self.mode = Mode.LONG_POLL
        self._sse_at = now + self._sse_wait
        self._sse_wait *= 2

    def _pause(self) -> float:
        """A delay after a response that was none of use; such pauses never end a reader."""
        self.backoff.failures = min(self.backoff.failures + 1, 30)
        return self.backoff.pause()

    def _pause_for_data(self) -> float:
        """A delay after a page of a catch-up read that held nothing and is not the last."""
        delay = self.backoff.failed()
        if delay is None:
            raise MalformedResponse(
                "The server goes on answering with pages that hold nothing, and does not say that"
                " its end is reached.",
                method="GET",
                url=self.url,
                code="empty-pages",
            )
        return delay

    def _check_step(self, data: bytes, offset: str) -> None:
        """Raise MalformedResponse unless reading on from ``offset`` leads forward (§8)."""
        if self.offset in (protocol.START, protocol.NOW):
            return
        if offset < self.offset:
            message = f"The next offset, {offset}, lies before the one asked for, {self.offset}."
        elif data and offset == self.offset:
            message = "The response holds data but its next offset is the one asked for."
        else:
            return
        raise MalformedResponse(message, method="GET", url=self.url, code="offset-went-back")

    def _advance(
        self, data: bytes, offset: str, cursor: str | None, *, at_tail: bool, closed: bool
    ) -> Page | None:
        moved = bool(data) or closed or (at_tail and not self.up_to_date)
        start = None if self.offset == protocol.NOW else self.offset
        self.offset = offset
        self.cursor = cursor or self.cursor
        self.up_to_date = at_tail
        self.closed = closed
        if not moved:
            return None
        return Page(data, offset, self.content_type, at_tail, closed, self.cursor, start)


def _is_empty(content_type: str, body: bytes) -> bool:
    """Whether a body holds nothing: for JSON that is an empty array (§9.1.5)."""
    if not body:
        return True
    return len(body) <= 16 and response_kind(content_type) is Kind.JSON and _is_empty_array(body)


def _is_empty_array(body: bytes) -> bool:
    return b"".join(body.split()) == b"[]"


def _refuses_sse(error: ClientError) -> bool:
    return (isinstance(error, MalformedResponse) and error.code == "no-event-stream") or (
        isinstance(error, InvalidRequest)
    )


class _Events:
    """Pairs the data events of one SSE response with their control event."""

    def __init__(self, url: str, kind: Kind, *, base64: bool) -> None:
        self.controls = 0
        self._url = url
        self._kind = kind
        self._base64 = base64
        self._decoder = SseDecoder(MAX_HELD_BYTES)
        self._parts: list[bytes] = []
        self._held = 0

    def feed(self, chunk: bytes) -> list[tuple[bytes, Control]]:
        try:
            events = self._decoder.feed(chunk)
        except SseError as error:
            raise self._malformed(f"The event stream is malformed: {error}.") from None
        done = []
        for event in events:
            if event.event == "data":
                self._hold(self._decode(event))
            elif event.event == "control":
                self.controls += 1
                done.append((self._join(), self._control(event.data)))
        return done

    def _hold(self, part: bytes) -> None:
        """Keep data until its control event has come."""
        self._parts.append(part)
        self._held += len(part) + PART_BYTES
        if self._held > MAX_HELD_BYTES:
            raise self._malformed(f"More than {MAX_HELD_BYTES} bytes came without a control event.")

    def _control(self, text: str) -> Control:
        try:
            control = parse_json(text, _CONTROL)
        except NotJson as error:
            raise self._malformed(
                f"A control event is not a JSON object of its kind: {error}."
            ) from None
        if not is_offset(control.stream_next_offset):
            raise self._malformed("A control event names no offset.")
        return control

    def _decode(self, event: SseEvent) -> bytes:
        if not self._base64:
            return event.data.encode()
        try:
            return binascii.a2b_base64(
                event.data.replace("\n", "").replace("\r", ""), strict_mode=True
            )
        except (binascii.Error, ValueError) as error:
            raise self._malformed(f"A data event is not base64: {error}.") from None

    def _join(self) -> bytes:
        parts, self._parts = self._parts, []
        self._held = 0
        if self._kind is Kind.JSON:
            parts = [part for part in parts if len(part) > 16 or not _is_empty_array(part)]
            if len(parts) > 1:
                return b"[%b]" % b",".join(part.strip()[1:-1] for part in parts)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _malformed(self, message: str) -> MalformedResponse:
        return MalformedResponse(message, method="GET", url=self._url, code="invalid-event")
