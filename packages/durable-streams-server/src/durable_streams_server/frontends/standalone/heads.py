"""Plain heads, read without the parser.

Almost every request has a plain head: a path, and lines of a name, a colon, a space and visible
text. Such heads are read here, by a grammar stricter than llhttp's, so that the parser would read
the same. Whatever is out of the ordinary (chunks, expectations, upgrades, ``Connection: close``,
HTTP/1.0, a header twice, odd spaces, a long head) is not, and takes the parser's way: nothing is
lost but speed.

A client sends almost the same head with every request: what changes is the length of the body and
the number of a batch. A connection keeps the template of its last head, and one that comes again
is not even looked up. Next to that, what was read is remembered for all connections: the exchange
that a whole head began, all header lines together, and each line.
"""

import re
from typing import Final

from durable_streams_server.caches import TwoGenerationCache
from durable_streams_server.frontends.standalone.bounds import Bounds
from durable_streams_server.http.exchange import Exchange
from durable_streams_server.http.parsing import plain_integer

MAX_HEAD: Final = 2048
MAX_LINES: Final = 50
MAX_KNOWN: Final = 512
MAX_DIGITS: Final = 16

_REQUEST_LINE: Final = re.compile(
    rb"(GET|POST|PUT|HEAD|DELETE) (/[!\"$-;=@-Z\\\]^-z|~]*)(?:\?([!\"$-;=?-Z\\\]^-z|~]*))? HTTP/1\.1\r\n"
)
_LINE: Final = re.compile(
    rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):(?: ([!-~\x80-\xff](?:[ -~\x80-\xff]*[!-~\x80-\xff])?))?"
)
_METHODS: Final = {name.encode(): name for name in ("GET", "POST", "PUT", "HEAD", "DELETE")}
_PARSED: Final = frozenset((b"transfer-encoding", b"expect", b"upgrade", b"proxy-connection"))
"""Headers that change what follows: the parser's."""
_LENGTHS: Final = (b"\r\nContent-Length: ", b"\r\ncontent-length: ")
_SEQS: Final = (b"\r\nProducer-Seq: ", b"\r\nproducer-seq: ")


class Target:
    """A request line."""

    __slots__ = ("method", "path", "query")

    def __init__(self, method: str, path: str, query: str) -> None:
        self.method = method
        self.path = path
        self.query = query


class Template:
    """A head with gaps where its Content-Length and its Producer-Seq are."""

    __slots__ = ("_first", "_head", "_rest", "key", "length", "seq")

    def __init__(self, head: bytes) -> None:
        self._head = head
        self.length = 0
        """What Content-Length says in ``head``: 0 without one, -1 where a value is no number."""
        self.seq: bytes | None = None
        """What Producer-Seq says in ``head``, where there is a Content-Length."""
        self._first = self.key = head
        self._rest: tuple[tuple[bytes, bool], ...] = ()
        begin, end = _gap(head, _LENGTHS)
        if begin < 0:
            return
        self.length = _number(head[begin:end])
        other, until = _gap(head, _SEQS)
        if other < 0:
            self._first, last = head[:begin], head[end:]
            self._rest = ((last, False),)
            self.key = self._first + last
            return
        self.seq = head[other:until]
        if _number(self.seq) < 0:
            self.length = -1
        length_first = begin < other
        if not length_first:
            begin, end, other, until = other, until, begin, end
        self._first, middle, last = head[:begin], head[end:other], head[until:]
        self._rest = ((middle, not length_first), (last, length_first))
        self.key = self._first + middle + last

    def match(self, data: bytes) -> tuple[int, int, bytes | None] | None:
        """Where the head that ``data`` begins with ends, its length and its seq; None for another
        head.
        """
        if data.startswith(self._head):
            return len(self._head), self.length, self.seq
        first = self._first
        if not data.startswith(first):
            return None
        at = len(first)
        length, seq = 0, None
        for piece, is_seq in self._rest:
            end = data.find(b"\r", at, at + MAX_DIGITS + 1)
            if end < 0 or not data.startswith(piece, end):
                return None
            number = plain_integer(data[at:end])
            if number is None:
                return None
            if is_seq:
                seq = data[at:end]
            else:
                length = number
            at = end + len(piece)
        return at, length, seq


def _number(value: bytes) -> int:
    number = plain_integer(value)
    return -1 if number is None else number


def _gap(head: bytes, spellings: tuple[bytes, ...]) -> tuple[int, int]:
    """Where the value of a header begins and ends; -1 where there is no such header."""
    for name in spellings:
        at = head.find(name)
        if at >= 0:
            at += len(name)
            return at, head.find(b"\r", at)
    return -1, -1


class Known:
    """What a head began, and the longest body that it may bring."""

    __slots__ = ("bodiless", "exchange", "max_body", "template")

    def __init__(self, template: Template, exchange: Exchange) -> None:
        self.template = template
        self.exchange = exchange
        self.bodiless = exchange.head.method == "HEAD"
        self.max_body = exchange.max_body


class Heads:
    """The heads of all connections of one server."""

    __slots__ = ("_blocks", "_bounds", "_lines", "_targets", "exchanges")

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self.exchanges: TwoGenerationCache[bytes, Known] = TwoGenerationCache(MAX_KNOWN)
        self._targets: TwoGenerationCache[bytes, Target] = TwoGenerationCache(MAX_KNOWN)
        self._blocks: TwoGenerationCache[bytes, dict[bytes, bytes]] = TwoGenerationCache(MAX_KNOWN)
        self._lines: TwoGenerationCache[bytes, tuple[bytes, bytes]] = TwoGenerationCache(MAX_KNOWN)

    def remember(self, template: Template, exchange: Exchange) -> Known:
        """Have the next request with such a head run the same exchange."""
        known = Known(template, exchange)
        self.exchanges.add(template.key, known)
        return known

    def read(
        self, head: bytes, template: Template
    ) -> tuple[Target, dict[bytes, bytes], bool] | None:
        """What a head says, from its first byte to its empty line, and whether its first line and
        its headers have been met before; None if it is not plain.

        The headers may be shared: whoever gets them only reads.
        """
        if len(head) > MAX_HEAD or template.length < 0:
            return None
        line = head.find(b"\r\n") + 2
        first = head[:line]
        target = self._targets.get(first)
        met = target is not None
        if target is None:
            target = self._read_target(first)
            if target is None:
                return None
        if len(head) - line > self._bounds.max_header:
            return None
        lines = template.key[line:]
        headers = self._blocks.get(lines)
        met = met and headers is not None
        if headers is None:
            headers = self._read_headers(head[line:-4])
            if headers is None or int(headers.get(b"content-length", b"0")) != template.length:
                return None
            self._blocks.add(lines, headers)
        elif template.seq is not None or b"content-length" in headers:
            headers = {**headers, b"content-length": b"%d" % template.length}
            if template.seq is not None:
                headers[b"producer-seq"] = template.seq
        return target, headers, met

    def _read_target(self, first: bytes) -> Target | None:
        match = _REQUEST_LINE.fullmatch(first)
        if match is None or len(first) > self._bounds.max_target:
            return None
        method, path, query = match.groups(b"")
        target = Target(_METHODS[method], path.decode(), query.decode())
        self._targets.add(first, target)
        return target

    def _read_headers(self, lines: bytes) -> dict[bytes, bytes] | None:
        headers: dict[bytes, bytes] = {}
        known = self._lines
        found = lines.split(b"\r\n")
        if len(found) > MAX_LINES:
            return None
        for line in found:
            pair = known.get(line)
            if pair is None:
                match = _LINE.fullmatch(line)
                if match is None:
                    return None
                name, value = match.groups(b"")
                pair = name.lower(), value
                known.add(line, pair)
            name, value = pair
            if name in headers or name in _PARSED:
                return None
            headers[name] = value
        if b"host" not in headers:
            return None
        if headers.get(b"connection", b"keep-alive").lower() != b"keep-alive":
            return None
        if not headers.get(b"content-length", b"0").isdigit():
            return None
        return headers
