"""Batches: what a reader hands out, and the JSON messages in them."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final, Generic, TypeVar

import msgspec

from durable_streams_client.encoding import response_kind
from durable_streams_client.errors import MalformedResponse
from durable_streams_core.content import Kind

T = TypeVar("T")

_ANY: Final[msgspec.json.Decoder[list[Any]]] = msgspec.json.Decoder(list[Any])
_RAW: Final = msgspec.json.Decoder(list[msgspec.Raw])
_TOKEN: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{},"]', re.DOTALL)


def decoder_for(kind: Any) -> msgspec.json.Decoder[list[Any]]:
    """A decoder for pages of JSON messages of one type, or of any."""
    return _ANY if kind is None else msgspec.json.Decoder(list[kind])


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


@dataclass(frozen=True, slots=True)
class UnreadableMessage:
    """A JSON message that cannot be decoded, in place of its value among a batch's items."""

    data: bytes
    """The text of the message, as the server sent it."""
    reason: str
    """Why it cannot be decoded."""


@dataclass(slots=True, eq=False, repr=False)
class Batch(Generic[T]):
    """Consecutive data of a stream, handed out by a reader (§5.6-§5.8).

    Iterating over it, and ``len``, are those of ``items()``. A batch may be empty, when only the
    end of the stream or its tail is new; it is true all the same.

    A message that msgspec refuses is decoded as ``json.loads`` does: a lone surrogate stays one,
    ``1e400`` is infinite. An integer with too many digits for ``int`` is a ``Decimal``, and a
    message that cannot be decoded at all is an ``UnreadableMessage``. Its neighbours are not
    affected.
    """

    __module__ = "durable_streams_client"  # generic aliases copy it before the package could set it

    data: bytes
    """The bytes as the server sent them: on a JSON stream the text of an array."""
    offset: str
    """The offset after this batch. Store it once the batch is handled; reading on from there
    repeats nothing and misses nothing."""
    content_type: str
    """The content type of the stream."""
    up_to_date: bool
    """Whether the batch reached the tail at the time."""
    closed: bool
    """Whether the stream is closed and ends with this batch."""
    url: str
    """The URL of the stream."""
    _decoder: msgspec.json.Decoder[list[Any]]
    _on_malformed: Callable[[], None] | None = None
    """Called if the data is malformed, so that it leaves the page cache."""
    _items: list[Any] | None = field(default=None, init=False)

    @property
    def is_json(self) -> bool:
        """Whether this is a batch of JSON messages, by its content type."""
        return response_kind(self.content_type) is Kind.JSON

    def items(self) -> list[T]:
        """Return the decoded messages of a JSON stream.

        On other streams it is ``[data]``, or ``[]`` if that is empty. Decoded once, at first use.
        Raises ``MalformedResponse`` if the data of a JSON stream is not an array, or if a message
        does not fit ``decode``; ``messages()`` has the text of each.
        """
        if self._items is None:
            if self.is_json:
                try:
                    self._items = decode_page(self._decoder, self.data, self.url)
                except MalformedResponse:
                    if self._on_malformed is not None:
                        self._on_malformed()
                    raise
            else:
                self._items = [self.data] if self.data else []
        return self._items

    def messages(self) -> list[bytes]:
        """Return the text of each message of a JSON stream; on other streams as ``items()``.

        Raises ``MalformedResponse`` if the data of a JSON stream is not an array.
        """
        if self.is_json:
            return split_page(self.data, self.url)
        return [self.data] if self.data else []

    def text(self) -> str:
        """Return the data as UTF-8 text.

        Raises ``MalformedResponse`` if it is not whole characters: a server may cut anywhere.
        ``Reader.text`` joins what was cut.
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


def decode_page(decoder: msgspec.json.Decoder[list[Any]], data: bytes, url: str) -> list[Any]:
    """Decode the messages of a JSON page (§9.1.5), one by one if not all at once."""
    if not data:
        return []
    try:
        return decoder.decode(data)
    except (ValueError, RecursionError):
        texts = split_page(data, url)
    return [_value(decoder, text, number, url) for number, text in enumerate(texts, 1)]


def _value(decoder: msgspec.json.Decoder[list[Any]], text: bytes, number: int, url: str) -> Any:
    """Decode one message, the ``number``-th of its batch."""
    try:
        return decoder.decode(b"[%b]" % text)[0]
    except (ValueError, RecursionError):
        pass
    try:
        value = json.loads(text, parse_int=_integer)
    except json.JSONDecodeError:
        raise _not_an_array(url) from None
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        if decoder is _ANY:
            return UnreadableMessage(text, reason)
        raise _misfit(number, reason, url) from None
    if decoder is _ANY:
        return value
    try:
        return msgspec.convert([value], decoder.type)[0]
    except (ValueError, RecursionError) as error:
        raise _misfit(number, str(error), url) from None


def _integer(digits: str) -> int | Decimal:
    try:
        return int(digits)
    except ValueError:  # more digits than Python converts
        return Decimal(digits)


def _misfit(number: int, reason: str, url: str) -> MalformedResponse:
    return MalformedResponse(
        f"Message {number} of the batch does not fit the type given as `decode`: {reason}.",
        url=url,
        code="wrong-type",
        advice="Use `batch.messages()`, the text of each message, or read without `decode`.",
    )


def split_page(data: bytes, url: str) -> list[bytes]:
    """The text of each message of a JSON page.

    Raises ``MalformedResponse`` unless the page is an array.
    """
    if not data:
        return []
    try:
        return [bytes(raw) for raw in _RAW.decode(data)]
    except (ValueError, RecursionError):
        pass
    text = data.strip()
    if not (text.startswith(b"[") and text.endswith(b"]")):
        raise _not_an_array(url)
    messages = []
    depth = 0
    start = 1
    for token in _TOKEN.finditer(text):
        mark = token[0]
        if mark == b'"':  # a string without an end
            raise _not_an_array(url)
        if mark in b"[{":
            depth += 1
        elif mark in b"]}":
            depth -= 1
            if depth < 1 and token.end() < len(text):
                raise _not_an_array(url)
        if (mark == b"," and depth == 1) or depth == 0:
            messages.append(text[start : token.start()].strip())
            start = token.end()
    if depth or not all(messages):
        raise _not_an_array(url)
    return messages


def _not_an_array(url: str) -> MalformedResponse:
    return MalformedResponse(
        "The data of a JSON stream is not a JSON array.", url=url, code="invalid-json"
    )
