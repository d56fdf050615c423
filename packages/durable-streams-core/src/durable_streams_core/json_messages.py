"""Splits JSON bodies into messages (§9.1.2), in linear time whatever a client sends.

A large array is worked on in runs of elements, each well under a millisecond, so that a thread that
splits a large body lets other threads run. Whether text is valid JSON is always msgspec's answer;
:class:`_Structure` only says how deep it is nested, and where an array may be cut.
"""

import re
from array import array
from codecs import utf_8_decode
from collections.abc import Iterator, Sequence
from itertools import accumulate
from operator import add
from typing import Final, TypeVar

import msgspec

from durable_streams_core.errors import InvalidRequest

__all__ = ["split_json"]

MAX_JSON_DEPTH: Final = 256
_SHALLOW: Final = 2 * MAX_JSON_DEPTH
"""Text of so many bytes cannot be nested too deep, as each level takes two."""
_SEPARATOR: Final = b",\n"
"""What follows each stored message."""
_WINDOW: Final = 64 * 1024
_LOOKAHEAD: Final = 1024
"""How far past a window the end of an element is searched, so that the array can be cut there."""

_SPACE: Final = b" \t\r\n"
_ARRAY: Final = msgspec.json.Decoder(list[msgspec.Raw])
_VALUE: Final = msgspec.json.Decoder(msgspec.Raw)
_TOKEN: Final = re.compile(rb'\\.|["\[\]{},]', re.DOTALL)

# Brackets become binary digits, 1 for an opening one and 0 for a closing one. A byte of such a
# number is eight brackets. The tables say how deep they lead, and the deepest level on the way.
_DIGITS: Final = bytes.maketrans(b"[{]}", b"1100")
_NO_DIGITS: Final = bytes(set(range(256)) - set(b'[{]}"'))
_STEPS: Final = [[1 if byte >> bit & 1 else -1 for bit in range(7, -1, -1)] for byte in range(256)]
_CHANGE: Final = bytes(sum(steps) % 256 for steps in _STEPS)
_DEEPEST: Final = bytes(max(accumulate(steps, initial=0)) for steps in _STEPS)

_Decoded = TypeVar("_Decoded")


def split_json(body: bytes, *, window: int = _WINDOW) -> list[bytes]:
    """The messages of a JSON body, one level of array flattened (§9.1.2), each on one line.

    Raises :class:`InvalidRequest` for what is not JSON, not UTF-8 or nested too deep.
    """
    text = _unicode(body, window)
    if not text.startswith(b"["):
        return [_value(text, window)]
    return [bytes(element) for run in _runs(text, window) for element in _elements(run, window)]


def store_json(body: bytes, *, window: int = _WINDOW) -> bytes:
    """The same messages, each followed by a comma and a line feed, as a stream stores them."""
    text = _unicode(body, window)
    if not text.startswith(b"["):
        return _value(text, window) + _SEPARATOR
    stored = [_stored(run, window) for run in _runs(text, window)]
    return stored[0] if len(stored) == 1 else b"".join(stored)


def store_value(text: bytes) -> bytes:
    """One JSON value as one message, even if it is an array, as a stream stores it."""
    return _value(_unicode(text, _WINDOW), _WINDOW) + _SEPARATOR


def _unicode(body: bytes, window: int) -> bytes:
    """The text without the space around it; raises :class:`InvalidRequest` if it is not UTF-8."""
    text = body.strip(_SPACE)
    if text.isascii():
        return text
    position, end = 0, len(text)
    while position < end:
        part = text[position : position + window + 4]
        try:
            _, length = utf_8_decode(part, "strict", position + len(part) == end)
        except UnicodeDecodeError as error:
            raise InvalidRequest(
                f"JSON must be UTF-8; byte {position + error.start} is not.", code="invalid-utf8"
            ) from None
        position += length
    return text


def _value(text: bytes, window: int) -> bytes:
    """A body that is one message and not an array."""
    if len(text) > _SHALLOW and (len(text) > window or _may_be_too_deep(text)):
        _Structure().read(text, 0, len(text), window)
    _decode(_VALUE, text)
    return _one_line(text)


def _may_be_too_deep(text: bytes) -> bool:
    # Splitting is many times faster than counting where there is little to find.
    enough = MAX_JSON_DEPTH + 1
    return len(text.split(b"[", enough)) + len(text.split(b"{", enough)) - 2 >= enough


def _runs(text: bytes, window: int) -> Iterator[bytes]:
    """The array in pieces of about a window, each an array of its own.

    Raises :class:`InvalidRequest` if a longer array is nested too deep.
    """
    if len(text) <= window:
        yield text
        return
    if not text.endswith(b"]"):
        _decode(_VALUE, text)
    begin, end = 1, len(text) - 1
    while begin < end:
        cut = _cut(text, begin, end, window)
        run = text[begin:cut].strip(_SPACE)
        if not run:
            raise _invalid("an element of the array is missing")
        yield b"[%b]" % run
        begin = cut + 1
    if begin == end:
        raise _invalid("the array ends with a comma")


def _cut(text: bytes, begin: int, end: int, window: int) -> int:
    """Where a run of elements that begins at ``begin`` may end: before a comma, or at ``end``."""
    structure = _Structure()
    position = begin
    while position < end:
        position = structure.read(text, position, min(position + window, end), window)
        if position < end:
            cut = structure.find_comma(text, position, min(position + _LOOKAHEAD, end))
            if cut is not None:
                return cut
    return end


class _Structure:
    """How deep JSON text is nested, read from its start; meaningless for other text."""

    __slots__ = ("_depth", "_in_string")

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False

    def read(self, text: bytes, begin: int, end: int, window: int) -> int:
        """Read on from ``begin``; returns where it stopped, at ``end`` or just behind it.

        Raises :class:`InvalidRequest` for text that is nested too deep.
        """
        while begin < end:
            part = text[begin : min(begin + window, end)]
            if (len(part) - len(part.rstrip(b"\\"))) % 2:
                # The last backslash escapes the next character.
                part = text[begin : begin + len(part) + 1]
            begin += len(part)
            self._read(part)
        return begin

    def _read(self, part: bytes) -> None:
        if b"\\" in part:
            part = part.replace(b"\\\\", b"").replace(b'\\"', b"")
        digits = part.translate(_DIGITS, _NO_DIGITS)
        if b'"' in digits or self._in_string:
            # Two quotes beside each other change nothing for what is around them.
            parts = digits.replace(b'""', b"").split(b'"')
            digits = b"".join(parts[self._in_string :: 2])
            self._in_string ^= len(parts) % 2 == 0
        opened = digits.count(b"1")
        if self._depth + opened > MAX_JSON_DEPTH and self._deepest(digits) > MAX_JSON_DEPTH:
            raise _too_deep()
        self._depth += 2 * opened - len(digits)

    def _deepest(self, digits: bytes) -> int:
        count = -(-len(digits) // 8)
        # More closing brackets at the end do not change how deep it gets before.
        packed = int(digits.ljust(8 * count, b"0"), 2).to_bytes(count, "big")
        before = accumulate(array("b", packed.translate(_CHANGE)), initial=self._depth)
        deepest: int = max(map(add, before, packed.translate(_DEEPEST)))
        return deepest

    def find_comma(self, text: bytes, begin: int, end: int) -> int | None:
        """The first comma from ``begin`` on that is in no bracket and no string, if any."""
        depth, in_string = self._depth, self._in_string
        for match in _TOKEN.finditer(text, begin, end):
            token = match[0]
            if token == b'"':
                in_string = not in_string
            elif in_string or len(token) > 1:
                continue
            elif token == b",":
                if not depth:
                    return match.start()
            elif token in b"[{":
                depth += 1
                if depth > MAX_JSON_DEPTH:
                    raise _too_deep()
            else:
                depth -= 1
        return None


def _stored(text: bytes, window: int) -> bytes:
    """The elements of an array as a stream stores them."""
    if b'"' not in text and b"{" not in text and text.rfind(b"[") == 0:
        # An array of numbers. A body can hold millions, too many to make an object of each.
        _decode(_VALUE, text)
        elements = text[1:-1].translate(None, _SPACE)
        return elements.replace(b",", _SEPARATOR) + _SEPARATOR if elements else b""
    messages = _elements(text, window)
    # An empty one at the end has the last message followed by a separator too.
    return _SEPARATOR.join([*messages, b""]) if messages else b""


def _elements(text: bytes, window: int) -> Sequence[bytes] | Sequence[msgspec.Raw]:
    """The elements of an array, each on one line, none nested too deep."""
    elements: Sequence[bytes] | Sequence[msgspec.Raw]
    try:
        elements = _ARRAY.decode(text)
    except (msgspec.DecodeError, RecursionError):
        # A stand-in of the same length, without surrogates, shows where the elements are.
        harmless = _without_surrogates(text)
        elements = []
        position = 0
        for element in _decode(_ARRAY, harmless):
            shape = bytes(element)
            position = harmless.index(shape, position)
            elements.append(text[position : position + len(shape)])
            position += len(shape)
    # Of a longer text it is known already. Most elements are too short for it.
    longest = max(map(len, elements), default=0)
    if longest > _SHALLOW and len(text) <= window and _may_be_too_deep(text):
        _Structure().read(text, 1, len(text) - 1, window)
    if b"\n" in text or b"\r" in text:
        return [_one_line(bytes(element)) for element in elements]
    return elements


def _one_line(message: bytes) -> bytes:
    """The message without line breaks, which JSON allows only between tokens."""
    return message.replace(b"\r", b" ").replace(b"\n", b" ")


def _without_surrogates(text: bytes) -> bytes:
    """The text with other characters for those in escapes of surrogates.

    The grammar allows lone ones and JavaScript writes them; msgspec refuses them.
    """
    return text.replace(rb"\ud", rb"\u0").replace(rb"\uD", rb"\u0")


def _decode(decoder: "msgspec.json.Decoder[_Decoded]", text: bytes) -> _Decoded:
    """What msgspec makes of the text, surrogates or not."""
    try:
        return decoder.decode(text)
    except RecursionError:
        raise _too_deep() from None
    except msgspec.DecodeError as error:
        harmless = _without_surrogates(text)
        if harmless != text:
            return _decode(decoder, harmless)
        raise _invalid(str(error)) from None


def _invalid(reason: str) -> InvalidRequest:
    return InvalidRequest(f"The body is not valid JSON: {reason}.", code="invalid-json")


def _too_deep() -> InvalidRequest:
    return InvalidRequest(
        f"The JSON is nested deeper than {MAX_JSON_DEPTH} levels.", code="json-too-deep"
    )
