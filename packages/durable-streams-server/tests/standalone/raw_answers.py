"""Bytes in, answers out."""

import asyncio
from contextlib import suppress

import httptools


class Answers:
    """Parses what a server sent: status, headers and body of each answer, interim ones apart."""

    def __init__(self, data: bytes) -> None:
        self.all: list[tuple[int, dict[bytes, bytes], bytes]] = []
        self.interim = data.count(b"HTTP/1.1 100 Continue\r\n\r\n")
        self.complete = True
        parser = httptools.HttpResponseParser(self)
        self._parser = parser
        self._headers: dict[bytes, bytes] = {}
        self._body = b""
        for piece in data.split(b"HTTP/1.1 100 Continue\r\n\r\n"):
            parser.feed_data(piece)
        framed = {b"content-length", b"transfer-encoding"} & set(self._headers)
        if not self.complete and self._headers and not framed:
            self.on_message_complete()  # A HEAD's answer, or one that ends with the connection.

    def on_message_begin(self) -> None:
        self.complete = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        self.complete = True
        self.all.append((self._parser.get_status_code(), self._headers, self._body))
        self._headers, self._body = {}, b""

    @property
    def statuses(self) -> tuple[int, ...]:
        return tuple(status for status, _, _ in self.all)


async def exchange(port: int, *pieces: bytes, end: bool = True) -> bytes:
    """Send pieces, say that no more will come, and return everything that came."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with suppress(ConnectionError):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            if len(pieces) > 1:
                await asyncio.sleep(0)
        if end:
            writer.write_eof()
    try:
        return await reader.read()
    finally:
        writer.close()
