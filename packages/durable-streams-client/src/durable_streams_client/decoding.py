"""Undoes the content codings of a response piece by piece, and knows whether its end has come.

A compressed body marks its own end. One that stops before it was cut, even where the HTTP message
around it is complete, and half a page must never be taken for a whole one. Pieces are small, so
that the caller can stop a body that grows beyond what it accepts.
"""

import zlib
from collections.abc import Iterator
from typing import Final, Protocol

PIECE_BYTES: Final = 1024 * 1024
MAX_CODINGS: Final = 2

_GZIP: Final = zlib.MAX_WBITS | 16
_ZLIB: Final = zlib.MAX_WBITS
_RAW: Final = -zlib.MAX_WBITS


class UnknownCoding(ValueError):
    """The body is coded in a way that was not asked for."""


class CorruptCoding(ValueError):
    """The body is not what its coding says."""


class Decoder(Protocol):
    """One content coding, undone."""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The decoded bytes of ``data``, in pieces; raises CorruptCoding."""
        ...

    @property
    def whole(self) -> bool:
        """Whether the body may end here."""
        ...


class _Inflater:
    """gzip with any number of members, or deflate with or without its zlib header."""

    def __init__(self, *, gzip: bool) -> None:
        self._gzip = gzip
        self._first = b""
        self._inflate = zlib.decompressobj(_GZIP) if gzip else None

    def feed(self, data: bytes) -> Iterator[bytes]:
        if self._inflate is None:
            data = self._first = self._first + data
            if len(data) < 2:
                return
            self._inflate = zlib.decompressobj(_ZLIB if _has_zlib_header(data) else _RAW)
        while data:
            if self._inflate.eof:
                if not self._gzip:
                    raise CorruptCoding("bytes follow the end of the compressed data")
                self._inflate = zlib.decompressobj(_GZIP)
            try:
                piece = self._inflate.decompress(data, PIECE_BYTES)
            except zlib.error as error:
                raise CorruptCoding(str(error)) from None
            data = self._inflate.unused_data or self._inflate.unconsumed_tail
            if piece:
                yield piece
            elif not self._inflate.eof and len(data) == len(self._inflate.unconsumed_tail) > 0:
                raise CorruptCoding("the compressed data makes no progress")

    @property
    def whole(self) -> bool:
        return self._inflate is not None and self._inflate.eof


class _Chain:
    """Two codings, one around the other."""

    def __init__(self, outer: Decoder, inner: Decoder) -> None:
        self._outer = outer
        self._inner = inner

    def feed(self, data: bytes) -> Iterator[bytes]:
        for piece in self._outer.feed(data):
            yield from self._inner.feed(piece)

    @property
    def whole(self) -> bool:
        return self._outer.whole and self._inner.whole


def decoder_of(content_encoding: str | None) -> Decoder | None:
    """A decoder for that ``Content-Encoding``, None where nothing is to be undone.

    Raises UnknownCoding for what is neither gzip nor deflate, or for more than two codings.
    """
    if content_encoding is None:
        return None
    names = [name.strip().lower() for name in content_encoding.split(",")]
    names = [name for name in names if name not in ("", "identity")]
    if len(names) > MAX_CODINGS:
        raise UnknownCoding(f"it is coded {len(names)} times over")
    decoder: Decoder | None = None
    for name in names:  # in the order in which they were applied
        if name not in ("gzip", "x-gzip", "deflate"):
            raise UnknownCoding(f"{name[:40]!r} was not asked for")
        outer = _Inflater(gzip=name != "deflate")
        decoder = outer if decoder is None else _Chain(outer, decoder)
    return decoder


def _has_zlib_header(data: bytes) -> bool:
    return data[0] & 0x0F == 8 and (data[0] << 8 | data[1]) % 31 == 0
