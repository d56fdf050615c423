"""Content rules: how messages become stored bytes and stored bytes become pages (§9).

* JSON messages are stored as their own bytes, CR and LF replaced by spaces (they are valid only
  between tokens), each followed by ``,`` LF. So a position is a message boundary exactly when it
  is 0, the tail, or the byte before it is LF, and a page is ``[`` + slice without its last two
  bytes + ``]``: no index of messages, no reframing.
* A JSON page ends at the last LF within the limit, or at the next one when there is none.
* UTF-8 text is not cut inside a character at the limit; anything else is cut anywhere.
"""

import re
from enum import Enum
from functools import lru_cache
from typing import Final

import msgspec

from durable_streams_core.errors import Conflict, InvalidRequest
from durable_streams_core.json_messages import store_json

__all__ = [
    "Kind",
    "MediaType",
    "cut",
    "incomplete_suffix",
    "is_boundary",
    "media_type",
    "require_same_type",
    "skip_messages",
    "to_page",
]

MAX_CONTENT_TYPE_LENGTH: Final = 255


_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTED = r"\"((?:[^\"\\\x00-\x1f]|\\.)*+)\""
_PARAMETER: Final = re.compile(rf"({_TOKEN})=(?:({_TOKEN})|{_QUOTED})")
# Possessive throughout: what is malformed is found so without trying it in every other way.
_CONTENT_TYPE: Final = re.compile(
    rf"({_TOKEN}/{_TOKEN})((?:[ \t]*+;[ \t]*+(?:{_PARAMETER.pattern})?+)*+)[ \t]*+"
)


class Kind(Enum):
    """How the bytes of a stream are cut and shown."""

    JSON = "json"
    TEXT = "text"
    """UTF-8 text: goes as text through SSE."""
    BINARY = "binary"
    """Everything else, text in another charset included: goes as base64 through SSE."""


# Looking a member up in its enum costs more than calling a function.
_JSON: Final = Kind.JSON
_BINARY: Final = Kind.BINARY


class MediaType(msgspec.Struct, frozen=True):
    """A content type as far as it decides anything; equal ones accept each other's appends."""

    name: str
    charset: str
    kind: Kind


@lru_cache(maxsize=1024)
def media_type(content_type: str) -> MediaType:
    """Parse a Content-Type header; raises :class:`InvalidRequest` for a malformed one.

    Names compare without regard to case. A charset counts only where it changes the bytes: for
    text and JSON, where UTF-8 is the default.
    """
    match = None
    if len(content_type) <= MAX_CONTENT_TYPE_LENGTH and content_type.isascii():
        match = _CONTENT_TYPE.fullmatch(content_type)
    if match is None:
        raise InvalidRequest(
            "Content-Type must look like type/subtype, for example application/json.",
            code="invalid-content-type",
        )
    name = match[1].lower()
    textual = name.startswith("text/")
    if name != "application/json" and not textual:
        return MediaType(name, "", Kind.BINARY)
    charset = "utf-8"
    for parameter in _PARAMETER.finditer(match[2]):
        if parameter[1].lower() == "charset":
            charset = (parameter[2] or parameter[3]).lower()
            break
    if charset in ("utf8", "us-ascii"):
        charset = "utf-8"
    if not textual:
        return MediaType(name, charset, Kind.JSON)
    return MediaType(name, charset, Kind.TEXT if charset == "utf-8" else Kind.BINARY)


def require_same_type(content_type: str, stream: str) -> None:
    """Raise :class:`Conflict` unless appends of type ``asked`` fit a stream of type ``stream``."""
    if content_type != stream and media_type(content_type) != media_type(stream):
        raise Conflict(
            f"The stream holds {stream}; send data of that content type.",
            code="content-type-mismatch",
        )


def to_stored(kind: Kind, body: bytes, *, allow_empty_array: bool = False) -> bytes:
    """The bytes that a body adds to a stream.

    Raises :class:`InvalidRequest` for JSON that is malformed, not UTF-8, nested deeper than
    :data:`MAX_JSON_DEPTH`, or an empty array (§9.1.3), which only a creation may hold.
    """
    if kind is not _JSON:
        return body
    stored = store_json(body)
    if not stored and not allow_empty_array:
        raise InvalidRequest(
            "An empty JSON array appends nothing; send at least one message.", code="empty-array"
        )
    return stored


def to_page(kind: Kind, stored: bytes) -> bytes:
    """The body of a read: the slice itself, or for JSON an array of its messages (§9.1.5)."""
    if kind is not _JSON:
        return stored
    return b"[%b]" % stored[:-2]


def cut(kind: Kind, stored: bytes, at_tail: bool) -> int:
    """How many bytes of a slice may be served, 0 if it holds no whole message yet.

    ``at_tail`` says that the slice ends at the end of the stream, where text is never cut back:
    a reader would loop on an empty page.
    """
    if at_tail or kind is _BINARY:
        return len(stored)
    if kind is _JSON:
        return stored.rfind(b"\n") + 1
    return len(stored) - incomplete_suffix(stored)


def incomplete_suffix(text: bytes) -> int:
    """Length, 0 to 3, of a character at the end of UTF-8 ``text`` that more bytes may complete."""
    for back in range(1, min(3, len(text)) + 1):
        lead = text[-back]
        if lead < 0x80:
            return 0
        if lead >= 0xC0:
            needed = 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
            if back >= needed:
                return 0
            try:
                text[-back:].decode()
            except UnicodeDecodeError as error:
                return back if error.reason == "unexpected end of data" else 0
    return 0


def is_boundary(kind: Kind, before: bytes) -> bool:
    """Whether a position is one, given the byte before it; the tail and the start always are."""
    return kind is not _JSON or before == b"\n"


def skip_messages(stored: bytes, count: int) -> int:
    """The length of the first ``count`` JSON messages of a slice, -1 if it holds fewer."""
    position = 0
    for _ in range(count):
        position = stored.find(b"\n", position) + 1
        if position == 0:
            return -1
    return position
