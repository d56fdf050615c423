"""Requests, and the three kinds of response that pass between the handler and a front end.

* :class:`Response` is ready: status, header pairs, body.
* :class:`Pending` calls back once with a response or a live response, and can be cancelled.
* :class:`Live` is a head, then frames that are pushed into a :class:`Sink`.

None of the three needs a task.
"""

import asyncio
import re
from collections.abc import Callable, Iterable
from typing import Final, Protocol

import msgspec

from durable_streams_core.errors import InvalidRequest, ProtocolError
from durable_streams_server.http import names
from durable_streams_server.http.errors import repeated_header
from durable_streams_server.http.peers import Peer

Header = tuple[bytes, bytes]

PROBLEM_JSON = b"application/problem+json"

KNOWN_HEADERS = frozenset(
    (
        names.ACCEPT_ENCODING, names.AUTHORIZATION, names.CONNECTION, names.CONTENT_ENCODING,
        names.CONTENT_LENGTH, names.CONTENT_TYPE, names.EXPECT, names.HOST, names.IF_MATCH,
        names.IF_NONE_MATCH, names.LAST_EVENT_ID, names.ORIGIN, names.PRODUCER_EPOCH,
        names.PRODUCER_ID, names.PRODUCER_SEQ, names.PROXY_CONNECTION, names.STREAM_CLOSED,
        names.STREAM_EXPIRES_AT, names.STREAM_FORK_OFFSET, names.STREAM_FORK_SUB_OFFSET,
        names.STREAM_FORKED_FROM, names.STREAM_SEQ, names.STREAM_TTL, names.TRANSFER_ENCODING,
        names.UPGRADE,
    )
)  # fmt: skip
"""The headers of a request that this package reads: a front end need not read any other."""

ORDINARY_HEADERS = frozenset(
    (
        names.ACCEPT_ENCODING, names.AUTHORIZATION, names.CONNECTION, names.CONTENT_LENGTH,
        names.CONTENT_TYPE, names.HOST, names.PRODUCER_EPOCH, names.PRODUCER_ID, names.PRODUCER_SEQ,
    )
)  # fmt: skip
"""The known headers that most requests have. A request with no other needs no look for each."""

# Sent once or not at all (RFC 9110 §5.3): two of them, or a list, have no meaning to pick from.
_SINGLE = frozenset(
    (
        names.AUTHORIZATION, names.CONTENT_LENGTH, names.CONTENT_TYPE, names.HOST, names.IF_MATCH,
        names.LAST_EVENT_ID, names.ORIGIN, names.PRODUCER_EPOCH, names.PRODUCER_ID,
        names.PRODUCER_SEQ, names.STREAM_CLOSED, names.STREAM_EXPIRES_AT, names.STREAM_FORK_OFFSET,
        names.STREAM_FORK_SUB_OFFSET, names.STREAM_FORKED_FROM, names.STREAM_SEQ, names.STREAM_TTL,
    )
)  # fmt: skip


class RequestHead(msgspec.Struct, eq=False):
    """A request without its body.

    ``path`` is what follows the stream root in the raw target, still percent-encoded; ``root`` is
    that root as the client sees it, with both slashes; ``headers`` are by lower-case name.
    ``native`` is the front end's own request, for the access hook. ``peer`` is the other end of the
    connection, where the front end does not keep it in its own request. ``body`` is there where all
    of it came with the head. ``ordinary`` says that of the known headers only ordinary ones came,
    none of them with two values; where it is False, nobody looked.
    """

    method: str
    path: str
    query: str
    headers: dict[bytes, bytes]
    root: str = "/"
    scheme: str = "http"
    native: object = None
    peer: Peer | None = None
    body: bytes | None = None
    ordinary: bool = False

    def __repr__(self) -> str:
        # Headers hold secrets.
        return f"<{type(self).__name__} {self.method} {self.path}>"

    @property
    def given(self) -> object:
        """The request for an access hook: the front end's own, or else this one."""
        return self if self.native is None else self.native

    def header(self, name: bytes) -> bytes | None:
        """Any header by its lower-case name; values of several are joined by commas."""
        return self.headers.get(name)

    def text(self, name: bytes) -> str | None:
        """A header as text; raises :class:`InvalidRequest` if it is not UTF-8."""
        value = self.headers.get(name)
        if value is None:
            return None
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise InvalidRequest(
                f"The {name.decode()} header is not UTF-8.", code="invalid-header"
            ) from None


REPEATED = b""
"""The key under which folded headers name a header that came with two values and must have one.

Not an error yet, because only those who may know of the stream are told what is wrong.
"""


def fold_headers(pairs: Iterable[Header]) -> dict[bytes, bytes]:
    """Headers by lower-case name; raises :class:`InvalidRequest` for two values of ``Host``."""
    pairs = tuple(pairs)
    folded = {name.lower(): value for name, value in pairs}
    if len(folded) == len(pairs):
        return folded
    folded.clear()
    for raw_name, value in pairs:
        name = raw_name.lower()
        if name in folded:
            fold_into(folded, name, value)
        else:
            folded[name] = value
    return folded


def fold_into(folded: dict[bytes, bytes], name: bytes, value: bytes) -> None:
    """Add a header to those that hold one of its name. The same value again changes nothing.

    Raises :class:`InvalidRequest` where the request cannot be told apart from others: for a second
    ``Host`` (RFC 9112 §3.2) and for another length.
    """
    if name not in _SINGLE:
        folded[name] = folded[name] + b", " + value
    elif name == names.HOST or (name == names.CONTENT_LENGTH and value != folded[name]):
        raise repeated_header(name)
    elif value != folded[name]:
        folded[REPEATED] = name


def joined(pairs: Iterable[Header], name: bytes) -> bytes | None:
    """The values of the headers of a lower-case name, joined by commas; None without one."""
    values = [value.strip() for found, value in pairs if found.lower() == name]
    return b", ".join(values) if values else None


class Response:
    """A complete response, less Content-Length, Date and Connection.

    Its headers are given as pairs or, where they are most often only written, as the ``lines`` that
    they make on the wire. Pairs are made from lines when they are first asked for.
    """

    __slots__ = ("_headers", "body", "lines", "status")

    def __init__(
        self,
        status: int,
        headers: list[Header] | None = None,
        body: bytes = b"",
        *,
        lines: bytes | None = None,
    ) -> None:
        self.status = status
        self.body = body
        self._headers = headers
        self.lines = to_lines(headers or ()) if lines is None else lines
        """The headers as they go on the wire, each with its line end."""

    @property
    def headers(self) -> list[Header]:
        """The header pairs."""
        if self._headers is None:
            self._headers = to_pairs(self.lines)
        return self._headers


def to_lines(headers: Iterable[Header]) -> bytes:
    """Header pairs as they go on the wire, each with its line end."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])


_PAIR: Final = re.compile(rb"([^:]++): ([^\r]*+)\r\n")


def to_pairs(lines: bytes) -> list[Header]:
    """What :func:`to_lines` was given."""
    return _PAIR.findall(lines)


class Sink(Protocol):
    """Where a live response's frames go."""

    def write(self, frame: bytes) -> bool:
        """Take a frame; False if no more should come before :meth:`Live.drained` is called."""

    def end(self) -> None:
        """The response is complete."""


class Live(Protocol):
    """A live response. The front end sends ``response``, then attaches a sink."""

    response: Response
    """Status and headers, without a body."""
    sent: int
    """Bytes of all frames so far."""

    def attach(self, sink: Sink) -> None:
        """Begin to push frames, until ``Sink.end`` or :meth:`gone`. :meth:`gone` after the end does
        nothing.
        """

    def drained(self) -> None:
        """The sink takes frames again."""

    def gone(self) -> None:
        """The client went away, before or after :meth:`attach`."""


class Pending:
    """A response that is not there yet."""

    __slots__ = ("_callback", "_cancel", "_result")

    def __init__(self) -> None:
        self._result: Response | Live | None = None
        self._callback: Callable[[Response | Live], None] | None = None
        self._cancel: Callable[[], object] | None = None

    def then(self, callback: Callable[[Response | Live], None]) -> None:
        """Call back with the response, at once if it is there."""
        if self._result is not None:
            callback(self._result)
        else:
            self._callback = callback

    def on_cancel(self, cancel: Callable[[], object]) -> None:
        """Call ``cancel`` if the client goes away first."""
        self._cancel = cancel

    def resolve(self, result: Response | Live) -> None:
        """Give the response; only the first one counts."""
        if self._result is None:
            self._result = result
            callback, self._callback = self._callback, None
            self._cancel = None
            if callback is not None:
                callback(result)

    @property
    def result(self) -> Response | Live | None:
        """The response, None while it is not there."""
        return self._result

    def cancel(self) -> None:
        """The client went away: stop waiting. Work that began for it goes on."""
        self._callback = None
        cancel, self._cancel = self._cancel, None
        if cancel is not None:
            cancel()


async def awaited(pending: Pending) -> Response | Live:
    """A pending response, for a coroutine; cancelling it cancels what is pending."""
    future: asyncio.Future[Response | Live] = asyncio.get_running_loop().create_future()

    def resolve(result: Response | Live) -> None:
        if not future.done():
            future.set_result(result)
        else:
            drop(result)

    pending.then(resolve)
    try:
        return await future
    except asyncio.CancelledError:
        pending.cancel()
        if not future.cancelled():
            # It came, and before this could go on nobody wanted it any more.
            drop(future.result())
        raise


def drop(response: Response | Live) -> None:
    """Nobody takes this response: a live one has to know."""
    if not isinstance(response, Response):
        response.gone()


AnyResponse = Response | Pending | Live

_TITLES = {
    400: "Bad request", 401: "Not authenticated", 403: "Forbidden", 404: "Not found",
    405: "Method not allowed", 408: "Request timeout", 409: "Conflict", 410: "Gone",
    411: "Length required", 412: "Precondition failed", 413: "Body too large",
    414: "Path too long", 415: "Unsupported media type", 417: "Expectation failed",
    429: "Too many requests", 431: "Headers too large", 500: "Server error",
    501: "Not implemented", 503: "Unavailable", 504: "Outcome unknown", 505: "HTTP version",
    507: "Storage full",
}  # fmt: skip


def problem(error: ProtocolError, extra: list[Header]) -> Response:
    """An error as ``application/problem+json`` (RFC 9457), with the headers it carries."""
    body = msgspec.json.encode(
        {
            "type": "about:blank",
            "title": _TITLES.get(error.status, "Error"),
            "status": error.status,
            "code": error.code,
            "detail": error.message,
        }
    )
    headers = [(names.CONTENT_TYPE, PROBLEM_JSON), (names.CACHE_CONTROL, b"no-store"), *extra]
    headers += [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    return Response(error.status, headers, body)
