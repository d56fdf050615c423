"""Splits pages of JSON into their messages (§9.1.5), and decodes messages that msgspec refuses."""

import json
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

import msgspec

from durable_streams_client.errors import MalformedResponse

_RAW: Final = msgspec.json.Decoder(list[msgspec.Raw])
_MESSAGE: Final = msgspec.json.Decoder()
_TOKEN: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{},"]', re.DOTALL)


@dataclass(frozen=True, slots=True)
class UnreadableMessage:
    """A JSON message that cannot be decoded, in place of its value among a batch's items.

    >>> [item] = client.stream("deep").read().read_items()
    >>> isinstance(item, UnreadableMessage), item.reason
    (True, 'it is nested too deeply')
    """

    data: bytes
    """The text of the message, as the server sent it."""
    reason: str
    """Why it cannot be decoded."""


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


def join_page(messages: list[bytes]) -> bytes:
    """The page that holds these messages; an empty one holds nothing."""
    return b"[%b]" % b",".join(messages) if messages else b""


def decode_message(text: bytes, url: str) -> Any:
    """The value of one message, or an ``UnreadableMessage``.

    Raises ``MalformedResponse`` for what is not JSON: then the page was not an array of messages.
    """
    try:
        return _MESSAGE.decode(text)
    except (ValueError, RecursionError):
        pass
    try:
        return json.loads(text, parse_int=_integer)
    except json.JSONDecodeError:
        raise _not_an_array(url) from None
    except RecursionError:
        return UnreadableMessage(text, "it is nested too deeply")
    except ValueError as error:
        return UnreadableMessage(text, str(error))


def _integer(digits: str) -> int | Decimal:
    try:
        return int(digits)
    except ValueError:  # more digits than Python converts
        return Decimal(digits)


def _not_an_array(url: str) -> MalformedResponse:
    return MalformedResponse(
        "The data of a JSON stream is not a JSON array.", url=url, code="invalid-json"
    )
