"""Decodes JSON messages as the type that a reader is given as ``decode``.

What msgspec knows is decoded by msgspec, a pydantic type by pydantic, and a function is called with
the value of each message. pydantic is never imported here: a type of pydantic shows that it is
loaded, and what it offers is used.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Final, Protocol, TypeVar, Union, get_args, get_origin

import msgspec

from durable_streams_client.errors import InvalidArgument
from durable_streams_client.json_pages import UnreadableMessage, decode_message, split_page

T_co = TypeVar("T_co", covariant=True)


class Validator(Protocol[T_co]):
    """What validates JSON text, such as a ``TypeAdapter`` of pydantic."""

    def validate_json(self, data: bytes, /) -> T_co:
        """Return the value of JSON text."""
        ...


@dataclass(frozen=True, slots=True)
class Misfit:
    """In place of the item of a message that does not fit the type."""

    text: bytes
    reason: str
    cause: Exception | None = None


class MixedItems(list[Any]):
    """The items of a page, with at least one ``Misfit`` among them."""


class ItemDecoder(Protocol):
    """Turns messages into items. Neither method raises for a message that does not fit."""

    def page(self, data: bytes, url: str) -> list[Any]:
        """The items of a page; ``MixedItems`` if some messages do not fit.

        Raises ``MalformedResponse`` if the page is not an array.
        """
        ...

    def message(self, text: bytes, url: str) -> Any:
        """The item of one message, or a ``Misfit``."""
        ...


class _Anything:
    """Every message as dicts, lists and so on."""

    def __init__(self) -> None:
        self._decode = msgspec.json.Decoder(list[Any]).decode

    def page(self, data: bytes, url: str) -> list[Any]:
        if not data:
            return []
        try:
            return self._decode(data)
        except (ValueError, RecursionError):
            return [decode_message(text, url) for text in split_page(data, url)]

    def message(self, text: bytes, url: str) -> Any:
        return decode_message(text, url)


ANYTHING: Final = _Anything()


@dataclass(frozen=True, slots=True)
class _Typed:
    """A type, by three ways to decode it: a page at once, one message, and a value of a message."""

    whole: Callable[[bytes], list[Any]] | None
    one: Callable[[bytes], Any]
    convert: Callable[[Any], Any] | None

    def page(self, data: bytes, url: str) -> list[Any]:
        if not data:
            return []
        if self.whole is not None:
            try:
                return self.whole(data)
            except Exception:  # noqa: S110 - the next lines find the message, and the reason
                pass
        return _mixed([self.message(text, url) for text in split_page(data, url)])

    def message(self, text: bytes, url: str) -> Any:
        try:
            return self.one(text)
        except Exception as error:
            misfit = Misfit(text, _reason(error), error)
        value = decode_message(text, url)
        if isinstance(value, UnreadableMessage):
            return Misfit(text, value.reason)
        if self.convert is None:
            return misfit
        try:
            return self.convert(value)
        except Exception as error:
            return Misfit(text, _reason(error), error)


@dataclass(frozen=True, slots=True)
class _Called:
    """A function, called with the value of each message."""

    function: Callable[[Any], Any]

    def page(self, data: bytes, url: str) -> list[Any]:
        values = ANYTHING.page(data, url)
        items = [self._call(value) for value in values]
        if any(isinstance(item, Misfit) for item in items):
            texts = split_page(data, url)
            return MixedItems(
                Misfit(text, item.reason, item.cause) if isinstance(item, Misfit) else item
                for text, item in zip(texts, items, strict=True)
            )
        return items

    def message(self, text: bytes, url: str) -> Any:
        item = self._call(decode_message(text, url))
        return Misfit(text, item.reason, item.cause) if isinstance(item, Misfit) else item

    def _call(self, value: Any) -> Any:
        if isinstance(value, UnreadableMessage):
            return Misfit(value.data, value.reason)
        try:
            return self.function(value)
        except Exception as error:
            return Misfit(b"", _reason(error), error)


@dataclass(frozen=True, slots=True)
class _FirstFit:
    """A union that neither msgspec nor pydantic tells apart: the first member that fits."""

    members: list[ItemDecoder]

    def page(self, data: bytes, url: str) -> list[Any]:
        return _mixed([self.message(text, url) for text in split_page(data, url)])

    def message(self, text: bytes, url: str) -> Any:
        reasons = []
        for member in self.members:
            item = member.message(text, url)
            if not isinstance(item, Misfit):
                return item
            reasons.append(item.reason)
        return Misfit(text, "; ".join(reasons))


def _mixed(items: list[Any]) -> list[Any]:
    return MixedItems(items) if any(isinstance(item, Misfit) for item in items) else items


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    text = " ".join(str(error).split())[:500]
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"


def decoder_for(kind: Any) -> ItemDecoder:
    """The decoder for what a reader is given as ``decode``; raises ``InvalidArgument``."""
    if kind is None:
        return ANYTHING
    kind = getattr(kind, "__value__", kind)  # of an alias made by a `type` statement
    if not isinstance(kind, type) and hasattr(kind, "validate_json"):
        return _Typed(None, kind.validate_json, None)
    try:
        if _concerns_pydantic(kind):
            return _of_pydantic(kind)
        if _is_function(kind):
            return _Called(kind)
        return _of_msgspec(kind)
    except Exception as error:
        if _is_union(kind):
            return _FirstFit([_member(each) for each in get_args(kind)])
        raise InvalidArgument(
            f"decode cannot be {kind!r}: {_reason(error)}",
            advice="Use a type that msgspec or pydantic decodes, or a function.",
        ) from error


def _member(kind: Any) -> ItemDecoder:
    return _of_msgspec(None) if kind is NoneType else decoder_for(kind)


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, UnionType)


def _is_function(kind: Any) -> bool:
    """Whether it is to be called: a function, or a class that msgspec does not know."""
    if isinstance(kind, type):
        return isinstance(msgspec.inspect.type_info(kind), msgspec.inspect.CustomType)
    return callable(kind) and get_origin(kind) is None and not hasattr(kind, "__supertype__")


def _of_msgspec(kind: Any) -> ItemDecoder:
    whole = msgspec.json.Decoder(list[kind], dec_hook=_nested)
    one = msgspec.json.Decoder(kind, dec_hook=_nested)

    def convert(value: Any) -> Any:
        return msgspec.convert(value, kind, dec_hook=_nested)

    return _Typed(whole.decode, one.decode, convert)


def _nested(kind: Any, value: Any) -> Any:
    """Decode a part of a message whose type msgspec does not know, a pydantic model."""
    if hasattr(kind, "model_validate"):
        return kind.model_validate(value)
    raise NotImplementedError(f"{kind!r} is not supported")


def _concerns_pydantic(kind: Any) -> bool:
    """Whether it is a type of pydantic, or has one among its parameters."""
    if any(hasattr(kind, f"__{name}pydantic_core_schema__") for name in ("", "get_")):
        return True
    return any(_concerns_pydantic(each) for each in get_args(kind))


def _of_pydantic(kind: Any) -> ItemDecoder:
    adapter = sys.modules["pydantic"].TypeAdapter
    return _Typed(adapter(list[kind]).validate_json, adapter(kind).validate_json, None)
