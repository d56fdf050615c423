"""Offset tokens in tests: every stream has a timeline of its own, so tests look at positions."""

from durable_streams_core.offsets import format_offset, parse_offset


def position(token: str | None) -> int:
    """The position in a token that the server gave out."""
    assert token is not None
    return parse_offset(token).position


def at(token: str | None, position: int) -> str:
    """Another position on the timeline of a token that the server gave out."""
    assert token is not None
    return format_offset(parse_offset(token).timeline, position)


NOT_REACHED = "9999999999999999_9999999999999999"
"""An offset that no stream has given out yet."""
