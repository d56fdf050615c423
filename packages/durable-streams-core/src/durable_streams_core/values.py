"""Python values as JSON messages, and the messages of a page as Python values (§9.1)."""

import json
from decimal import Decimal
from typing import Any, Final

import msgspec

from durable_streams_core.errors import InvalidRequest
from durable_streams_core.json_messages import split_json

__all__ = ["decode_page", "encode_value"]

_PAGE: Final = msgspec.json.Decoder(list[Any])


def encode_value(value: object) -> bytes:
    """One JSON message that holds ``value``, whatever it is: a ``str`` becomes a JSON string.

    ``value`` is anything that msgspec encodes, or has a method ``model_dump_json`` as models of
    pydantic have, or holds such objects. Lone surrogates are written as escapes, as JavaScript
    does. Raises :class:`ValueError` for a value that JSON cannot hold, such as NaN, an infinity, or
    an object of an unknown type.
    """
    try:
        text = _encoded(value)
    except UnicodeEncodeError:
        # Only escapes can express lone surrogates, and msgspec writes none.
        return _checked(value).encode()
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(str(error)) from error
    if b"null" in text:
        # msgspec writes NaN and infinities as null.
        _checked(value)
    return text


def _encoded(value: object) -> bytes:
    try:
        return msgspec.json.encode(value)
    except TypeError:
        # Not at once, because a hook makes every value slower.
        return msgspec.json.encode(value, enc_hook=_model_text)


def _model_text(value: Any) -> msgspec.Raw:
    """A model of pydantic as JSON text."""
    if not hasattr(value, "model_dump_json"):
        raise TypeError(f"Encoding objects of type {type(value).__name__} is unsupported")
    return msgspec.Raw(value.model_dump_json().encode())


def _model_values(value: Any) -> Any:
    """A pydantic model as plain values, so that each of them can be checked."""
    return value.model_dump(mode="json")


def _checked(value: object) -> str:
    """The JSON text in ASCII; raises :class:`ValueError` for NaN and infinities."""
    try:
        plain = msgspec.to_builtins(value, enc_hook=_model_values)
        return json.dumps(plain, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(str(error)) from error


def decode_page(page: bytes) -> list[Any]:
    """The values of a page of JSON messages (§9.1.5).

    A page that does not decode at once is decoded message by message, so that an unusual one leaves
    its neighbours readable: a number such as ``1e400`` becomes an infinity, a lone surrogate stays
    in its ``str``, and an integer too long for ``int`` becomes a ``Decimal``. Raises
    :class:`ValueError` if ``page`` is not a JSON array.
    """
    try:
        return _PAGE.decode(page)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if not page.lstrip().startswith(b"["):
            raise ValueError(f"The data is not a JSON array: {error}") from None
    try:
        return [_decode_unusual(message) for message in split_json(page)]
    except InvalidRequest as error:
        raise ValueError(error.message) from None


def _decode_unusual(message: bytes) -> Any:
    return json.loads(message.decode(), parse_int=_integer)


def _integer(digits: str) -> int | Decimal:
    try:
        return int(digits)
    except ValueError:
        return Decimal(digits)
