"""Results of the engine: typed, immutable, with offsets as tokens that are safe to store."""

from collections.abc import Iterator
from typing import Any

import msgspec

from durable_streams_core.content import Kind, media_type, to_page
from durable_streams_core.entities import Head
from durable_streams_core.expiry import format_time
from durable_streams_core.json_messages import split_json
from durable_streams_core.offsets import Offset, format_offset
from durable_streams_core.operations import Appended, Created
from durable_streams_core.streams import birth_of
from durable_streams_core.values import decode_page
from durable_streams_server.engine.pages import Page


class StreamInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A stream as ``head`` and ``create`` tell it; ``ttl`` in seconds, ``expires_at`` RFC 3339."""

    path: str
    content_type: str
    offset: str
    """The tail: where the next byte will go."""
    size: int
    """Bytes from the stream's start to its tail; those that a fork shares with its source count."""
    created_at: str
    """RFC 3339."""
    closed: bool
    ttl: int | None = None
    expires_at: str | None = None
    created: bool = False
    """True in the answer of the call that created it."""


class AppendResult(msgspec.Struct, frozen=True, kw_only=True):
    """``offset`` is the position after the data; ``epoch`` and ``seq`` are set for producers."""

    offset: str
    closed: bool
    duplicate: bool = False
    epoch: int | None = None
    seq: int | None = None


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """Some data of a stream, as ``read`` and ``follow`` yield it.

    ``data`` is the body a GET would answer: the bytes themselves, or for JSON an array. ``offset``
    is safe to store once the batch was handled. Iterate it for its items: the messages of a JSON
    stream as Python values, else its bytes in one piece. A batch may be empty, and is true all the
    same. The client's ``Batch`` has the same attributes and methods.
    """

    data: bytes
    offset: str
    content_type: str
    up_to_date: bool
    closed: bool

    @property
    def is_json(self) -> bool:
        """Whether this is a batch of JSON messages, by its content type."""
        return media_type(self.content_type).kind is Kind.JSON

    def items(self) -> list[Any]:
        """Return the messages of a JSON stream as Python values, else the bytes in one piece.

        Numbers and strings that Python's types cannot hold exactly come as
        :func:`~durable_streams_core.values.decode_page` says.
        """
        if self.is_json:
            return decode_page(self.data)
        return [self.data] if self.data else []

    def messages(self) -> list[bytes]:
        """Return the text of each message of a JSON stream, else the bytes in one piece."""
        if self.is_json:
            return split_json(self.data)
        return [self.data] if self.data else []

    def text(self) -> str:
        """Return the data as UTF-8 text.

        Raises :class:`UnicodeDecodeError` if the batch begins or ends inside a character.
        """
        return self.data.decode()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items())

    def __len__(self) -> int:
        if self.is_json:
            # A page has a line for each message.
            return self.data.count(b"\n") + 1 if self.data else 0
        return len(self.items())

    def __bool__(self) -> bool:
        return True


def stream_info(
    path: str,
    head: Head,
    *,
    tail: Offset | None = None,
    closed: bool | None = None,
    new: bool = False,
) -> StreamInfo:
    """The description of a stream with this head."""
    birth = birth_of(head)
    tail = head.tail_offset if tail is None else tail
    return StreamInfo(
        path=path,
        content_type=birth.content_type,
        offset=str(tail),
        size=tail.position,
        created_at=format_time(birth.created),
        closed=head.closed if closed is None else closed,
        ttl=birth.ttl,
        expires_at=None if birth.expires_at is None else format_time(birth.expires_at),
        created=new,
    )


def created_info(path: str, created: Created) -> StreamInfo:
    """The description of a stream that was created, or that existed with the same configuration."""
    tail = Offset(created.timeline, created.tail)
    return stream_info(path, created.head, tail=tail, closed=created.closed, new=created.new)


def append_result(appended: Appended) -> AppendResult:
    """The result of an append, as a caller gets it."""
    known = appended.epoch >= 0
    return AppendResult(
        offset=format_offset(appended.timeline, appended.tail),
        closed=appended.closed,
        duplicate=appended.duplicate,
        epoch=appended.epoch if known else None,
        seq=appended.seq if known else None,
    )


def batch_of(page: Page) -> Batch:
    """A page as a caller gets it."""
    kind = page.birth.kind
    return Batch(
        data=to_page(kind, page.data),
        offset=format_offset(page.timeline, page.end),
        content_type=page.birth.content_type,
        up_to_date=page.up_to_date,
        closed=page.closed,
    )
