"""Reads JSON and numbers that another program sent, and which may be anything.

One function, and so one exception, for each: a decoder raises four kinds of them for what is not
UTF-8, not JSON, nested too deeply or longer than Python makes an integer of.
"""

from typing import Any, Final, TypeVar

import msgspec

from durable_streams_core import protocol

T = TypeVar("T")

_ANY: Final[msgspec.json.Decoder[Any]] = msgspec.json.Decoder()


class NotJson(ValueError):
    """The text is not JSON, or not of the type asked for."""


def parse_json(text: bytes | str, decoder: msgspec.json.Decoder[T]) -> T:
    """The value of ``text``; raises NotJson."""
    try:
        return decoder.decode(text)
    except RecursionError:
        raise NotJson("it is nested too deeply") from None
    except ValueError as error:  # those of msgspec and of Unicode among them
        raise NotJson(str(error)) from None


def parse_object(text: bytes | str) -> dict[str, Any]:
    """The object that ``text`` is; raises NotJson for anything else."""
    value = parse_json(text, _ANY)
    if not isinstance(value, dict):
        raise NotJson("it is not an object")
    return value


def parse_number(text: str | None, most: int = protocol.MAX_SAFE_INTEGER) -> int | None:
    """The whole number in a header, or None for anything else and for more than ``most``."""
    if text is None or not (text.isascii() and text.isdigit()) or len(text) > 4000:
        return None
    number = int(text)
    return number if number <= most else None
