"""The bytes of a response."""

from email.utils import formatdate
from http import HTTPStatus
from typing import Final

from durable_streams_server.http.messages import Response

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK: Final = b"0\r\n\r\n"
CLOSE: Final = b"connection: close\r\n"
KEEP_ALIVE: Final = b"connection: keep-alive\r\n"
CHUNKED: Final = b"transfer-encoding: chunked\r\n"

STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}
BODILESS: Final = frozenset((204, 304))
"""Statuses whose responses have neither a body nor a length (RFC 9110 §8.6, RFC 9112 §6.3)."""


def date_line(now: float) -> bytes:
    """The Date header of a moment in seconds since 1970."""
    return b"date: " + formatdate(now, usegmt=True).encode() + b"\r\n"


def response_head(prefix: bytes, response: Response, framing: bytes) -> bytes:
    """Everything before the body. ``prefix`` is the status line and the Date header."""
    return b"".join((prefix, response.lines, framing, b"\r\n"))


def chunk(frame: bytes) -> bytes:
    """A frame as one chunk (RFC 9112 §7.1)."""
    return b"%x\r\n%b\r\n" % (len(frame), frame)
