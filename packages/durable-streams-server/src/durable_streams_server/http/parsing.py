"""Reading a request's headers and query: strict, each fault with its own code."""

import re
from contextlib import suppress
from typing import Final
from urllib.parse import unquote_plus

from durable_streams_core import protocol
from durable_streams_core.content import media_type
from durable_streams_core.errors import InvalidRequest, NotFound
from durable_streams_core.expiry import parse_expires_at, parse_ttl, two_lifetimes
from durable_streams_core.offsets import Offset, parse_offset
from durable_streams_core.operations import ProducerClaim
from durable_streams_core.paths import decode_path
from durable_streams_core.protocol import MAX_PRODUCER_ID_BYTES, MAX_SEQ_BYTES
from durable_streams_core.reads import parse_read_offset
from durable_streams_core.streams import CreationRequest
from durable_streams_server.http import names
from durable_streams_server.http.messages import RequestHead
from durable_streams_server.http.targets import path_below

MAX_QUERY_LENGTH: Final = 8192

_IF_MATCH: Final = re.compile(r'"([^"]*)"')
_PARAMETERS: Final = (protocol.OFFSET_PARAM, protocol.LIVE_PARAM, protocol.CURSOR_PARAM)
_OFFSET: Final = f"{protocol.OFFSET_PARAM}="


def plain_integer(value: bytes) -> int | None:
    """A non-negative integer up to 2^53-1 without sign, point, exponent or leading zeros."""
    if not value.isdigit() or len(value) > 16 or (value[0] == 0x30 and len(value) > 1):
        return None
    number = int(value)
    return number if number <= protocol.MAX_SAFE_INTEGER else None


def bearer_token(request: RequestHead) -> bytes | None:
    """The token of ``Authorization: Bearer`` (RFC 6750), None without one."""
    scheme, _, token = request.headers.get(names.AUTHORIZATION, b"").partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else None


def parse_integer(name: str, value: bytes) -> int:
    """A plain integer; raises :class:`InvalidRequest`."""
    number = plain_integer(value)
    if number is None:
        raise InvalidRequest(
            f"{name} is a plain whole number from 0 to 2^53-1, without leading zeros.",
            code="invalid-number",
        )
    return number


def parse_query(query: str) -> tuple[str | None, str | None, str | None]:
    """``offset``, ``live`` and ``cursor``; unknown parameters are ignored, repeated ones not."""
    if not query:
        return None, None, None
    if len(query) > MAX_QUERY_LENGTH:
        raise InvalidRequest("The query is too long.", code="query-too-long", status=414)
    encoded = "%" in query or "+" in query
    if query.startswith(_OFFSET) and not encoded and "&" not in query:
        return query[len(_OFFSET) :], None, None
    values: dict[str, str] = {}
    for part in query.split("&"):
        name, _, value = part.partition("=")
        if encoded:
            name, value = unquote_plus(name), unquote_plus(value)
        if name not in _PARAMETERS:
            continue
        if name in values:
            raise InvalidRequest(
                f"The query parameter {name} was given twice.", code="repeated-parameter"
            )
        values[name] = value
    return (
        values.get(protocol.OFFSET_PARAM),
        values.get(protocol.LIVE_PARAM),
        values.get(protocol.CURSOR_PARAM),
    )


def parse_producer(request: RequestHead) -> ProducerClaim | None:
    """The producer headers: all three or none (§5.2.1)."""
    headers = request.headers
    raw_id = headers.get(names.PRODUCER_ID)
    epoch = headers.get(names.PRODUCER_EPOCH)
    seq = headers.get(names.PRODUCER_SEQ)
    if raw_id is None or epoch is None or seq is None:
        if raw_id is epoch is seq:
            return None
        raise InvalidRequest(
            "Producer-Id, Producer-Epoch and Producer-Seq go together: send all three or none.",
            code="incomplete-producer",
        )
    producer = request.text(names.PRODUCER_ID)
    if not producer or len(raw_id) > MAX_PRODUCER_ID_BYTES:
        raise InvalidRequest(
            f"Producer-Id is text of 1 to {MAX_PRODUCER_ID_BYTES} bytes.",
            code="invalid-producer-id",
        )
    return ProducerClaim(
        producer,
        parse_integer(protocol.PRODUCER_EPOCH, epoch),
        parse_integer(protocol.PRODUCER_SEQ, seq),
    )


def parse_closed(request: RequestHead) -> bool:
    """``Stream-Closed`` counts only when it says ``true``, in any case (§4.1)."""
    value = request.headers.get(names.STREAM_CLOSED)
    return value is not None and value.lower() == b"true"


def parse_seq(request: RequestHead) -> bytes | None:
    value = request.headers.get(names.STREAM_SEQ)
    if value is not None and len(value) > MAX_SEQ_BYTES:
        raise InvalidRequest(
            f"Stream-Seq is at most {MAX_SEQ_BYTES} bytes long.", code="invalid-stream-seq"
        )
    return value


def parse_if_match(request: RequestHead) -> Offset | None:
    """The extension of ours: the tail that an append expects, as ``If-Match: "<offset>"``.

    None where it says something else, which :mod:`~durable_streams_server.http.conditions` reads.
    """
    if names.IF_MATCH not in request.headers:
        return None
    value = request.text(names.IF_MATCH)
    if value is None or value.strip() == "*":
        return None
    match = _IF_MATCH.fullmatch(value.strip())
    if match is not None:
        with suppress(ValueError):
            return parse_offset(match[1])
    if match is None or match[1].count(":") < 2:
        raise InvalidRequest(
            'If-Match on an append is one offset of this stream in quotes, its ETag, or "*".',
            code="invalid-if-match",
        )
    return None


def parse_creation(request: RequestHead, public_root: str, max_path: int) -> CreationRequest:
    """Everything a PUT asks for but its body (§5.1, §4.2)."""
    content_type = request.text(names.CONTENT_TYPE)
    if content_type is not None:
        media_type(content_type)
    ttl = request.text(names.STREAM_TTL)
    expires_at = request.text(names.STREAM_EXPIRES_AT)
    if ttl is not None and expires_at is not None:
        raise two_lifetimes()
    forked_from = request.text(names.STREAM_FORKED_FROM)
    offset = request.text(names.STREAM_FORK_OFFSET)
    sub_offset = request.headers.get(names.STREAM_FORK_SUB_OFFSET)
    if forked_from is None:
        if offset is not None or sub_offset is not None:
            raise InvalidRequest(
                "Stream-Fork-Offset and Stream-Fork-Sub-Offset need Stream-Forked-From.",
                code="fork-without-source",
            )
    else:
        forked_from = source_path(forked_from, request.root, public_root, max_path)
    requested = CreationRequest(
        content_type,
        None if ttl is None else parse_ttl(ttl),
        None if expires_at is None else parse_expires_at(expires_at),
        forked_from,
        None,
        0 if sub_offset is None else parse_integer(protocol.STREAM_FORK_SUB_OFFSET, sub_offset),
    )
    return requested if offset is None else requested.forked_at(parse_read_offset(offset))


def source_path(value: str, root: str, public_root: str, max_path: int) -> str:
    """The stream that ``Stream-Forked-From`` names: the path of its URL on this server.

    The path that clients see goes first: below the root ``/``, every path lies below the root.
    """
    for prefix in (public_root, root):
        below = path_below(value, prefix)
        if below is not None:
            return decode_path(below, max_path)
    if value.startswith("/") and value.isascii():
        raise NotFound(
            f"Stream-Forked-From names no stream of this server; its path begins with {root}.",
            code="source-not-found",
        )
    return decode_path(value, max_path)
