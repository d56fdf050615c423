"""Batches: what a reader hands out, and the items in them."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

from durable_streams_client.encoding import response_kind
from durable_streams_client.errors import DecodeError, InvalidArgument, MalformedResponse
from durable_streams_client.item_types import ANYTHING, ItemDecoder, Misfit, MixedItems
from durable_streams_client.json_pages import split_page
from durable_streams_core.content import Kind
from durable_streams_core.protocol import START

T = TypeVar("T")

MARK: Final = "/"
"""Separates the parts of an offset inside a page. No server gives an offset that has it (§8)."""

logger = logging.getLogger("durable_streams_client")


def join_offset(start: str, count: int, end: str) -> str:
    """The offset after ``count`` messages of the page from ``start`` to ``end``."""
    # The start is the same for every stream of a name. Only the end shows that it is another one.
    known = f"{MARK}{end}" if start == START else ""
    return f"{start}{MARK}{count}{known}"


@dataclass(frozen=True, slots=True)
class Page:
    """Consecutive data of a stream, complete with its control information.

    ``data`` is as the server sent it: on JSON streams the text of an array. ``offset`` is the
    offset after it.
    """

    data: bytes
    offset: str
    content_type: str
    up_to_date: bool = False
    closed: bool = False
    cursor: str | None = None
    start: str | None = None
    """The offset from which it can be read again, or None if there is none."""
    before: int = 0
    """How many messages lie between ``start`` and this data."""
    end: str | None = None
    """The server's offset after the whole page, if this is a part of one."""

    def offset_at(self, count: int, total: int) -> str | None:
        """The offset after the first ``count`` of its ``total`` messages, None if there is none."""
        if count >= total:
            return self.offset
        if self.start is None:
            return None
        count += self.before
        if not count:
            return self.start
        return join_offset(self.start, count, self.end or self.offset)


@dataclass(frozen=True, slots=True)
class Decoding:
    """How the batches of one reader are decoded."""

    decoder: ItemDecoder = ANYTHING
    skips: bool = False
    """Whether messages that do not fit are left out."""


@dataclass(slots=True, eq=False, repr=False)
class Batch(Generic[T]):
    """Consecutive data of a stream, handed out by a reader (§5.6-§5.8).

    Iterating over it, and ``len``, are those of ``items()``. A batch may be empty, when only the
    end of the stream or its tail is new; it is true all the same.

    A message that msgspec refuses is decoded as ``json.loads`` does: a lone surrogate stays one,
    ``1e400`` is infinite. An integer with too many digits for ``int`` is a ``Decimal``, and a
    message that cannot be decoded at all is an ``UnreadableMessage``. Its neighbours are not
    affected.

    >>> for batch in stream.read():
    ...     print(batch.items(), batch.messages(), batch.offset, batch.up_to_date)
    [1, 2, 3] [b'1', b'2', b'3'] 00000003 True
    """

    __module__ = "durable_streams_client"  # generic aliases copy it before the package could set it

    url: str
    """The URL of the stream."""
    _page: Page
    _decoding: Decoding
    _on_malformed: Callable[[], None] | None = None
    """Called if the data is malformed, so that it leaves the page cache."""
    _values: list[Any] | None = field(default=None, init=False)
    """The items, with a ``Misfit`` in the place of each message that does not fit."""

    @property
    def data(self) -> bytes:
        """The bytes as the server sent them: on a JSON stream the text of an array."""
        return self._page.data

    @property
    def offset(self) -> str:
        """The offset after this batch.

        Store it once the batch is handled; reading on from there repeats nothing and misses
        nothing. With ``max_items`` it may end in ``/COUNT``, which says how many messages after the
        server's offset; only this client reads on from such an offset.
        """
        return self._page.offset

    @property
    def content_type(self) -> str:
        """The content type of the stream."""
        return self._page.content_type

    @property
    def up_to_date(self) -> bool:
        """Whether the batch reached the tail at the time."""
        return self._page.up_to_date

    @property
    def closed(self) -> bool:
        """Whether the stream is closed and ends with this batch."""
        return self._page.closed

    @property
    def is_json(self) -> bool:
        """Whether this is a batch of JSON messages, by its content type."""
        return response_kind(self.content_type) is Kind.JSON

    def items(self) -> list[T]:
        """Return the decoded messages of a JSON stream.

        On other streams it is ``[data]``, or ``[]`` if that is empty. Decoded once, at first use.
        Raises ``DecodeError`` if a message does not fit ``decode``, unless ``on_bad`` is
        ``"skip"``; ``messages()`` has the text of each. Raises ``MalformedResponse`` if the data of
        a JSON stream is not an array.

        >>> next(stream.read("00000001")).items()
        [2, 3]
        """
        values = values_of(self)
        if not isinstance(values, MixedItems):
            return values
        items = []
        for count, value in enumerate(values):
            if not isinstance(value, Misfit):
                items.append(value)
            elif not self._decoding.skips:
                raise misfit_error(self._page, self.url, values, count)
        return items

    def messages(self) -> list[bytes]:
        """Return the text of each message of a JSON stream; on other streams as ``items()``.

        Raises ``MalformedResponse`` if the data of a JSON stream is not an array.

        >>> next(stream.read("00000001")).messages()
        [b'2', b'3']
        """
        if self.is_json:
            return split_page(self.data, self.url)
        return [self.data] if self.data else []

    def text(self) -> str:
        """Return the data as UTF-8 text.

        Raises ``MalformedResponse`` if it is not whole characters: a server may cut anywhere.
        ``Reader.text`` joins what was cut.

        >>> next(client.stream("poem").read()).text()
        'Roses are red'
        """
        try:
            return self.data.decode()
        except UnicodeDecodeError as error:
            raise MalformedResponse(
                f"The data is not whole UTF-8 text: {error.reason}.",
                url=self.url,
                code="invalid-text",
                advice="Iterate over `reader.text()`, or use `data`.",
            ) from None

    def __iter__(self) -> Iterator[T]:
        return iter(self.items())

    def __len__(self) -> int:
        return len(self.items())

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        state = ", closed" if self.closed else ", up to date" if self.up_to_date else ""
        size = f"{len(self.data):,} bytes of {self.content_type}"
        return f"<Batch {size} up to {self.offset}{state}>"


def values_of(batch: Batch[Any]) -> list[Any]:
    """The items of ``batch``, with a ``Misfit`` in the place of each message that does not fit."""
    values = batch._values  # noqa: SLF001 - for readers, which count messages
    if values is None:
        values = batch._values = _decoded(batch)  # noqa: SLF001
    return values


def page_of(batch: Batch[Any]) -> Page:
    """The page of ``batch``."""
    return batch._page  # noqa: SLF001


def _decoded(batch: Batch[Any]) -> list[Any]:
    decoding, uncache = batch._decoding, batch._on_malformed  # noqa: SLF001
    if not batch.is_json:
        if decoding.decoder is not ANYTHING:
            raise InvalidArgument(
                f"decode is for JSON streams, and this one is {batch.content_type}", url=batch.url
            )
        return [batch.data] if batch.data else []
    try:
        values = decoding.decoder.page(batch.data, batch.url)
    except MalformedResponse:
        if uncache is not None:
            uncache()
        raise
    if decoding.skips and isinstance(values, MixedItems):
        for count, value in enumerate(values):
            if isinstance(value, Misfit):
                error = misfit_error(page_of(batch), batch.url, values, count)
                logger.warning("skipped: %s", error.summary())
    return values


def misfit_error(page: Page, url: str, values: list[Any], count: int) -> DecodeError:
    """The error for the message after the first ``count`` of a page, which does not fit."""
    misfit: Misfit = values[count]
    error = DecodeError(
        f"Message {count + 1} of the page does not fit the type given as `decode`: {misfit.reason}.",
        method="GET",
        url=url,
    )
    error.offset = page.offset_at(count, len(values))
    error.next_offset = page.offset_at(count + 1, len(values))
    error.number = count + 1
    error.data = misfit.text
    error.__cause__ = misfit.cause
    return error
