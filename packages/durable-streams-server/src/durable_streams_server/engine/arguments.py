"""What callers give the engine, checked and in the form that operations take."""

import asyncio
from contextlib import suppress
from typing import Final

from durable_streams_core.content import Kind, media_type
from durable_streams_core.errors import InvalidRequest, ProtocolError
from durable_streams_core.expiry import parse_expires_at, parse_ttl, two_lifetimes
from durable_streams_core.operations import EMPTY_BODY, Body, ProducerClaim
from durable_streams_core.protocol import MAX_PRODUCER_ID_BYTES, MAX_SAFE_INTEGER, MAX_SEQ_BYTES
from durable_streams_core.streams import CreationRequest
from durable_streams_core.values import encode_value

Data = bytes | bytearray | memoryview | str | object
"""What an application appends: see :meth:`Engine.append`."""

LARGE_JSON: Final = 64 * 1024
"""JSON bodies from this size on are checked off the event loop."""


def requested_creation(
    content_type: str | None, ttl: int | None, expires_at: str | None
) -> CreationRequest:
    """A creation as its caller requests it; raises :class:`InvalidRequest`."""
    if content_type is not None:
        media_type(content_type)
    if ttl is not None and expires_at is not None:
        raise two_lifetimes()
    if ttl is not None:
        ttl = parse_ttl(str(ttl))
    moment = None if expires_at is None else parse_expires_at(expires_at)
    return CreationRequest(content_type, ttl, moment)


def is_unicode(text: str) -> bool:
    """Whether UTF-8 can express a text: not where it holds lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def seq_bytes(seq: str) -> bytes:
    """The value of ``Stream-Seq`` (§5.2); raises :class:`InvalidRequest`."""
    if not is_unicode(seq) or len(seq.encode()) > MAX_SEQ_BYTES:
        raise InvalidRequest(
            f"Stream-Seq is text of at most {MAX_SEQ_BYTES} bytes.", code="invalid-stream-seq"
        )
    return seq.encode()


def check_claim(claim: ProducerClaim) -> None:
    """Raise :class:`InvalidRequest` for a claim that no request could make (§5.2.1)."""
    if not claim.id or not is_unicode(claim.id) or len(claim.id.encode()) > MAX_PRODUCER_ID_BYTES:
        raise InvalidRequest(
            f"A producer's id is text of 1 to {MAX_PRODUCER_ID_BYTES} bytes.",
            code="invalid-producer-id",
        )
    if not (0 <= claim.epoch <= MAX_SAFE_INTEGER and 0 <= claim.seq <= MAX_SAFE_INTEGER):
        raise InvalidRequest(
            "A producer's epoch and sequence are whole numbers from 0 to 2^53-1.",
            code="invalid-number",
        )


def to_body(data: Data) -> Body:
    """The body that some data means; raises :class:`InvalidRequest` for what JSON cannot hold."""
    if isinstance(data, bytes):
        return Body(data)
    if isinstance(data, bytearray | memoryview):
        return Body(bytes(data))
    if isinstance(data, str):
        with suppress(UnicodeEncodeError):
            return Body(data.encode(), text=True)
        # Text with lone surrogates is not UTF-8; only JSON can express it, in escapes.
    try:
        return Body(encode_value(data), value=True)
    except ValueError as error:
        raise InvalidRequest(
            f"The value cannot be written as JSON: {error}.", code="invalid-json"
        ) from None


def optional_body(data: Data) -> Body:
    """As :func:`to_body`, where None means no data."""
    return EMPTY_BODY if data is None else to_body(data)


def is_large_json(body: Body, content_type: str) -> bool:
    """Whether checking the body takes so long that other requests would have to wait."""
    return len(body.raw) >= LARGE_JSON and media_type(content_type).kind is Kind.JSON


async def check_json(body: Body) -> None:
    """Check a JSON body in a thread. An error stays in the body, for the decision to raise."""

    def check() -> None:
        with suppress(ProtocolError):
            body.stored(Kind.JSON)

    await asyncio.to_thread(check)
