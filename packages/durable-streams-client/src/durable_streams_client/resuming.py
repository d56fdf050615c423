"""Offsets inside a page: ``OFFSET/COUNT`` is after so many messages that follow an offset.

After the start of a stream it is ``-1/COUNT/END``. ``END`` is the offset after the page: a server
that tells a replaced stream from the old one by its offsets refuses it.

A page that is read again from the same offset begins with the same messages, whatever the server,
though it may be longer or shorter. So a reader that was in the middle of a page reads again from
the page's offset, and leaves out as many messages as it had handled. No server gives an offset with
a ``/`` (§8), so the two kinds cannot be confused.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from durable_streams_client.batches import MARK, Page
from durable_streams_client.encoding import response_kind
from durable_streams_client.errors import InvalidArgument, OffsetGone
from durable_streams_client.json_pages import join_page, split_page
from durable_streams_client.messages import is_offset
from durable_streams_client.options import is_whole
from durable_streams_core.content import Kind
from durable_streams_core.protocol import NOW, START

MAX_COUNT_DIGITS: Final = 15


@dataclass(frozen=True, slots=True)
class Progress:
    """How a reader keeps its progress; raises ``InvalidArgument``."""

    checkpoint: Any = None
    save_every: int | None = None
    max_items: int | None = None

    def __post_init__(self) -> None:
        for name in ("save_every", "max_items"):
            value = getattr(self, name)
            if value is not None and not is_whole(value, 1):
                raise InvalidArgument(f"{name} must be a whole number of messages, 1 or more")
        if self.save_every is not None and self.checkpoint is None:
            raise InvalidArgument("save_every needs a checkpoint")


@dataclass(frozen=True, slots=True)
class Place:
    """An offset that a server gave, and how many messages after it were handled."""

    offset: str
    count: int = 0
    end: str | None = None
    """An offset that the stream still has, unless it was replaced."""


def parse_offset(text: str) -> Place:
    """Take an offset apart; raises ``InvalidArgument`` for one that has no meaning."""
    offset, mark, rest = text.partition(MARK)
    if not mark:
        return Place(text)
    count, mark, end = rest.partition(MARK)
    digits = count.isascii() and count.isdigit() and len(count) <= MAX_COUNT_DIGITS
    known = is_offset(end) if mark else offset != START
    if not (offset and digits and known) or offset == NOW:
        raise InvalidArgument(
            f"{text[:200]!r} is not an offset",
            advice="Use START, NOW, or an offset that a batch or a reader gave.",
        )
    return Place(offset, int(count), end or None)


def whole_offset(text: str, what: str) -> str:
    """An offset that a server knows; raises ``InvalidArgument`` for one inside a page."""
    place = parse_offset(text)
    if not is_offset(place.offset) or '"' in place.offset:
        raise InvalidArgument(f"{what} must be an offset that the server gave, not {text[:200]!r}")
    if place.count:
        raise InvalidArgument(
            f"{what} must be an offset of the server, but {text} is inside a page",
            advice="Use the offset of a whole batch, or of `head()`.",
        )
    return place.offset


def rest_of(page: Page, count: int, url: str) -> tuple[Page | None, int]:
    """The page without its first ``count`` messages, and how many are left to leave out.

    The page is None if nothing is left of it to hand out. Raises ``OffsetGone`` if the stream ends
    before so many messages.
    """
    if response_kind(page.content_type) is not Kind.JSON:
        raise InvalidArgument(
            "the offset counts messages, but the stream is not a JSON stream", url=url
        )
    messages = split_page(page.data, url)
    left = count - len(messages)
    if left > 0 and (page.up_to_date or page.closed):
        raise OffsetGone(
            "The stream holds fewer messages after the offset than were handled.",
            method="GET",
            url=url,
        )
    if left >= 0:
        ends = page.up_to_date or page.closed
        return (replace(page, data=b"", start=page.offset, before=0) if ends else None), left
    return replace(page, data=join_page(messages[count:]), before=page.before + count), 0


def parts_of(page: Page, most: int, url: str) -> Iterator[Page]:
    """The page in pieces of at most ``most`` messages."""
    whole = page.start is None or response_kind(page.content_type) is not Kind.JSON
    messages = [] if whole else split_page(page.data, url)
    if len(messages) <= most:
        yield page
        return
    for first in range(0, len(messages), most):
        last = first + most >= len(messages)
        yield replace(
            page,
            data=join_page(messages[first : first + most]),
            before=page.before + first,
            end=page.offset,
            offset=page.offset_at(first + most, len(messages)) or page.offset,
            up_to_date=page.up_to_date and last,
            closed=page.closed and last,
        )
