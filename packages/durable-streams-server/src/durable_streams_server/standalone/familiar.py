"""Requests whose headers have been seen before, taken in without parsing them again.

A client sends the same headers with every request but for the request line and, now and then, the
length. So a block of headers that llhttp has accepted is remembered with what it means, byte by
byte the same, and a request that brings it again needs only its first line read, by a grammar
stricter than llhttp's. Anything unusual is never remembered: chunks, expectations, upgrades,
``Connection: close``, HTTP/1.0. What is not familiar takes the parser's way and nothing is lost
but the look.
"""

import re
from typing import Final

MAX_BLOCK: Final = 2048
MAX_BLOCKS: Final = 512
MAX_LINE: Final = 4096

_REQUEST_LINE: Final = re.compile(
    rb"(GET|POST|PUT|HEAD|DELETE) (/[!\"$-;=@-Z\\\]^-z|~]*)(?:\?([!\"$-;=?-Z\\\]^-z|~]*))? HTTP/1\.1\r\n"
)
_METHODS: Final = {name.encode(): name for name in ("GET", "POST", "PUT", "HEAD", "DELETE")}
_NEVER: Final = (b"transfer-encoding", b"expect", b"upgrade")


class Block:
    """Headers that were accepted once. ``headers`` is shared: whoever gets it only reads."""

    __slots__ = ("headers", "length")

    def __init__(self, headers: dict[bytes, bytes], length: int) -> None:
        self.headers = headers
        self.length = length


class Familiar:
    """The blocks that a server has met lately: at most twice :data:`MAX_BLOCKS`."""

    def __init__(self) -> None:
        self._newer: dict[bytes, Block] = {}
        self._older: dict[bytes, Block] = {}

    def recognise(self, data: bytes) -> "tuple[str, str, str, Block, int] | None":
        """Method, path, query, headers and where the body begins, if ``data`` is exactly one
        request with a familiar block.
        """
        line = data.find(b"\r\n") + 2
        body = data.find(b"\r\n\r\n", line - 2) + 4
        block = self._newer.get(data[line:body])
        if block is None:
            block = self._older.get(data[line:body])
            if block is None:
                return None
            self.remember(data[line:body], block)
        if len(data) - body != block.length:
            return None
        match = _REQUEST_LINE.fullmatch(data, 0, line)
        if match is None or line > MAX_LINE:
            return None
        method, path, query = match.groups(b"")
        return _METHODS[method], path.decode(), query.decode(), block, body

    def learn(self, data: bytes, headers: dict[bytes, bytes], length: int) -> None:
        """Remember the block of a request that the parser has just taken whole."""
        line = data.find(b"\r\n") + 2
        body = data.find(b"\r\n\r\n", line - 2) + 4
        if (
            body - line > MAX_BLOCK
            or len(data) - body != length
            or _REQUEST_LINE.fullmatch(data, 0, line) is None
            or any(name in headers for name in _NEVER)
            or headers.get(b"connection", b"keep-alive").lower() != b"keep-alive"
        ):
            return
        self.remember(data[line:body], Block(headers, length))

    def remember(self, key: bytes, block: Block) -> None:
        newer = self._newer
        newer[key] = block
        if len(newer) >= MAX_BLOCKS:
            self._older = newer
            self._newer = {}
