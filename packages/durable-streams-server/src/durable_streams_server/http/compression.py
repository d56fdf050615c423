"""Compressing pages, for clients that ask for it (RFC 9110 §12.5.3)."""

import zlib

GZIP = "gzip"
MIN_BYTES = 1024
OFF_LOOP_BYTES = 32 * 1024
"""Bodies from this size on are compressed off the event loop."""

_LEVEL = 4
_INCOMPRESSIBLE = ("image/", "audio/", "video/", "application/octet-stream", "application/zip")


def accepts_gzip(accept_encoding: bytes | None) -> bool:
    """Whether gzip is listed and not refused with ``q=0``."""
    if accept_encoding is None or b"gzip" not in accept_encoding:
        return False
    for item in accept_encoding.lower().split(b","):
        coding, _, parameters = item.partition(b";")
        if coding.strip() == b"gzip":
            q = parameters.replace(b" ", b"").removeprefix(b"q=")
            return not q or q.strip(b"0.") != b""
    return False


def is_compressible(content_type: str) -> bool:
    return not content_type.lower().startswith(_INCOMPRESSIBLE)


def compress(body: bytes) -> bytes:
    return zlib.compress(body, _LEVEL, wbits=31)
