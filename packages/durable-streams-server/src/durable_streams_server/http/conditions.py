"""Conditional requests (RFC 9110 §13): ``If-Match`` and ``If-None-Match`` on every method.

A stream has many pages and so many entity tags. A tag names the stream as it is when it is that of
a page that reaches the tail, or that of the first page, which is what its URL shows. The tail's
offset in quotes does as well, as in the extension of appends. A condition counts only for a
request that would succeed without it (§13.2.1).
"""

import msgspec

from durable_streams_core.entities import Head
from durable_streams_core.errors import PreconditionFailed
from durable_streams_core.offsets import BEGINNING, Offset
from durable_streams_core.reads import etag, etag_matches
from durable_streams_server.engine.engine import Engine
from durable_streams_server.http import names
from durable_streams_server.http.compression import GZIP
from durable_streams_server.http.messages import RequestHead

ANY = "*"


class Conditions(msgspec.Struct, frozen=True):
    """The two headers as they came; None for one that did not."""

    if_match: str | None
    if_none_match: str | None

    @property
    def requires_stream(self) -> bool:
        return self.if_match is not None

    async def check(self, engine: Engine, path: str) -> tuple[str | None, Offset | None]:
        """Raise :class:`PreconditionFailed` unless the stream at a path meets the conditions.

        Returns the incarnation and the tail on which that rests, each None if it does not matter.
        Raises NotFound or Gone for a path without a stream.
        """
        head = await engine.live_head(path)
        incarnation, tail = None, None
        tags = self.if_match
        if tags is not None and tags.strip() != ANY:
            incarnation = head.incarnation
            if _names_tail(head, tags):
                tail = head.tail_offset
            elif not await _names_first_page(engine, path, head, tags):
                raise PreconditionFailed
        unwanted = self.if_none_match
        if unwanted is not None:
            # A weak tag does here (§13.1.2).
            unwanted = unwanted.replace("W/", "")
            if (
                unwanted.strip() == ANY
                or _names_tail(head, unwanted)
                or await _names_first_page(engine, path, head, unwanted)
            ):
                raise PreconditionFailed
        return incarnation, tail

    def check_page(self, tag: str) -> None:
        """Raise :class:`PreconditionFailed` unless ``If-Match`` is met by the tag of a page."""
        tags = self.if_match
        if tags is not None and tags.strip() != ANY and tag not in _tags(tags):
            raise PreconditionFailed

    def is_fresh(self, tag: str) -> bool:
        """Whether ``If-None-Match`` names the tag of a page, so that 304 is the response."""
        return self.if_none_match is not None and etag_matches(self.if_none_match, tag)


def parse_conditions(request: RequestHead) -> Conditions | None:
    """The conditions of a request, None for a request without any."""
    if_match = request.headers.get(names.IF_MATCH)
    if_none_match = request.headers.get(names.IF_NONE_MATCH)
    if if_match is None and if_none_match is None:
        return None
    return Conditions(
        None if if_match is None else if_match.decode("latin-1"),
        None if if_none_match is None else if_none_match.decode("latin-1"),
    )


def _tags(value: str) -> list[str]:
    return [tag.strip() for tag in value.split(",")]


def _names_tail(head: Head, value: str) -> bool:
    """Whether one of the tags is that of a page that reaches the tail, or the tail's offset."""
    tail = str(head.tail_offset)
    for tag in _tags(value):
        opaque = tag.removeprefix('"').removesuffix('"')
        if tag != f'"{opaque}"':
            continue
        incarnation, _, rest = opaque.partition(":")
        start, _, end = rest.partition(":")
        if opaque == tail or (
            incarnation == head.incarnation
            and start.isdecimal()
            and end.removesuffix("-" + GZIP) == tail + (":c" if head.closed else "")
        ):
            return True
    return False


async def _names_first_page(engine: Engine, path: str, head: Head, value: str) -> bool:
    """Whether one of the tags is that of the first page, with more data behind it."""
    if f'"{head.incarnation}:0:' not in value:
        return False
    page = await engine.page(path, BEGINNING)
    known = [
        etag(page.head, page.start, page.offset, page.closed, coding, more=not page.up_to_date)
        for coding in ("", GZIP)
    ]
    return not page.up_to_date and any(tag in known for tag in _tags(value))
