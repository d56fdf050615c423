"""The read plan: from which position, how labelled, how long it may be cached (§5.6, §8, §10)."""

from typing import Final

from durable_streams_core.entities import Head
from durable_streams_core.errors import InvalidRequest
from durable_streams_core.offsets import parse_offset
from durable_streams_core.protocol import NOW, START


def parse_read_offset(token: str) -> int | None:
    """The position a token asks for, None for ``now``; raises :class:`InvalidRequest`."""
    if token == START:
        return 0
    if token == NOW:
        return None
    try:
        return parse_offset(token)
    except ValueError:
        raise InvalidRequest(
            "The offset is none that this server gave out. Use the Stream-Next-Offset of an "
            "earlier answer, -1 for the start or now for the tail.",
            code="invalid-offset",
        ) from None


def check_in_range(position: int, tail: int) -> None:
    """Raise :class:`InvalidRequest` for a position past the tail."""
    if position > tail:
        raise InvalidRequest(
            "The offset lies past the end of the stream. Use one that this stream gave out.",
            code="offset-past-tail",
        )


def inside_message() -> InvalidRequest:
    """The error for a position between two message boundaries of a JSON stream."""
    return InvalidRequest(
        "The offset lies inside a message. Use one that this stream gave out.",
        code="offset-inside-message",
    )


def etag(head: Head, start: int, end: int, closed: bool, coding: str = "") -> str:
    """The entity tag of a page: it changes with closure, and never names an earlier stream of the
    same path. A compressed form of the page ends in its coding.
    """
    suffix = ":c" if closed else ""
    if coding:
        suffix += "-" + coding
    return f'"{head.incarnation}:{start}:{end}{suffix}"'


def etag_matches(if_none_match: str, tag: str) -> bool:
    """Whether an ``If-None-Match`` header names the tag, weakly compared (RFC 9110 §13.1.2)."""
    if if_none_match.strip() == "*":
        return True
    return any(item.strip().removeprefix("W/") == tag for item in if_none_match.split(","))


NO_STORE: Final = "no-store"


def page_cache_control(*, public: bool) -> str:
    """For a page of data: its bytes never change (§10.1)."""
    scope = "public" if public else "private"
    return f"{scope}, max-age=60, stale-while-revalidate=300"
