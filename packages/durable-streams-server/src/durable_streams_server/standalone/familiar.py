"""Requests whose headers have been seen before, taken in without parsing them again.

A client sends the same headers with every request but for the request line and, now and then, the
length. So a block of headers that llhttp has accepted is remembered with what it means, byte by
byte the same, and a request that brings it again needs only its first line read, by a grammar
stricter than llhttp's. Anything unusual is never remembered: chunks, expectations, upgrades,
``Connection: close``, HTTP/1.0. What is not familiar takes the parser's way and nothing is lost
but the look.
"""

import re
from typing import Final, Generic, TypeVar

MAX_BLOCK: Final = 2048
MAX_KNOWN: Final = 512
MAX_LINE: Final = 2048

_REQUEST_LINE: Final = re.compile(
    rb"(GET|POST|PUT|HEAD|DELETE) (/[!\"$-;=@-Z\\\]^-z|~]*)(?:\?([!\"$-;=?-Z\\\]^-z|~]*))? HTTP/1\.1\r\n"
)
_METHODS: Final = {name.encode(): name for name in ("GET", "POST", "PUT", "HEAD", "DELETE")}
_NEVER: Final = (
    b"transfer-encoding", b"expect", b"upgrade",
    # Never the same again: it would only push out what is.
    b"producer-seq",
)  # fmt: skip


class Target:
    """A request line that was read once: the path is below the root, or None outside of it."""

    __slots__ = ("method", "outside", "path", "query")

    def __init__(self, method: str, target: str, query: str, root: str) -> None:
        self.method = method
        self.query = query
        self.path = target[len(root) :] if target.startswith(root) else None
        self.outside = target


class Block:
    """Headers that were accepted once. ``headers`` is shared: whoever gets it only reads."""

    __slots__ = ("headers", "length")

    def __init__(self, headers: dict[bytes, bytes], length: int) -> None:
        self.headers = headers
        self.length = length


Known = TypeVar("Known")


class Lately(Generic[Known]):
    """What was met lately, by its bytes: at least :data:`MAX_KNOWN` and at most twice as many."""

    __slots__ = ("_newer", "_older")

    def __init__(self) -> None:
        self._newer: dict[bytes, Known] = {}
        self._older: dict[bytes, Known] = {}

    def get(self, key: bytes) -> Known | None:
        found = self._newer.get(key)
        if found is None and self._older:
            found = self._older.get(key)
            if found is not None:
                self.add(key, found)
        return found

    def add(self, key: bytes, known: Known) -> None:
        newer = self._newer
        newer[key] = known
        if len(newer) >= MAX_KNOWN:
            self._older = newer
            self._newer = {}


class Familiar:
    """The header blocks and request lines that a server has met lately."""

    __slots__ = ("_blocks", "_root", "_targets")

    def __init__(self, root: str) -> None:
        self._root = root
        self._blocks: Lately[Block] = Lately()
        self._targets: Lately[Target] = Lately()

    def recognise(self, data: bytes) -> tuple[Target, Block, int] | None:
        """Target, headers and where the body begins, if ``data`` is exactly one request with a
        familiar block.
        """
        line = data.find(b"\r\n") + 2
        body = data.find(b"\r\n\r\n", line - 2) + 4
        block = self._blocks.get(data[line:body])
        if block is None or len(data) - body != block.length:
            return None
        first = data[:line]
        target = self._targets.get(first)
        if target is None:
            match = _REQUEST_LINE.fullmatch(first)
            if match is None or line > MAX_LINE:
                return None
            method, path, query = match.groups(b"")
            target = Target(_METHODS[method], path.decode(), query.decode(), self._root)
            self._targets.add(first, target)
        return target, block, body

    def learn(self, data: bytes, headers: dict[bytes, bytes], length: int) -> None:
        """Remember the block of a request that the parser has just taken whole."""
        line = data.find(b"\r\n") + 2
        body = data.find(b"\r\n\r\n", line - 2) + 4
        if (
            body - line <= MAX_BLOCK
            and len(data) - body == length
            and _REQUEST_LINE.fullmatch(data, 0, line)
            and not any(name in headers for name in _NEVER)
            and headers.get(b"connection", b"keep-alive").lower() == b"keep-alive"
        ):
            self._blocks.add(data[line:body], Block(headers, length))
