"""Offset tokens (§8): ``TTTTTTTTTTTTTTTT_PPPPPPPPPPPPPPPP``, a timeline and a position.

A **position** counts the bytes of a stream. A **timeline** says whose bytes these are: each stream
begins one when it is created, and a store that lost acknowledged bytes begins another for what is
appended afterwards. So two different messages never share an offset, and an offset whose bytes are
no longer there is recognised instead of being read as a position in other data.

Both halves are sixteen decimal digits, so tokens of one stream sort as its positions do. A timeline
is the time at which it began, in milliseconds since 1970, moved on where needed so that the
timelines of one path only rise. It is kept as text, because every response carries it. Streams from
before timelines have :data:`NO_TIMELINE`.

``-1`` and ``now`` are sentinels of a read and never minted.
"""

from typing import Final

import msgspec

__all__ = [
    "BEGINNING",
    "NO_TIMELINE",
    "Offset",
    "encode_offset",
    "format_offset",
    "later_timeline",
    "parse_offset",
    "timeline_at",
]

NO_TIMELINE: Final = b"0" * 16
_LENGTH: Final = 33


class Offset(msgspec.Struct, frozen=True, gc=False, order=True):
    """A position in a stream, on the timeline of the byte before it."""

    timeline: bytes
    position: int

    def __str__(self) -> str:
        return format_offset(self.timeline, self.position)


BEGINNING: Final = Offset(NO_TIMELINE, 0)
"""The start of any stream, as ``-1`` is."""


def format_offset(timeline: bytes, position: int) -> str:
    """The token of a position; tokens of one stream sort as its positions do."""
    return f"{timeline.decode()}_{position:016d}"


def encode_offset(timeline: bytes, position: int) -> bytes:
    """The same token, as it goes into a header."""
    return b"%b_%016d" % (timeline, position)


def parse_offset(token: str) -> Offset:
    """The offset that a minted token names.

    Raises:
        ValueError: for anything that :func:`format_offset` would not have produced.

    """
    timeline, position = token[:16], token[17:]
    digits = timeline + position
    if len(token) != _LENGTH or token[16] != "_" or not (digits.isascii() and digits.isdigit()):
        raise ValueError("not an offset of this server")
    return Offset(timeline.encode(), int(position))


def timeline_at(milliseconds: int) -> bytes:
    """The timeline that begins at a time, in milliseconds since 1970."""
    return b"%016d" % milliseconds


def later_timeline(wanted: bytes, after: bytes) -> bytes:
    """``wanted`` if it is later than ``after``, else the first timeline that is."""
    return wanted if wanted > after else timeline_at(int(after) + 1)
