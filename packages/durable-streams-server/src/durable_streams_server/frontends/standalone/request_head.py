"""Reads request heads.

One regular expression validates a whole head, and another finds the headers that this server knows;
the other headers stay bytes until an access hook asks for them. The grammar is that of RFC 9112
without what it only tolerates: bare CR or LF, folded lines and spaces before a colon are refused,
and so is whatever a server in front might read differently: two lengths, a length next to chunks,
another coding before chunks, a tab beside it, chunks in HTTP/1.0, no Host or two.
"""

import re
from functools import cache
from itertools import groupby
from typing import Final

from durable_streams_core.errors import InvalidRequest, ProtocolError
from durable_streams_server.frontends.standalone.bounds import Bounds
from durable_streams_server.http import names
from durable_streams_server.http.messages import (
    KNOWN_HEADERS,
    ORDINARY_HEADERS,
    Header,
    RequestHead,
    fold_headers,
)

_METHODS: Final = {
    name.encode(): name
    for name in (
        "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT", "TRACE", "QUERY", "ACL",
        "BIND", "CHECKOUT", "COPY", "LINK", "LOCK", "MERGE", "MKACTIVITY", "MKCALENDAR", "MKCOL",
        "MOVE", "PROPFIND", "PROPPATCH", "REBIND", "REPORT", "SEARCH", "UNBIND", "UNLINK", "UNLOCK",
    )
}  # fmt: skip
"""Methods of HTTP; most are answered 405."""
_LINES: Final = rb"(?:[!#$%&'*+.^_`|~0-9A-Za-z-]++:[\t -~\x80-\xff]*+\r\n)*+"
HEAD: Final = re.compile(rb"([A-Z]++) ([!-~]++) HTTP/1\.([01])\r(\n%b)\r\n" % _LINES)
TRAILERS: Final = re.compile(rb"(%b)\r\n" % _LINES)
IMPOSSIBLE: Final = re.compile(rb"[^\t\r\n -~\x80-\xff]|\r(?=[^\n])|(?<!\r)\n")
"""Bytes that stand in no head."""
_ANY_HEADER: Final = re.compile(rb"\n([^:]++):([^\r]*+)")
_FRAMING_TRAILER: Final = re.compile(
    rb"(?i)(?:^|\n)(?:%b|%b):" % (names.CONTENT_LENGTH, names.TRANSFER_ENCODING)
)
_TAB_IN_CODING: Final = re.compile(rb"(?i)\n%b:[^\r]*\t" % names.TRANSFER_ENCODING)
_OTHER_VERSION: Final = re.compile(rb"([A-Z]+) [!-~]+(?: HTTP/(?!1\.)\d\.\d)?")
_ALONE: Final = frozenset((names.CONTENT_LENGTH, names.TRANSFER_ENCODING, names.HOST))
"""Headers that are refused when they come twice, even with the same value."""
CHUNKED: Final = -1
"""The length of a body that comes in chunks."""


def _alternatives(known: frozenset[bytes]) -> bytes:
    """A pattern for any of the names, grouped by first letter so that most lines fail at once."""
    groups = groupby(sorted(known), lambda name: name[:1])
    return b"|".join(
        first + b"(?:" + b"|".join(re.escape(name[1:]) for name in group) + b")"
        for first, group in groups
    )


_KNOWN: Final = re.compile(
    rb"(?i)\n(" + _alternatives(KNOWN_HEADERS) + rb"):[\t ]*+((?:[^\r]*[^\r\t ])?+)"
)


@cache
def _header_pattern(name: bytes) -> re.Pattern[bytes]:
    """A pattern for the lines of one header; the names that are asked for are few."""
    # With ``^`` in place of the line end it would take several times as long.
    return re.compile(rb"(?i)\n" + re.escape(name) + rb":([^\r]*+)")


class Malformed(InvalidRequest):
    """After this request the connection's bytes mean nothing: respond, then close."""

    code = "malformed-request"


class ReceivedHead(RequestHead, eq=False, kw_only=True):
    """A request head as it was received.

    ``headers`` holds the headers that this server knows, by lower-case name. The server takes path
    and query from the ``target``.
    """

    target: str
    lines: bytes
    """All header lines as they came, each behind a line feed."""
    old: bool
    """Whether it is HTTP/1.0."""
    keep_alive: bool
    expectation: bytes | None = None
    length: int = 0
    """The length of the body, or :data:`CHUNKED`."""

    def header(self, name: bytes) -> bytes | None:
        """Any header by its lower-case name; values of several are joined by commas."""
        values = _header_pattern(name).findall(self.lines)
        if len(values) == 1:
            found: bytes = values[0]
            return found.strip()
        return b", ".join([value.strip() for value in values]) if values else None

    def all_headers(self) -> dict[bytes, bytes]:
        """Every header by lower-case name."""
        pairs = _ANY_HEADER.findall(self.lines)
        return fold_headers([(name, value.strip()) for name, value in pairs])


def read_head(match: re.Match[bytes], bounds: Bounds) -> ReceivedHead:
    """Read a match of :data:`HEAD`; raises :class:`Malformed`."""
    name, target, minor, lines = match.groups()
    if len(target) > bounds.max_target:
        raise target_too_long(bounds.max_target)
    if len(lines) > bounds.max_header:
        raise header_too_large(bounds.max_header)
    method = _METHODS.get(name)
    if method is None:
        raise bad_syntax(f"{name.decode()} is not a method")
    pairs: list[Header] = _KNOWN.findall(lines)
    headers: dict[bytes, bytes] = {}
    for header, value in pairs:
        headers[header.lower()] = value
    if len(headers) != len(pairs):
        headers = _folded(pairs)
    old = minor == b"0"
    head = ReceivedHead(
        method, "", "", headers, target=target.decode(), lines=lines, old=old, keep_alive=not old
    )
    head.ordinary = ordinary = ORDINARY_HEADERS.issuperset(headers)
    if (
        not ordinary
        or old
        or names.HOST not in headers
        or headers.get(names.CONNECTION, b"keep-alive") != b"keep-alive"
    ):
        _read_framing(head, headers)
    length = headers.get(names.CONTENT_LENGTH)
    if length is not None:
        # More digits than any body has would take long to convert.
        if not length.isdigit() or len(length) > 19:
            raise bad_syntax("Content-Length is not a number")
        head.length = int(length)
    if method == "CONNECT":
        raise Malformed(
            "This server is not a proxy.",
            code="method-not-allowed",
            status=405,
            headers={"Allow": "GET, HEAD, POST, PUT, DELETE, OPTIONS"},
        )
    return head


def _folded(pairs: list[Header]) -> dict[bytes, bytes]:
    pairs = [(name.lower(), value) for name, value in pairs]
    for name in _ALONE:
        if sum(other == name for other, _ in pairs) > 1:
            raise Malformed(f"The {name.decode()} header was sent twice; send it once.")
    try:
        return fold_headers(pairs)
    except InvalidRequest as error:
        raise Malformed(error.message, code=error.code) from error


def _read_framing(head: ReceivedHead, headers: dict[bytes, bytes]) -> None:
    """Read the less common headers that change the body or the connection."""
    if not head.old and names.HOST not in headers:
        raise Malformed("An HTTP/1.1 request names its Host.", code="missing-host")
    connection = (
        headers.get(names.CONNECTION, b"") + b"," + headers.get(names.PROXY_CONNECTION, b"")
    )
    if connection != b",":
        options = [option.strip() for option in connection.lower().split(b",")]
        head.keep_alive = b"close" not in options and (not head.old or b"keep-alive" in options)
    head.expectation = headers.get(names.EXPECT)
    coding = headers.get(names.TRANSFER_ENCODING)
    if coding is None:
        return
    if head.old:
        raise Malformed("HTTP/1.0 has no Transfer-Encoding.")
    if names.CONTENT_LENGTH in headers:
        raise Malformed("Send Content-Length or Transfer-Encoding, not both.")
    if _TAB_IN_CODING.search(head.lines):
        raise Malformed("Transfer-Encoding is sent without tabs: not all servers read past them.")
    codings = [each.strip() for each in coding.lower().split(b",")]
    if b"" in codings or b"chunked" in codings[:-1]:
        raise Malformed("Transfer-Encoding ends with chunked, once.")
    if codings != [b"chunked"]:
        raise Malformed(
            "Send the body with a Content-Length or in chunks, in no other coding.",
            code="transfer-encoding",
            status=501,
        )
    head.length = CHUNKED


def check_trailers(lines: bytes) -> None:
    """Raise :class:`Malformed` for trailers that would change where the body ended."""
    if _FRAMING_TRAILER.search(lines):
        raise bad_syntax("a trailer says how long the body is")


def why_not(raw: bytes) -> Malformed:
    """Why bytes that reach to an empty line are not a head."""
    match = _OTHER_VERSION.fullmatch(raw.partition(b"\r\n")[0])
    if match is not None and match[1] in _METHODS:
        return Malformed("This server speaks HTTP/1.1.", code="http-version", status=505)
    return bad_syntax("the request line or a header line is malformed")


def header_too_large(limit: int) -> Malformed:
    return Malformed(
        f"The request's head is larger than {limit} bytes.", code="header-too-large", status=431
    )


def target_too_long(limit: int) -> Malformed:
    return Malformed(
        f"The request's target is longer than {limit} bytes.", code="target-too-long", status=414
    )


def too_slow(what: str) -> Malformed:
    return Malformed(f"The {what} took too long to arrive.", code="too-slow", status=408)


def bad_syntax(reason: str) -> Malformed:
    return Malformed(f"This is not HTTP/1.1: {reason}.")


def expectation_failed() -> ProtocolError:
    return ProtocolError(
        "The only expectation is 100-continue.", status=417, code="expectation-failed"
    )
