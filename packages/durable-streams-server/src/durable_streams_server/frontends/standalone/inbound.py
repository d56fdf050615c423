"""What one client sends: bytes in, requests out, through llhttp or past it.

* Every byte that llhttp is given is counted until it shows progress, because it collects a header
  in memory and tells of it only at its end.
* It is given no more than a slice at once, because a read may hold thousands of requests; and
  nothing more while an answer is due.
* A body of known length goes past it where it is long, or where the head was plain.
"""

import logging
from typing import TYPE_CHECKING

import httptools

from durable_streams_core.errors import ProtocolError
from durable_streams_server.frontends.standalone.request import Request
from durable_streams_server.frontends.standalone.strictness import (
    bad_syntax,
    check_head,
    header_too_large,
    target_too_long,
    wants_continue,
)
from durable_streams_server.http.errors import internal_error
from durable_streams_server.http.exchange import Exchange
from durable_streams_server.http.messages import Response, fold_into
from durable_streams_server.http.targets import split_target

if TYPE_CHECKING:
    from durable_streams_server.frontends.standalone.connection import Connection
    from durable_streams_server.frontends.standalone.server import StandaloneServer

log = logging.getLogger("durable_streams_server.frontends.standalone")

SLICE = 8 * 1024
"""Bytes given to the parser at once where they may hold many requests."""
MAX_DRAINED = 64 * 1024
"""A body of up to this size is read to its end, though not wanted, to keep the connection."""


class Inbound:
    """The receiving half of a connection; also the parser's callbacks."""

    __slots__ = (
        "_between", "_connection", "_head_size", "_headers", "_parser", "_secure", "_server", "_target",
        "feeding", "idle", "in_head", "quiet", "request",
    )  # fmt: skip

    def __init__(
        self, connection: "Connection", server: "StandaloneServer", *, secure: bool
    ) -> None:
        self._connection = connection
        self._server = server
        self._secure = secure
        # Made for the first head that is not plain.
        self._parser: httptools.HttpRequestParser | None = None
        # The parser has no part of a request.
        self._between = True
        # The head that is being received. No headers means that trailers are.
        self._target = b""
        self._headers: dict[bytes, bytes] | None = {}
        self._head_size = 0
        self.in_head = False
        self.quiet = 0
        """Bytes that the parser has taken without showing progress."""
        self.request: Request | None = None
        """The request whose body is being received."""
        self.feeding = False
        self.idle = True
        """What comes next begins a request."""

    def close(self) -> None:
        """Let go: the parser holds this object's methods."""
        self._parser = None
        self.request = None

    def feed(self, data: bytes) -> None:
        """Take in as much as may be now; the connection holds the rest."""
        connection = self._connection
        self.feeding = True
        size = len(data)
        if size <= SLICE and (self.request is None or not self.request.direct):
            self._parse(data)
        else:
            view = memoryview(data)
            position = 0
            while position < size and connection.is_open:
                if connection.is_blocked:
                    connection.hold(bytes(view[position:]))
                    break
                request = self.request
                if request is not None and request.direct:
                    need = request.length - request.size
                    whole = not position and size <= need
                    piece = data if whole else bytes(view[position : position + need])
                    position += len(piece)
                    self._take_directly(request, piece)
                else:
                    self._parse(view[position : position + SLICE])
                    position += SLICE
        self.feeding = False

    def expect_body(self, request: Request, length: int) -> None:
        """The head is complete and a body is to come; length 0 if only its end will tell."""
        begun = request.begun
        connection = self._connection
        self.request = request
        self.idle = False
        request.length = length
        wanted = isinstance(begun, Exchange) and begun.takes_body
        request.limit = begun.max_body if wanted else MAX_DRAINED  # type: ignore[union-attr]
        # A body whose head the parser was not shown must never reach it.
        request.direct = length > 0 and (self._between or SLICE < length <= request.limit)
        request.due = True
        connection.deadline = self._server.now + self._server.bounds.body_timeout
        connection.body_begins(request)

    def _take_directly(self, request: Request, piece: bytes) -> None:
        """A piece of a body that goes past the parser, as it came."""
        request.chunks.append(piece)
        request.size += len(piece)
        self._connection.deadline += len(piece) / self._server.bounds.body_rate
        if request.size == request.length:
            if not self._between:
                # It still waits for the body that it was not shown; the next one starts anew.
                self._parser = None
            self.on_message_complete()

    def _parse(self, data: bytes | memoryview) -> None:
        connection = self._connection
        parser = self._parser
        if parser is None:
            parser = self._parser = httptools.HttpRequestParser(self)
        self.quiet += len(data)
        # Until it has shown progress, what comes next is its.
        self.idle = False
        try:
            parser.feed_data(data)
        except httptools.HttpParserError as error:
            if not connection.is_open:
                return  # Bytes behind the last request.
            reason = error.__context__
            if not isinstance(error, httptools.HttpParserCallbackError):
                connection.refuse(bad_syntax(str(error)))
            elif isinstance(reason, ProtocolError):
                connection.refuse(reason)
            else:
                log.exception("receiving a request failed", exc_info=reason)
                connection.refuse(internal_error())
        except httptools.HttpParserUpgrade:
            connection.refuse(bad_syntax("it asks for an upgrade"))
        else:
            bounds = self._server.bounds
            # Spaces and line ends count here, and a target: a head that is no larger than it may
            # be is never refused, however it was cut.
            unfinished = 2 * bounds.max_header + bounds.max_target
            if self.quiet > unfinished and connection.is_open:
                connection.refuse(header_too_large(bounds.max_header))

    # What the parser says.

    def on_message_begin(self) -> None:
        self._between = self.idle = False

    def on_url(self, piece: bytes) -> None:
        self._target = target = self._target + piece if self._target else piece
        if len(target) > self._server.bounds.max_target:
            raise target_too_long(self._server.bounds.max_target)

    def on_header(self, name: bytes, value: bytes) -> None:
        headers = self._headers
        if headers is None:
            return  # A trailer: nothing of it counts.
        self._head_size += len(name) + len(value) + 4
        if self._head_size > self._server.bounds.max_header:
            raise header_too_large(self._server.bounds.max_header)
        name = name.lower()
        if name in headers:
            fold_into(headers, name, value)
        else:
            headers[name] = value

    def on_headers_complete(self) -> None:
        if not self._connection.is_open:
            raise _Ignored
        headers, self._headers = self._headers, None
        assert headers is not None
        assert self._parser is not None
        self.quiet = 0
        self.in_head = False
        parser = self._parser
        method = parser.get_method()
        version = parser.get_http_version()
        check_head(method, version, headers)
        self.request = request = self._begin(method.decode(), headers)
        if version != "1.1" or b"connection" in headers or b"proxy-connection" in headers:
            request.keep_alive = parser.should_keep_alive()
            request.old = version != "1.1"
        length = headers.get(b"content-length")
        if length is not None or b"transfer-encoding" in headers:
            self.expect_body(request, int(length or 0))

    def on_body(self, piece: bytes) -> None:
        self.quiet = 0
        request = self.request
        if request is None:
            return
        request.size += len(piece)
        if request.size > request.limit:
            self._connection.body_overflows(request)
            return
        request.chunks.append(piece)
        self._connection.deadline += len(piece) / self._server.bounds.body_rate

    def on_message_complete(self) -> None:
        request = self.request
        if request is None:
            raise _Ignored
        self.request = None
        self._between = self.idle = True
        self._headers = {}
        self._target = b""
        self._head_size = self.quiet = 0
        request.due = False
        self._connection.received(request)

    def _begin(self, method: str, headers: dict[bytes, bytes]) -> Request:
        begun: Response | Exchange
        expects = False
        try:
            expects = wants_continue(headers)
            path, query = split_target(self._target.decode("latin-1"))
            begun = self._server.begin(method, path, query, headers, secure=self._secure)
        except ProtocolError as error:
            begun = self._server.handler.refuse(error)
        request = Request(begun)
        request.bodiless = method == "HEAD"
        request.expects = expects
        return request


class _Ignored(Exception):
    """Bytes behind the last request: stop parsing them."""
