"""What a reader hands out."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

import msgspec

from durable_streams_client.encoding import answered_kind
from durable_streams_client.errors import MalformedAnswer
from durable_streams_core.content import Kind

T = TypeVar("T")

_ANY: Final[msgspec.json.Decoder[list[Any]]] = msgspec.json.Decoder(list[Any])


def decoder_for(kind: Any) -> msgspec.json.Decoder[list[Any]]:
    """A decoder for pages of JSON messages of one type, or of any."""
    return _ANY if kind is None else msgspec.json.Decoder(list[kind])


@dataclass(frozen=True, slots=True)
class Page:
    """One run of a stream, complete with its control information.

    ``data`` is as the server sent it: for JSON streams the text of an array. ``offset`` is where
    the stream goes on after it.
    """

    data: bytes
    offset: str
    content_type: str
    up_to_date: bool = False
    closed: bool = False
    cursor: str | None = None


@dataclass(slots=True, eq=False)
class Batch(Generic[T]):
    """A run of a stream that has come completely.

    ``offset`` is safe to store once this batch is handled: reading on from there repeats nothing
    and misses nothing. ``data`` holds the bytes; for a JSON stream the text of an array.
    ``up_to_date`` says that nothing more was there at the time, ``closed`` that nothing more will
    come. Iterating gives the values of a JSON stream; on other streams the bytes, if there are
    any, as one item.
    """

    data: bytes
    offset: str
    content_type: str
    up_to_date: bool
    closed: bool
    url: str = field(repr=False)
    decoder: msgspec.json.Decoder[list[Any]] = field(repr=False)
    spoiled: Callable[[], None] | None = field(default=None, repr=False)
    """Called when the data turns out to be malformed, so that nobody keeps it."""
    _items: list[Any] | None = field(default=None, init=False, repr=False)

    @property
    def is_json(self) -> bool:
        return answered_kind(self.content_type) is Kind.JSON

    @property
    def items(self) -> list[T]:
        """The items, decoded once; raises ``MalformedAnswer`` if JSON is none."""
        if self._items is None:
            if self.is_json:
                try:
                    self._items = decode_page(self.decoder, self.data, self.url)
                except MalformedAnswer:
                    if self.spoiled is not None:
                        self.spoiled()
                    raise
            else:
                self._items = [self.data] if self.data else []
        return self._items

    @property
    def text(self) -> str:
        """The data as UTF-8 text. A server may cut inside a character; ``reader.text()`` copes."""
        try:
            return self.data.decode()
        except UnicodeDecodeError as error:
            raise MalformedAnswer(
                f"The data is not whole UTF-8 text: {error.reason}.",
                url=self.url,
                code="invalid-text",
                advice="Iterate over `reader.text()`, or use `data`.",
            ) from None

    def __iter__(self) -> Iterator[T]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)

    def __bool__(self) -> bool:
        return True


def decode_page(decoder: msgspec.json.Decoder[list[Any]], data: bytes, url: str) -> list[Any]:
    """The messages of a page of JSON (§9.1.5)."""
    if not data:
        return []
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        typed = isinstance(error, msgspec.ValidationError)
        raise MalformedAnswer(
            f"The messages do not fit the type asked for: {error}."
            if typed
            else f"The data of a JSON stream is no JSON array: {error}.",
            url=url,
            code="wrong-type" if typed else "invalid-json",
            advice="Read without `decode` to see them." if typed else None,
        ) from None
