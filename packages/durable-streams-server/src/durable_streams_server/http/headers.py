"""The headers of responses: built once where they can be, cheap where they cannot."""

from durable_streams_core.offsets import encode_offset
from durable_streams_core.operations import Appended
from durable_streams_core.protocol import JSON_CONTENT_TYPE, SSE_CONTENT_TYPE
from durable_streams_core.streams import Birth
from durable_streams_server.engine.pages import Page
from durable_streams_server.http import names
from durable_streams_server.http.compression import GZIP
from durable_streams_server.http.messages import Header, to_lines

NOSNIFF: Header = (b"x-content-type-options", b"nosniff")
RESOURCE_POLICY: Header = (b"cross-origin-resource-policy", b"cross-origin")
SECURITY: list[Header] = [NOSNIFF, RESOURCE_POLICY]
"""On every response (§12.7)."""

CLOSED: Header = (names.STREAM_CLOSED, b"true")
UP_TO_DATE: Header = (names.STREAM_UP_TO_DATE, b"true")
JSON: Header = (names.CONTENT_TYPE, JSON_CONTENT_TYPE.encode())
NO_STORE: Header = (names.CACHE_CONTROL, b"no-store")
NO_CACHE: Header = (names.CACHE_CONTROL, b"no-cache")
RETRY_SOON: Header = (b"retry-after", b"1")
VARY_ENCODING: Header = (names.VARY, names.ACCEPT_ENCODING)
SSE_TYPE: Header = (names.CONTENT_TYPE, SSE_CONTENT_TYPE.encode())
SSE_BASE64: Header = (names.STREAM_SSE_DATA_ENCODING, b"base64")


def next_offset(timeline: bytes, position: int) -> Header:
    return (names.STREAM_NEXT_OFFSET, encode_offset(timeline, position))


_NEXT_OFFSET_LINE = b"%b" + names.STREAM_NEXT_OFFSET + b": %b_%016d\r\n"
_CLOSED_LINE = to_lines([CLOSED])
_PRODUCER_LINES = b"%b: %%d\r\n%b: %%d\r\n" % (names.PRODUCER_EPOCH, names.PRODUCER_SEQ)
_PAGE_LINES = (
    b"%b" + names.CONTENT_TYPE + b": %b\r\n" + names.STREAM_NEXT_OFFSET + b": %b_%016d\r\n"
)
_UP_TO_DATE_LINE = to_lines([UP_TO_DATE])
NO_STORE_LINE = to_lines([NO_STORE])
NO_CACHE_LINE = to_lines([NO_CACHE])
VARY_ENCODING_LINE = to_lines([VARY_ENCODING])
GZIP_LINE = to_lines([(names.CONTENT_ENCODING, GZIP.encode())])


def cursor_line(cursor: str) -> bytes:
    return b"%b: %b\r\n" % (names.STREAM_CURSOR, cursor.encode())


def etag_line(tag: str) -> bytes:
    return b"%b: %b\r\n" % (names.ETAG, tag.encode())


def content_type(birth: Birth) -> Header:
    return (names.CONTENT_TYPE, birth.content_type.encode())


_TRACING = (
    b"traceparent, tracestate, baggage, b3, x-b3-traceid, x-b3-spanid, x-b3-parentspanid, "
    b"x-b3-sampled, x-b3-flags, x-request-id, x-correlation-id, sentry-trace, uber-trace-id, "
    b"x-datadog-trace-id, x-datadog-parent-id, x-datadog-origin, x-datadog-sampling-priority, "
    b"x-amzn-trace-id, x-cloud-trace-context"
)
"""Tracing libraries add these to every request of a page."""


class CommonHeaders:
    """The headers of every response: security, and which pages of browsers may read it (CORS)."""

    METHODS = b"GET, HEAD, POST, PUT, DELETE, OPTIONS"
    REQUEST_HEADERS = b", ".join(
        (
            names.CONTENT_TYPE, names.AUTHORIZATION, b"accept", names.IF_MATCH, names.IF_NONE_MATCH,
            names.LAST_EVENT_ID, names.STREAM_SEQ, names.STREAM_TTL, names.STREAM_EXPIRES_AT,
            names.STREAM_CLOSED, names.STREAM_FORKED_FROM, names.STREAM_FORK_OFFSET,
            names.STREAM_FORK_SUB_OFFSET, names.PRODUCER_ID, names.PRODUCER_EPOCH,
            names.PRODUCER_SEQ, _TRACING,
        )
    )  # fmt: skip
    EXPOSED = b", ".join(
        (
            names.ETAG, names.LOCATION, b"retry-after", names.STREAM_NEXT_OFFSET,
            names.STREAM_CURSOR, names.STREAM_UP_TO_DATE, names.STREAM_CLOSED, names.STREAM_TTL,
            names.STREAM_EXPIRES_AT, names.STREAM_SSE_DATA_ENCODING, names.PRODUCER_EPOCH,
            names.PRODUCER_SEQ, names.PRODUCER_EXPECTED_SEQ, names.PRODUCER_RECEIVED_SEQ,
        )
    )  # fmt: skip

    def __init__(
        self,
        origins: tuple[str, ...],
        request_headers: tuple[str, ...] = (),
        *,
        credentials: bool = False,
    ) -> None:
        self._any = "*" in origins
        self._origins = frozenset(o.encode() for o in origins)
        self._open: list[Header] = [
            *SECURITY,
            (b"access-control-allow-origin", b"*"),
            (b"access-control-expose-headers", self.EXPOSED),
        ]
        self._shut: list[Header] = (
            [*SECURITY, (names.VARY, names.ORIGIN)] if origins else [*SECURITY]
        )
        self._open_lines = to_lines(self._open)
        self._credentials: list[Header] = (
            [(b"access-control-allow-credentials", b"true")] if credentials else []
        )
        self._request_headers = b", ".join(
            (self.REQUEST_HEADERS, *(name.lower().encode() for name in request_headers))
        )

    def of(self, origin: bytes | None) -> list[Header]:
        """The headers of every response to a request of this ``Origin``."""
        if self._any:
            return self._open
        if origin is not None and origin in self._origins:
            return [
                *self._shut,
                (b"access-control-allow-origin", origin),
                *self._credentials,
                (b"access-control-expose-headers", self.EXPOSED),
            ]
        return self._shut

    def allows(self, origin: bytes) -> bool:
        """Whether pages of an origin may read responses, and write."""
        return self._any or origin in self._origins

    def appended_lines(self, common: list[Header], appended: Appended) -> bytes:
        """The headers of the response to an append, the most frequent, after ``common`` ones."""
        before = self._open_lines if common is self._open else to_lines(common)
        lines = _NEXT_OFFSET_LINE % (before, appended.timeline, appended.tail)
        if appended.closed:
            lines += _CLOSED_LINE
        if appended.epoch >= 0:
            lines += _PRODUCER_LINES % (appended.epoch, appended.seq)
        return lines

    def page_lines(self, common: list[Header], page: Page) -> bytes:
        """The headers that say what a page is, after ``common`` ones."""
        before = self._open_lines if common is self._open else to_lines(common)
        lines = _PAGE_LINES % (before, page.birth.content_type.encode(), page.timeline, page.end)
        if page.up_to_date:
            lines += _UP_TO_DATE_LINE
        if page.closed:
            lines += _CLOSED_LINE
        return lines

    def preflight(self) -> list[Header]:
        return [
            (b"access-control-allow-methods", self.METHODS),
            (b"access-control-allow-headers", self._request_headers),
            (b"access-control-max-age", b"86400"),
            (b"allow", self.METHODS),
        ]
