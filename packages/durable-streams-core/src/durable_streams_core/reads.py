"""The read plan: from which position, how labelled, how long it may be cached (§5.6, §8, §10)."""

from durable_streams_core.entities import Head
from durable_streams_core.errors import InvalidRequest, OffsetGone, ProtocolError
from durable_streams_core.offsets import BEGINNING, Offset, parse_offset
from durable_streams_core.protocol import NOW, START

__all__ = [
    "check_in_range",
    "check_offset",
    "etag",
    "etag_matches",
    "inside_message",
    "not_held",
    "page_cache_control",
    "parse_read_offset",
]


def parse_read_offset(token: str) -> Offset | None:
    """The offset a token asks for, None for ``now``; raises :class:`InvalidRequest`."""
    if token == START:
        return BEGINNING
    if token == NOW:
        return None
    try:
        return parse_offset(token)
    except ValueError:
        raise InvalidRequest(
            "The offset is not one that this server gave out. Use the Stream-Next-Offset of an "
            "earlier response, -1 for the start or now for the tail.",
            code="invalid-offset",
        ) from None


def check_in_range(position: int, tail: int) -> None:
    """Raise :class:`InvalidRequest` for a position past the tail."""
    if position > tail:
        raise _past_tail()


def _past_tail() -> InvalidRequest:
    """The error for an offset that the stream has not reached."""
    return InvalidRequest(
        "The offset lies past the end of the stream. Use one that this stream gave out.",
        code="offset-past-tail",
    )


def check_offset(head: Head, offset: Offset) -> None:
    """Raise unless an offset is one of the entity's own: :class:`OffsetGone` for one whose bytes
    are no longer there, :class:`InvalidRequest` for one past the tail. Offsets that a fork has from
    its source before :attr:`Head.start` are for its source to check.
    """
    if offset != BEGINNING and not head.holds(offset):
        raise not_held(head, offset)
    check_in_range(offset.position, head.tail)


def not_held(head: Head, offset: Offset) -> ProtocolError:
    """The error for an offset that neither the entity nor a source of it vouches for."""
    return _past_tail() if offset.timeline > head.timeline else OffsetGone()


def inside_message() -> InvalidRequest:
    """The error for a position between two message boundaries of a JSON stream."""
    return InvalidRequest(
        "The offset lies inside a message. Use one that this stream gave out.",
        code="offset-inside-message",
    )


def etag(
    head: Head, start: int, end: Offset, closed: bool, coding: str = "", *, more: bool = False
) -> str:
    """The entity tag of a page, which never names other bytes, also of an earlier stream.

    It changes with everything that the page says: its bytes, that the stream is closed there, that
    there is ``more`` behind it, and the coding of a compressed form.
    """
    suffix = ":c" if closed else ":more" if more else ""
    if coding:
        suffix += "-" + coding
    return f'"{head.incarnation}:{start}:{end}{suffix}"'


def etag_matches(if_none_match: str, tag: str) -> bool:
    """Whether an ``If-None-Match`` header names the tag, weakly compared (RFC 9110 §13.1.2)."""
    if if_none_match.strip() == "*":
        return True
    return any(item.strip().removeprefix("W/") == tag for item in if_none_match.split(","))


def page_cache_control(*, public: bool) -> str:
    """For a page with more data behind it: nothing that it says ever changes (§10.1)."""
    scope = "public" if public else "private"
    return f"{scope}, max-age=60, stale-while-revalidate=300"
