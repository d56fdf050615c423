"""Offset tokens (§8).

A position counts the bytes of a stream. Its token is fixed-width decimal, so that the order of
texts is the order of positions: sixteen zeros (reserved), ``_``, sixteen digits.
``-1`` and ``now`` are sentinels of a read and never minted.
"""

from typing import Final

_PREFIX: Final = "0" * 16 + "_"
_HEADER_PREFIX: Final = _PREFIX.encode()
_LENGTH: Final = 33


def format_offset(position: int) -> str:
    """The token of a position; tokens sort as positions do."""
    return f"{_PREFIX}{position:016d}"


def encode_offset(position: int) -> bytes:
    """The same, as it goes into a header."""
    return b"%b%016d" % (_HEADER_PREFIX, position)


def parse_offset(token: str) -> int:
    """The position of a minted token.

    Raises ValueError for anything that :func:`format_offset` would not have produced.
    """
    digits = token[17:]
    if (
        len(token) != _LENGTH
        or not token.startswith(_PREFIX)
        or not (digits.isascii() and digits.isdigit())
    ):
        raise ValueError("not an offset of this server")
    return int(digits)
