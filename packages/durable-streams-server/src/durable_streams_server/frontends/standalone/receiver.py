"""The receiving half of a connection as a machine without I/O: bytes in, events out.

Feed it what comes in, and ask it for the next event until there is none. It keeps what it has not
been asked for, so whoever asks decides when the next request is looked at.

========== ============================================= ==========================
state      what is read                                  next states
========== ============================================= ==========================
HEAD       a request head, with the body where it is all HEAD, LENGTH, SIZE
           there
LENGTH     a body of known length                        LENGTH, END
SIZE       the line that begins a chunk                  CHUNK, TRAILERS
CHUNK      a chunk's data                                CHUNK, CHUNK_END
CHUNK_END  the line end after a chunk                    SIZE
TRAILERS   trailers, which are dropped                   END
END        nothing: says that the body is complete       HEAD
OVER       nothing: what comes means nothing any more    (from every state, on an error)
========== ============================================= ==========================
"""

import re
from collections.abc import Callable
from enum import IntEnum, auto
from typing import ClassVar, Final

from durable_streams_core.errors import ProtocolError
from durable_streams_server.frontends.standalone.bounds import Bounds
from durable_streams_server.frontends.standalone.request_head import (
    CHUNKED,
    HEAD,
    IMPOSSIBLE,
    TRAILERS,
    ReceivedHead,
    bad_syntax,
    check_trailers,
    header_too_large,
    read_head,
    target_too_long,
    why_not,
)

_TOKEN: Final = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED: Final = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*+"'
_CHUNK: Final = re.compile(
    rb"([0-9A-Fa-f]{1,16})(?:;" + _TOKEN + rb"(?:=(?:" + _TOKEN + rb"|" + _QUOTED + rb"))?)*+\r\n"
)
_REQUEST_LINE_ROOM: Final = 64
"""More bytes than a request line has beside its target."""


class State(IntEnum):
    HEAD = auto()
    LENGTH = auto()
    SIZE = auto()
    CHUNK = auto()
    CHUNK_END = auto()
    TRAILERS = auto()
    END = auto()
    OVER = auto()


_END: Final = State.END
"""Looking a member up in its enum costs more than calling a function."""


class BodyEnd:
    """The event that a body which was not all there with its head is complete."""


BODY_END: Final = BodyEnd()
Event = ReceivedHead | bytes | BodyEnd | ProtocolError | None
"""A head, a piece of its body, the body's end, an error after which nothing follows, or nothing."""


class Receiver:
    """Reads the requests of one connection."""

    __slots__ = ("_at", "_bounds", "_buffer", "_remaining", "_scanned", "_state", "empty")

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._state = State.HEAD
        self.empty = True
        """Whether every byte was read, and no event is left."""
        self._buffer = b""
        self._at = 0
        """Where in the buffer the bytes begin that have not been read."""
        self._scanned = 0
        """How far the buffer was searched for the end of a head or of trailers."""
        self._remaining = 0
        """Bytes to come of the body or the chunk."""

    @property
    def buffered(self) -> int:
        """How many bytes have not been read."""
        return len(self._buffer) - self._at

    def feed(self, data: bytes) -> None:
        """Take in bytes."""
        self.empty = False
        if not self._buffer:
            self._buffer = data
            return
        at = self._at
        self._buffer = self._buffer[at:] + data
        self._scanned = max(0, self._scanned - at)
        self._at = 0

    def next(self) -> Event:
        """The next event, or None until more bytes are fed."""
        if self._at >= len(self._buffer):
            # Do not hold a request's bytes while the connection is idle.
            self._buffer = b""
            self._at = self._scanned = 0
            if self._state is not _END:
                self.empty = True
                return None
        try:
            return self._READERS[self._state](self)
        except ProtocolError as error:
            self._state = State.OVER
            return error

    def _read_head(self) -> Event:
        if self._scanned and not self._ends_now():
            return self._wait_for_head()
        buffer = self._buffer
        match = HEAD.match(buffer, self._at)
        if match is None:
            return self._without_head()
        head = read_head(match, self._bounds)
        length = head.length
        begin = match.end()
        end = begin + length
        self._scanned = 0
        if begin <= end == len(buffer):
            head.body = buffer[begin:]
            # Do not hold a request's bytes while it is answered.
            self._buffer = b""
            self._at = 0
            self.empty = True
        elif begin <= end < len(buffer):
            head.body = buffer[begin:end]
            self._at = end
        else:
            self._at = begin
            self._remaining = length
            self._state = State.SIZE if length == CHUNKED else State.LENGTH
        return head

    def _without_head(self) -> Event:
        """No head can be read: it is malformed or incomplete, or empty lines come first."""
        buffer = self._buffer
        if buffer.startswith(b"\r\n", self._at):
            while buffer.startswith(b"\r\n", self._at):
                self._at += 2
            return self.next()
        if self._ends_now():
            raise why_not(buffer[self._at :])
        return self._wait_for_head()

    def _wait_for_head(self) -> Event:
        """The head is incomplete; raises where it is too large already."""
        bounds = self._bounds
        room = bounds.max_target + _REQUEST_LINE_ROOM
        if self.buffered > room + bounds.max_header:
            if self._buffer.find(b"\r\n", self._at, self._at + room) < 0:
                raise target_too_long(bounds.max_target)
            raise header_too_large(bounds.max_header)
        return None

    def _ends_now(self) -> bool:
        """Whether an empty line has come; raises for bytes that cannot become a head."""
        buffer, at = self._buffer, self._at
        end = buffer.find(b"\r\n\r\n", max(at, self._scanned - 3))
        until = len(buffer) if end < 0 else end
        # The expression also looks at the byte before, which may belong to another request.
        bare = buffer.startswith(b"\n", at)
        if bare or IMPOSSIBLE.search(buffer, max(at, self._scanned - 1), until):
            raise bad_syntax("it has bytes that do not stand in a head")
        if end >= 0:
            return True
        self._scanned = len(buffer)
        return False

    def _read_length(self) -> Event:
        piece = self._take()
        if not self._remaining:
            self._state = State.END
        return piece

    def _take(self) -> bytes:
        """Take those of the remaining bytes that have come."""
        buffer, at = self._buffer, self._at
        end = at + self._remaining
        piece = buffer if not at and len(buffer) <= end else buffer[at:end]
        self._at += len(piece)
        self._remaining -= len(piece)
        return piece

    def _read_chunks(self) -> Event:
        """All chunks that have come, as one piece."""
        pieces: list[bytes] = []
        while self._read_part(pieces):
            pass
        if pieces:
            return b"".join(pieces)
        return self.next() if self._state is State.TRAILERS else None

    def _read_part(self, pieces: list[bytes]) -> bool:
        """Read on in the chunks; False where that cannot be."""
        match self._state:
            case State.SIZE:
                return self._read_size()
            case State.CHUNK:
                piece = self._take()
                if not self._remaining:
                    self._state = State.CHUNK_END
                if piece:
                    pieces.append(piece)
                return bool(piece)
            case State.CHUNK_END:
                return self._read_chunk_end()
            case _:
                return False

    def _read_size(self) -> bool:
        match = _CHUNK.match(self._buffer, self._at)
        if match is None:
            if self._buffer.find(b"\n", self._at) >= 0:
                raise bad_syntax("a chunk's size is malformed")
            if self.buffered > self._bounds.max_header:
                raise header_too_large(self._bounds.max_header)
            return False
        self._at = match.end()
        self._remaining = int(match[1], 16)
        self._state = State.CHUNK if self._remaining else State.TRAILERS
        return True

    def _read_chunk_end(self) -> bool:
        end = self._buffer[self._at : self._at + 2]
        if end != b"\r\n"[: len(end)]:
            raise bad_syntax("a chunk is longer than its size")
        if len(end) < 2:
            return False
        self._at += 2
        self._state = State.SIZE
        return True

    def _read_trailers(self) -> Event:
        match = TRAILERS.match(self._buffer, self._at)
        if match is None:
            if self._ends_now():
                raise bad_syntax("a trailer is malformed")
            if self.buffered > self._bounds.max_header:
                raise header_too_large(self._bounds.max_header)
            return None
        if len(match[1]) > self._bounds.max_header:
            raise header_too_large(self._bounds.max_header)
        check_trailers(match[1])
        self._at = match.end()
        self._scanned = 0
        return self._read_end()

    def _read_end(self) -> Event:
        self._state = State.HEAD
        return BODY_END

    def _ignore(self) -> Event:
        self._at = len(self._buffer)
        return None

    _READERS: ClassVar[dict[State, Callable[["Receiver"], Event]]] = {
        State.HEAD: _read_head,
        State.LENGTH: _read_length,
        State.SIZE: _read_chunks,
        State.CHUNK: _read_chunks,
        State.CHUNK_END: _read_chunks,
        State.TRAILERS: _read_trailers,
        State.END: _read_end,
        State.OVER: _ignore,
    }
