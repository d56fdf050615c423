"""Requests and responses of the protocol as values (§5).

Pure. Each function that makes a request names the § it follows; ``error_of`` makes an error of a
response that refuses.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from durable_streams_client import errors
from durable_streams_client.errors import InvalidArgument, MalformedResponse, ResponseError
from durable_streams_client.options import is_whole
from durable_streams_client.parsing import NotJson, parse_json, parse_number
from durable_streams_core import protocol

MAX_OFFSET_LENGTH: Final = 1024
IF_MATCH: Final = "If-Match"
"""Names the offset that an append expects to be the tail, an extension of our server (§11)."""
NOT_A_STREAM: Final = "not-a-stream"
"""The code of a server that has no streams at all at such a path."""


@dataclass(slots=True)
class Request:
    """One HTTP request, before the client's own headers and parameters are added."""

    method: str
    url: str
    headers: dict[str, str] = field(default_factory=dict)
    params: list[tuple[str, str]] = field(default_factory=list)
    content: bytes | None = None


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """Status and headers of a response; names are lower case."""

    status: int
    headers: Mapping[str, str]

    def get(self, name: str) -> str | None:
        """A header by its name in any case; None without it."""
        return self.headers.get(name.lower())

    def flag(self, name: str) -> bool:
        """Whether a header such as ``Stream-Closed`` says ``true`` (§4.1)."""
        return (self.get(name) or "").strip().lower() == "true"


@dataclass(frozen=True, slots=True)
class WholeResponse:
    """A whole response.

    ``uncertain`` says that an earlier attempt of the same request may have been carried out.
    """

    head: ResponseHead
    body: bytes
    uncertain: bool


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """The state of a stream, as ``Stream.head`` returns it (§5.5).

    >>> info = stream.head()
    >>> info.content_type, info.offset, info.closed, info.ttl
    ('application/json', '00000003', False, None)
    """

    content_type: str
    """The content type."""
    offset: str
    """The offset of the tail."""
    closed: bool
    """Whether the stream is closed."""
    ttl: int | None = None
    """The lifetime in seconds after the last read or write, if it has one."""
    expires_at: str | None = None
    """The end of life as an RFC 3339 time, if it has one."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """All headers of the response, with names in lower case."""


@dataclass(frozen=True, slots=True)
class Created:
    """The result of ``Stream.create`` and ``Stream.fork`` (§5.1).

    >>> made = client.stream("letters").create(content_type="text/plain")
    >>> made.created, made.offset, made.content_type
    (True, '00000000', 'text/plain')
    """

    created: bool
    """Whether this call created the stream; it existed with the same configuration otherwise."""
    offset: str
    """The offset of the tail."""
    closed: bool
    """Whether the stream is closed."""
    content_type: str
    """The content type of the stream."""


@dataclass(frozen=True, slots=True)
class Appended:
    """The result of an append, or of closing a stream (§5.2, §5.3).

    >>> stored = stream.append(4)
    >>> stored.offset, stored.closed, stored.duplicate
    ('00000004', False, False)
    """

    offset: str
    """The offset of the tail after the append. It is "" if the server left it out, which it may
    only for a duplicate."""
    closed: bool
    """Whether the stream is closed."""
    duplicate: bool = False
    """Whether an earlier attempt of this call had stored the data already."""


@dataclass(frozen=True, slots=True)
class Producing:
    """The producer headers of one batch (§5.2.1)."""

    id: str
    epoch: int
    seq: int

    def headers(self) -> dict[str, str]:
        """The headers by name, as they are sent."""
        return {
            protocol.PRODUCER_ID: self.id,
            protocol.PRODUCER_EPOCH: str(self.epoch),
            protocol.PRODUCER_SEQ: str(self.seq),
        }


def lifetime_headers(ttl: int | None, expires_at: datetime | str | None) -> dict[str, str]:
    """The headers of a lifetime, from seconds or a time (§5.1); raises ``InvalidArgument``."""
    if ttl is not None and expires_at is not None:
        raise InvalidArgument("give ttl or expires_at, not both")
    if ttl is not None:
        if not is_whole(ttl, 0):
            raise InvalidArgument("ttl must be a whole number of seconds, 0 or more")
        return {protocol.STREAM_TTL: str(ttl)}
    if isinstance(expires_at, datetime):
        if expires_at.tzinfo is None:
            raise InvalidArgument(
                "expires_at must have a time zone", advice="Use datetime.now(UTC) + timedelta(…)."
            )
        try:
            moment = expires_at.astimezone(UTC)
        except OverflowError:
            raise InvalidArgument("expires_at is out of range") from None
        return {protocol.STREAM_EXPIRES_AT: moment.isoformat()}
    return {} if expires_at is None else {protocol.STREAM_EXPIRES_AT: expires_at}


def create_request(
    url: str,
    *,
    content_type: str | None,
    lifetime: dict[str, str],
    closed: bool,
    content: bytes | None,
) -> Request:
    """``PUT`` of a new stream (§5.1)."""
    headers = dict(lifetime)
    if content_type is not None:
        headers["Content-Type"] = content_type
    if closed:
        headers[protocol.STREAM_CLOSED] = "true"
    return Request("PUT", url, headers, content=content)


def fork_request(
    url: str,
    *,
    source: str,
    offset: str | None,
    sub_offset: int | None,
    content_type: str | None,
    lifetime: dict[str, str],
) -> Request:
    """``PUT`` of a fork of ``source``, a path (§4.2)."""
    headers = {**lifetime, protocol.STREAM_FORKED_FROM: source}
    if offset is not None:
        headers[protocol.STREAM_FORK_OFFSET] = offset
    if sub_offset:
        if not is_whole(sub_offset, 0):
            raise InvalidArgument("sub_offset must be a whole number, 0 or more")
        headers[protocol.STREAM_FORK_SUB_OFFSET] = str(sub_offset)
    if content_type is not None:
        headers["Content-Type"] = content_type
    return Request("PUT", url, headers)


def append_request(
    url: str,
    content: bytes,
    *,
    content_type: str | None,
    close: bool = False,
    seq: str | None = None,
    expected: str | None = None,
    producing: Producing | None = None,
) -> Request:
    """``POST`` that appends data, closes the stream, or both (§5.2, §5.3)."""
    headers: dict[str, str] = {}
    if content and content_type is not None:
        headers["Content-Type"] = content_type
    if close:
        headers[protocol.STREAM_CLOSED] = "true"
    if seq is not None:
        headers[protocol.STREAM_SEQ] = seq
    if expected is not None:
        headers[IF_MATCH] = f'"{expected}"'
    if producing is not None:
        headers.update(producing.headers())
    return Request("POST", url, headers, content=content)


def info_of(url: str, head: ResponseHead) -> StreamInfo:
    """The state of a stream from the response to ``HEAD`` (§5.5)."""
    return StreamInfo(
        content_type=head.get("content-type") or protocol.DEFAULT_CONTENT_TYPE,
        offset=next_offset(url, head),
        closed=head.flag(protocol.STREAM_CLOSED),
        ttl=parse_number(head.get(protocol.STREAM_TTL)),
        expires_at=head.get(protocol.STREAM_EXPIRES_AT),
        headers=head.headers,
    )


def created_of(url: str, response: WholeResponse, content_type: str | None) -> Created:
    """The result of a creation from the response to ``PUT`` (§5.1)."""
    return Created(
        created=response.head.status == 201,
        offset=next_offset(url, response.head),
        closed=response.head.flag(protocol.STREAM_CLOSED),
        content_type=response.head.get("content-type")
        or content_type
        or protocol.DEFAULT_CONTENT_TYPE,
    )


def appended_of(url: str, head: ResponseHead, *, producing: bool) -> Appended:
    """The result of an append from the response to ``POST``.

    If the request had producer headers, 204 says that it is a duplicate (§5.2.1).
    """
    closed = head.flag(protocol.STREAM_CLOSED)
    offset = head.get(protocol.STREAM_NEXT_OFFSET)
    duplicate = producing and head.status == 204
    if offset is None:
        if duplicate:  # §5.2.1 does not require the header here
            return Appended("", closed, duplicate)
        offset = next_offset(url, head)
    return Appended(offset, closed, duplicate)


def next_offset(url: str, head: ResponseHead) -> str:
    """``Stream-Next-Offset``, which every success must carry; raises MalformedResponse."""
    offset = head.get(protocol.STREAM_NEXT_OFFSET)
    if offset is None or not is_offset(offset):
        raise MalformedResponse(
            f"The response lacks the header {protocol.STREAM_NEXT_OFFSET}."
            if offset is None
            else f"The header {protocol.STREAM_NEXT_OFFSET} does not hold an offset.",
            url=url,
            status=head.status,
            code="missing-header",
        )
    return offset


def is_offset(text: str) -> bool:
    """Whether a server may give ``text`` as an offset (§8)."""
    return (
        0 < len(text) <= MAX_OFFSET_LENGTH
        and text.isascii()
        and text.isprintable()
        and text not in (protocol.START, protocol.NOW)
        and not any(mark in text for mark in ",&=?/ ")
    )


class _Problem(msgspec.Struct):
    """The members of a problem document that are used (RFC 9457)."""

    code: str | None = None
    detail: str | None = None
    title: str | None = None


_PROBLEM: Final = msgspec.json.Decoder(_Problem)


def _problem_of(head: ResponseHead, body: bytes) -> tuple[str | None, str, bool]:
    """Code and text of an error's body, and whether the text is a whole sentence."""
    kind = head.get("content-type") or ""
    if "json" in kind:
        try:
            problem = parse_json(body, _PROBLEM)
        except NotJson:
            return None, "", False
        text = _printable(problem.detail or problem.title or "")
        return _printable(problem.code or "") or None, text, bool(problem.detail)
    if "html" in kind:
        return None, "", False
    return None, _printable(body[:500].decode("utf-8", "replace")), False


def _printable(text: str) -> str:
    """The beginning of ``text`` in one line, fit for a log."""
    shown = "".join(mark if mark.isprintable() else " " for mark in text[:1000])
    return " ".join(shown.split())[:200]


def error_of(request: Request, head: ResponseHead, body: bytes) -> ResponseError:
    """The error for a response that refuses."""
    closed = head.flag(protocol.STREAM_CLOSED)
    epoch = head.get(protocol.PRODUCER_EPOCH)
    expected = head.get(protocol.PRODUCER_EXPECTED_SEQ)
    code, detail, whole = _problem_of(head, body)
    facts: dict[str, Any] = {
        "code": code,
        "closed": closed,
        "producer_epoch": epoch is not None and protocol.PRODUCER_ID in request.headers,
        "expected_seq": expected is not None,
        "conditional": IF_MATCH in request.headers,
        "redirected": 300 <= head.status < 400 and bool(head.get("location")),
        "creating": request.method == "PUT" and protocol.STREAM_FORKED_FROM not in request.headers,
        "sequenced": protocol.STREAM_SEQ in request.headers
        and "content" not in f"{code} {detail}".lower(),
    }
    kind = errors.kind_of(head.status, **facts)
    error = kind(
        detail if whole else errors.describe(kind, detail),
        method=request.method,
        url=request.url,
        status=head.status,
        code=code,
    )
    error.retry_after = head.get("retry-after")
    if isinstance(error, errors.Redirected):
        error.location = head.get("location") or ""
        error.message = f"The server redirects to {errors.public_url(error.location)[:500]}."
    elif isinstance(error, errors.NotFound) and code == NOT_A_STREAM:
        error.advice = "Check the client's base URL, or the whole URL of the stream."
    elif isinstance(error, errors.TailMoved):
        error.offset = head.get(protocol.STREAM_NEXT_OFFSET)
        tail = "" if error.offset is None else f"{error.offset}, "
        error.message = f"The tail of the stream is {tail}not the offset that was expected."
    if isinstance(error, errors.StreamClosed):
        error.offset = head.get(protocol.STREAM_NEXT_OFFSET)
    elif isinstance(error, errors.Fenced):
        error.epoch = parse_number(epoch)
    elif isinstance(error, errors.SequenceGap):
        error.expected = parse_number(expected)
        error.received = parse_number(head.get(protocol.PRODUCER_RECEIVED_SEQ))
    return error
