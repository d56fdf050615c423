"""The header pairs of responses: built once where they can be, cheap where they cannot."""

from durable_streams_core.offsets import encode_offset
from durable_streams_core.streams import Birth
from durable_streams_server.http.messages import Header, to_lines

NOSNIFF: Header = (b"x-content-type-options", b"nosniff")
RESOURCE_POLICY: Header = (b"cross-origin-resource-policy", b"cross-origin")
SECURITY: list[Header] = [NOSNIFF, RESOURCE_POLICY]
"""On every response (§12.7)."""

CLOSED: Header = (b"stream-closed", b"true")
UP_TO_DATE: Header = (b"stream-up-to-date", b"true")
NO_STORE: Header = (b"cache-control", b"no-store")
NO_CACHE: Header = (b"cache-control", b"no-cache")
VARY_ENCODING: Header = (b"vary", b"accept-encoding")
SSE_TYPE: Header = (b"content-type", b"text/event-stream")
SSE_BASE64: Header = (b"stream-sse-data-encoding", b"base64")


def next_offset(timeline: bytes, position: int) -> Header:
    return (b"stream-next-offset", encode_offset(timeline, position))


def appended_lines(
    common: bytes, timeline: bytes, tail: int, epoch: int, seq: int, *, closed: bool
) -> bytes:
    """The response to an append, the most frequent; ``epoch`` is negative without producer."""
    lines = b"%bstream-next-offset: %b_%016d\r\n" % (common, timeline, tail)
    if closed:
        lines += b"stream-closed: true\r\n"
    if epoch >= 0:
        lines += b"producer-epoch: %d\r\nproducer-seq: %d\r\n" % (epoch, seq)
    return lines


def content_type(birth: Birth) -> Header:
    return (b"content-type", birth.content_type.encode())


class CommonHeaders:
    """The headers of every response: security, and which pages of browsers may read it (CORS)."""

    METHODS = b"GET, HEAD, POST, PUT, DELETE, OPTIONS"
    REQUEST_HEADERS = (
        b"content-type, authorization, accept, if-match, if-none-match, last-event-id, "
        b"stream-seq, stream-ttl, stream-expires-at, stream-closed, stream-forked-from, "
        b"stream-fork-offset, stream-fork-sub-offset, producer-id, producer-epoch, producer-seq, "
        # Tracing libraries add these to every request of a page.
        b"traceparent, tracestate, baggage, b3, x-b3-traceid, x-b3-spanid, x-b3-parentspanid, "
        b"x-b3-sampled, x-b3-flags, x-request-id, x-correlation-id, sentry-trace, uber-trace-id, "
        b"x-datadog-trace-id, x-datadog-parent-id, x-datadog-origin, x-datadog-sampling-priority, "
        b"x-amzn-trace-id, x-cloud-trace-context"
    )
    EXPOSED = (
        b"etag, location, retry-after, stream-next-offset, stream-cursor, stream-up-to-date, "
        b"stream-closed, stream-ttl, stream-expires-at, stream-sse-data-encoding, "
        b"producer-epoch, producer-seq, producer-expected-seq, producer-received-seq"
    )

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
        self._shut: list[Header] = [*SECURITY, (b"vary", b"origin")] if origins else SECURITY
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

    def lines(self, common: list[Header]) -> bytes:
        """What :meth:`of` returned, as it goes on the wire."""
        return self._open_lines if common is self._open else to_lines(common)

    def preflight(self) -> list[Header]:
        return [
            (b"access-control-allow-methods", self.METHODS),
            (b"access-control-allow-headers", self._request_headers),
            (b"access-control-max-age", b"86400"),
            (b"allow", self.METHODS),
        ]
