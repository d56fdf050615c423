"""Stored records of a subscription, and the requests that create and change one.

| field key  | value                                                                       |
|------------|-----------------------------------------------------------------------------|
| ``l``      | :class:`~durable_streams_core.subscriptions.leases.Lease`                   |
| ``u``      | :class:`BaseUrl`, where the server was reached when it was created (§7.1)   |
| ``c<path>``| :class:`Cursor` of one stream (§6.1)                                        |

A stream that a pattern means and that has no cursor counts from before its first byte, so an
append never writes one.
"""

import re
from collections.abc import Container, Mapping
from hashlib import sha256
from typing import Any, Final

import msgspec

from durable_streams_core.entities import Head
from durable_streams_core.errors import InvalidRequest, SubscriptionError
from durable_streams_core.offsets import BEGINNING, NO_TIMELINE, Offset, parse_offset
from durable_streams_core.paths import check_path
from durable_streams_core.protocol import RESERVED_SEGMENT, START
from durable_streams_core.subscriptions.globs import glob_matches, literal_prefix, parse_glob

__all__ = [
    "BASE_URL",
    "CURSOR",
    "LEASE",
    "PREFIX",
    "PULL_WAKE",
    "WEBHOOK",
    "BaseUrl",
    "Config",
    "Cursor",
    "LinkedStream",
    "birth_of",
    "decode_base_url",
    "decode_cursor",
    "invalid",
    "parse_ack_offset",
    "parse_config",
    "parse_object",
    "parse_stream",
    "parse_streams",
    "subscription_path",
]

PREFIX: Final = RESERVED_SEGMENT + "/subscriptions/"
LEASE: Final = "l"
BASE_URL: Final = "u"
CURSOR: Final = "c"
LINKING: Final = "linking"
"""The state of a subscription whose first cursors are not all written: known to nobody yet."""

WEBHOOK: Final = "webhook"
PULL_WAKE: Final = "pull-wake"

_DEFAULT_LEASE_MS: Final = 30_000
_MIN_LEASE_MS: Final = 1_000
_MAX_LEASE_MS: Final = 600_000
_MAX_ID_BYTES: Final = 256
_MAX_DESCRIPTION: Final = 4096
_MAX_URL: Final = 2048
_MAX_SEGMENTS: Final = 64
MAX_EXPLICIT: Final = 10_000

_ID: Final = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029/\\]+")


class Config(msgspec.Struct, frozen=True, array_like=True):
    """A requested subscription, normalised: equal requests always compare equal."""

    type: str
    pattern: str | None
    streams: tuple[str, ...]
    webhook: str | None
    wake_stream: str | None
    lease_ttl_ms: int
    description: str | None

    @property
    def glob(self) -> tuple[str, ...] | None:
        """The parsed pattern; None where only explicit streams are linked."""
        return None if self.pattern is None else parse_glob(self.pattern)

    def hash(self) -> str:
        """What idempotent re-confirmation compares (§6.2)."""
        return sha256(msgspec.json.encode(self)).hexdigest()

    def means(self, path: str, wake_streams: Container[str] = ()) -> bool:
        """Whether the pattern links this stream.

        That of a pull-wake subscription links no wake stream: neither its own, whose every event
        would call for the next one, nor one of ``wake_streams``, those of all subscriptions, since
        two could call for each other's. Only who names such a stream is woken by it.
        """
        glob = self.glob
        return (
            glob is not None
            and path != self.wake_stream
            and not (self.type == PULL_WAKE and path in wake_streams)
            and not path.startswith(RESERVED_SEGMENT + "/")
            and glob_matches(glob, path)
        )

    @property
    def prefix(self) -> str:
        """What all paths begin with that the pattern means."""
        return "" if self.pattern is None else literal_prefix(parse_glob(self.pattern))


class SubscriptionBirth(msgspec.Struct, frozen=True, array_like=True):
    """The facts that are fixed when a subscription is created; ``created`` in milliseconds."""

    config: Config
    hash: str
    created: int


class BaseUrl(msgspec.Struct, frozen=True, array_like=True):
    """The URL of the stream root: an origin without a slash, and the root with both slashes."""

    origin: str
    root: str


class Cursor(msgspec.Struct, frozen=True, array_like=True):
    """How far one incarnation of a stream is done with; "" is none, and counts from the start."""

    incarnation: str = ""
    position: int = 0
    explicit: bool = False
    timeline: bytes = NO_TIMELINE

    @property
    def offset(self) -> Offset:
        """The position with its timeline."""
        return Offset(self.timeline, self.position)


NO_CURSOR: Final = Cursor()

_encoder: Final = msgspec.msgpack.Encoder()
_births: Final = msgspec.msgpack.Decoder(SubscriptionBirth)
_base_urls: Final = msgspec.msgpack.Decoder(BaseUrl)
_cursors: Final = msgspec.msgpack.Decoder(Cursor)


def encode(value: SubscriptionBirth | BaseUrl | Cursor) -> bytes:
    """The stored form."""
    return _encoder.encode(value)


def birth_of(head: Head) -> SubscriptionBirth:
    """The decoded birth of a subscription's head."""
    return _births.decode(head.birth)


def decode_cursor(data: bytes | None) -> Cursor | None:
    """The cursor in a stored field; None where there is none."""
    return None if data is None else _cursors.decode(data)


def decode_base_url(data: bytes | None) -> BaseUrl | None:
    """The base URL in a stored field; None where there is none."""
    return None if data is None else _base_urls.decode(data)


class LinkedStream(msgspec.Struct, frozen=True):
    """A stream that a subscription links: its cursor, if written, and its head, if it is there."""

    path: str
    cursor: Cursor | None
    head: Head | None

    @property
    def acked(self) -> Offset | None:
        """The offset up to which it is done with; None for before the first byte, also where the
        store lost bytes that were acknowledged.
        """
        cursor, head = self.cursor, self.head
        if cursor is None or head is None or cursor.incarnation != head.incarnation:
            return None
        offset = cursor.offset
        lost = (
            offset.position >= head.start
            and offset.timeline < head.timeline
            and not head.holds(offset)
        )
        return None if lost else offset

    @property
    def pending(self) -> bool:
        """Whether the stream has data past what was acknowledged."""
        acked = self.acked
        return self.head is not None and self.head.tail > (0 if acked is None else acked.position)

    @property
    def explicit(self) -> bool:
        """Whether the stream was linked by its path, not by a pattern."""
        return self.cursor is not None and self.cursor.explicit

    def described(self, *, tail: bool) -> dict[str, Any]:
        """As requests and responses show it (§6.1), with its tail for a wake (§7.1)."""
        acked = self.acked
        link: dict[str, Any] = {
            "path": self.path,
            "link_type": "explicit" if self.explicit else "glob",
            "acked_offset": START if acked is None else str(acked),
        }
        if tail:
            link["tail_offset"] = str(BEGINNING if self.head is None else self.head.tail_offset)
            link["has_pending"] = self.pending
        return link


# What requests ask for.


def subscription_path(subscription: str) -> str:
    """Where a subscription is kept; raises :class:`SubscriptionError` for an id that none has."""
    if _ID.fullmatch(subscription) is None or subscription in (".", ".."):
        raise invalid(
            "A subscription id is text without slashes, backslashes and control characters."
        )
    if len(subscription.encode()) > _MAX_ID_BYTES:
        raise invalid(f"A subscription id is at most {_MAX_ID_BYTES} bytes long.")
    return PREFIX + subscription


def invalid(message: str) -> SubscriptionError:
    """400: the request is malformed."""
    return SubscriptionError("INVALID_REQUEST", message)


def parse_config(body: object) -> Config:
    """The wish in the body of a PUT (§6.2), normalised. The webhook's URL is not judged here."""
    value = parse_object(body)
    kind = value.get("type")
    if kind not in (WEBHOOK, PULL_WAKE):
        raise invalid('type is "webhook" or "pull-wake".')
    pattern = _pattern(value.get("pattern"))
    streams = () if value.get("streams") is None else parse_streams(value, empty=True)
    if pattern is None and not streams:
        raise invalid("Give a pattern, streams, or both.")
    webhook = wake_stream = None
    if kind == WEBHOOK:
        webhook = _webhook(value.get("webhook"))
    else:
        name = value.get("wake_stream")
        if not isinstance(name, str) or not name:
            raise invalid("A pull-wake subscription needs a wake_stream: a stream's path.")
        wake_stream = parse_stream(name)
        if wake_stream in streams:
            raise invalid("A subscription cannot be woken by its own wake stream.")
    description = value.get("description")
    if description is not None and (
        not isinstance(description, str) or len(description) > _MAX_DESCRIPTION
    ):
        raise invalid(f"description is text of at most {_MAX_DESCRIPTION} characters.")
    lease = _lease(value.get("lease_ttl_ms", _DEFAULT_LEASE_MS))
    return Config(kind, pattern, streams, webhook, wake_stream, lease, description)


def parse_object(body: object) -> Mapping[str, Any]:
    """A JSON object; raises :class:`SubscriptionError` for any other value."""
    if not isinstance(body, dict):
        raise invalid("The body is a JSON object.")
    return body


def parse_streams(value: Mapping[str, Any], *, empty: bool = False) -> tuple[str, ...]:
    """The explicit streams that a body names, each once, in order of paths."""
    names = value.get("streams")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise invalid("streams is an array of stream paths.")
    if len(names) > MAX_EXPLICIT or not (names or empty):
        raise invalid(f"streams holds 1 to {MAX_EXPLICIT} stream paths.")
    return tuple(sorted({parse_stream(name) for name in names}))


def parse_stream(name: str) -> str:
    """A stream's path as requests write it: slashes around it do not count."""
    try:
        return check_path(name.strip("/"))
    except InvalidRequest as error:
        raise invalid(f"{name[:100]!r} is no stream path. {error.message}") from None


def parse_ack_offset(offset: object) -> Offset:
    """The offset that an ack names; raises :class:`SubscriptionError`."""
    if isinstance(offset, str):
        try:
            return parse_offset(offset)
        except ValueError:
            pass
    raise SubscriptionError(
        "INVALID_OFFSET", "An ack's offset is one that this server gave out for the stream."
    )


def _pattern(value: object) -> str | None:
    if value is None:
        return None
    text = value.strip("/") if isinstance(value, str) else ""
    if not text:
        raise invalid("pattern is a glob over stream paths, such as events/* or events/**.")
    # Its wildcards are names like any other here: this is about dots, slashes and the like.
    checked = parse_glob(parse_stream(text))
    if len(checked) > _MAX_SEGMENTS:
        raise invalid(f"A pattern has at most {_MAX_SEGMENTS} segments.")
    return "/".join(checked)


def _webhook(value: object) -> str:
    url = value.get("url") if isinstance(value, dict) else None
    if not isinstance(url, str) or not 0 < len(url) <= _MAX_URL:
        raise invalid("A webhook subscription needs webhook.url.")
    return url


def _lease(value: object) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int or not _MIN_LEASE_MS <= value <= _MAX_LEASE_MS:
        raise invalid(f"lease_ttl_ms is a whole number from {_MIN_LEASE_MS} to {_MAX_LEASE_MS}.")
    return value
