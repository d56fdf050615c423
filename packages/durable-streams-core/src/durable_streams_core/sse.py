"""Server-Sent Events: the encoder of a server and the incremental decoder of a client (§5.8).

Data never reaches the wire where it could be taken for a line end: text is split at CRLF, CR and
LF into ``data:`` lines, JSON messages hold no raw line ends, and the rest is base64. Each data
event is followed by a control event, and its bytes count for a reader only once that one came.
"""

from binascii import b2a_base64
from typing import Final

import msgspec

from durable_streams_core.content import Kind
from durable_streams_core.errors import DurableStreamsError

__all__ = [
    "BASE64",
    "KEEP_ALIVE",
    "Control",
    "SseDecoder",
    "SseError",
    "SseEvent",
    "encode_control",
    "encode_data",
    "encode_id",
]

KEEP_ALIVE: Final = b":\n\n"
"""A comment, sent on quiet streams so that no proxy takes the connection for dead."""

BASE64: Final = "base64"

_DATA: Final = b"event: data\ndata:"
_LINE: Final = b"\ndata:"
_END: Final = b"\n\n"


def encode_id(offset: str) -> bytes:
    """The ``id:`` line of an event after which a reader stands at ``offset``.

    It goes before the first event of a frame. A browser's ``EventSource`` sends the last one back
    as ``Last-Event-ID``, and so resumes by itself.
    """
    return b"id: %b\n" % offset.encode()


def encode_data(kind: Kind, stored: bytes, *, base64: bool = False) -> bytes:
    """One data event for a slice of a stream.

    ``base64`` asks for base64 whatever the kind. Text must then be whole characters of UTF-8:
    that is the caller's to see to, because cutting belongs to whoever knows the positions.
    """
    if base64 or kind is Kind.BINARY:
        return _DATA + b2a_base64(stored, newline=False) + _END
    if kind is Kind.JSON:
        return b"%b[%b]%b" % (_DATA, stored[:-2].replace(b"\n", _LINE), _END)
    if b"\r" in stored:
        stored = stored.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if stored.startswith(b" ") or b"\n " in stored:
        # The space that a reader strips from the front of a line must not be one of the data's.
        return _DATA + b" " + stored.replace(b"\n", _LINE + b" ") + _END
    return _DATA + stored.replace(b"\n", _LINE) + _END


def encode_control(
    next_offset: str, *, cursor: str | None, up_to_date: bool, closed: bool
) -> bytes:
    """The control event that follows data, or stands alone when there is none."""
    parts = ['event: control\ndata:{"streamNextOffset":"', next_offset, '"']
    if cursor is not None and not closed:
        parts += [',"streamCursor":"', cursor, '"']
    if up_to_date:
        parts.append(',"upToDate":true')
    if closed:
        parts.append(',"streamClosed":true')
    parts.append("}\n\n")
    return "".join(parts).encode()


class Control(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=False):
    """A control event as a client sees it."""

    stream_next_offset: str
    stream_cursor: str | None = None
    up_to_date: bool = False
    stream_closed: bool = False


class SseEvent(msgspec.Struct, frozen=True):
    """One dispatched event: its type (``message`` if none was named) and its joined data lines."""

    event: str
    data: str


class SseError(DurableStreamsError):
    """The input is not an event stream: it is not UTF-8, or an event exceeds the size limit."""


class SseDecoder:
    """Turns chunks of an event stream, cut anywhere, into events.

    Line ends are CR, LF or CRLF and nothing else, so U+2028 in a payload stays data. An event
    that the input cuts off is never returned. Memory is bounded by ``max_event_bytes``.
    """

    def __init__(self, max_event_bytes: int = 256 * 1024 * 1024) -> None:
        self._limit = max_event_bytes
        self._pending: list[bytes] = []
        self._held = 0
        self._first = True
        self._after_cr = False
        self._event = ""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[SseEvent]:
        """The events that ``chunk`` completes; raises :class:`SseError`."""
        if self._after_cr and chunk:
            # The LF of a CRLF whose CR ended the chunk before.
            self._after_cr = False
            if chunk.startswith(b"\n"):
                chunk = chunk[1:]
        if b"\n" not in chunk and b"\r" not in chunk:
            self._hold(chunk)
            return []
        if self._pending:
            self._pending.append(chunk)
            chunk = b"".join(self._pending)
            self._pending = []
        self._held = 0
        if b"\r" in chunk:
            self._after_cr = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, rest = chunk.split(b"\n")
        events = [event for line in lines if (event := self._line(line)) is not None]
        self._hold(rest)
        return events

    def _hold(self, rest: bytes) -> None:
        if rest:
            self._pending.append(rest)
            self._held += len(rest)
            self._check_size()

    def _check_size(self) -> None:
        if self._held + self._size > self._limit:
            raise SseError(f"an event is larger than {self._limit} bytes")

    def _line(self, line: bytes) -> SseEvent | None:
        if self._first:
            self._first = False
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line:
            return self._dispatch()
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
            self._size += len(value) + 1
            self._check_size()
        elif name == b"event":
            self._event = self._text(value)
        return None

    def _dispatch(self) -> SseEvent | None:
        name, data = self._event, self._data
        self._event, self._data, self._size = "", [], 0
        if not data:
            return None
        return SseEvent(name or "message", self._text(b"\n".join(data)))

    @staticmethod
    def _text(value: bytes) -> str:
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise SseError(f"an event is not UTF-8: {error.reason}") from None
