"""Traces of a client's calls for OpenTelemetry.

Needs ``opentelemetry-api``, which ``durable-streams-client[tracing]`` installs. Spans go to the
provider that the application has set up.
"""

from collections.abc import Mapping, Sequence
from contextvars import Token
from functools import lru_cache
from types import TracebackType
from typing import Final, Self

from durable_streams_client.addresses import origin_of, path_of
from durable_streams_client.errors import Cancelled, ClientClosed, ClientError, public_url
from durable_streams_client.spans import Span

try:
    from opentelemetry import trace
    from opentelemetry.context import Context, attach, detach, get_current
    from opentelemetry.trace import (
        Link,
        NonRecordingSpan,
        SpanContext,
        SpanKind,
        Status,
        StatusCode,
        TracerProvider,
    )
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError as error:
    raise ImportError(
        "Tracing needs OpenTelemetry: pip install 'durable-streams-client[tracing]'"
    ) from error

NAME: Final = "durable_streams_client"
MAX_URL: Final = 2048
"""Letters of a URL, or of its path, that a span shows."""

_PROPAGATOR: Final = TraceContextTextMapPropagator()
_CARRIED: Final = frozenset(_PROPAGATOR.fields)


class Tracing:
    """Makes a client span of each call, whose ``traceparent`` the requests of the call carry.

    Give it to a client as ``tracing``; several clients may share it. ``provider`` is
    OpenTelemetry's global one by default.

    The span of a call is a child of the current span. It is the current span itself while the call
    sends its requests, so also for functions that return headers, and for ``on_retry``.
    """

    def __init__(self, *, provider: TracerProvider | None = None) -> None:
        self._tracer = (provider or trace.get_tracer_provider()).get_tracer(NAME)

    def call(self, method: str, action: str, url: str, resent: int) -> "CallSpan":
        """The span of a call, below the current one. ``action`` is a word of the server's metrics;
        ``resent`` is how often its request was sent before, in other spans.
        """
        return self._begin(method, action, url, parent=get_current(), resent=resent)

    def batch(self, url: str, parents: Mapping[int, SpanContext]) -> "CallSpan":
        """The span of a producer's batch, whose items were appended below ``parents``.

        It is the child of a single one, and linked to several.
        """
        known = [span for span in parents.values() if span.is_valid]
        if len(known) == len(parents) == 1:
            parent = trace.set_span_in_context(NonRecordingSpan(known[0]), Context())
            return self._begin("POST", "append", url, parent=parent)
        links = [Link(span) for span in known]
        return self._begin("POST", "append", url, parent=Context(), links=links)

    @staticmethod
    def current() -> SpanContext:
        """The current span, below which an item is appended. It is not valid if there is none."""
        return trace.get_current_span().get_span_context()

    def _begin(
        self,
        method: str,
        action: str,
        url: str,
        *,
        parent: Context,
        links: Sequence[Link] = (),
        resent: int = 0,
    ) -> "CallSpan":
        about = {
            "http.request.method": method,
            "durable_streams.action": action,
            **_place(url),
        }
        name = f"{method} {action}"
        span = self._tracer.start_span(name, parent, SpanKind.CLIENT, about, links)
        return CallSpan(span, parent, resent)


class CallSpan(Span):
    """A span that OpenTelemetry records."""

    __slots__ = ("_context", "_headers", "_resent", "_span", "_status", "_token")

    def __init__(self, span: trace.Span, parent: Context, resent: int) -> None:
        self._span = span
        self._context = trace.set_span_in_context(span, parent)
        self._resent = resent
        self._status: int | None = None
        self._token: Token[Context] | None = None
        """What makes the span before it the current one again; None outside of the block."""
        headers: dict[str, str] = {}
        _PROPAGATOR.inject(headers, self._context)
        self._headers = headers

    def __enter__(self) -> Self:
        self._token = attach(self._context)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.end()
        else:
            self.failed(error)

    def end(self) -> None:
        token, self._token = self._token, None
        if token is None:
            return
        # A coroutine that nobody awaits any more is ended in another context than its own.
        if trace.get_current_span() is self._span:
            detach(token)
        if self._status is not None:
            self._span.set_attribute("http.response.status_code", self._status)
        if self._resent:
            self._span.set_attribute("http.request.resend_count", self._resent)
        self._span.end()

    def failed(self, error: BaseException) -> None:
        if self._token is not None:
            self._span.set_attribute("error.type", type(error).__qualname__)
            if isinstance(error, Exception) and not isinstance(error, (Cancelled, ClientClosed)):
                self._span.set_status(Status(StatusCode.ERROR))
        self.end()

    def carried(self, headers: list[tuple[str, str]]) -> list[tuple[str, str]]:
        if not self._headers:  # without a provider and without a span of the user
            return headers
        others = [field for field in headers if field[0].lower() not in _CARRIED]
        return [*others, *self._headers.items()]

    def responded(self, status: int) -> None:
        self._status = status

    def retried(self, error: ClientError, delay: float) -> None:
        self._resent += 1
        self._status = None
        about: dict[str, str | int | float] = {
            "error.type": type(error).__qualname__,
            "durable_streams.delay": delay,
        }
        if error.status is not None:
            about["http.response.status_code"] = error.status
        self._span.add_event("retry", about)


@lru_cache(1024)
def _place(url: str) -> dict[str, str | int]:
    """The attributes that say where a request goes, without user, password and query."""
    try:
        _, host, port = origin_of(url)
        path = path_of(url)
    except ValueError:
        return {}
    return {
        "server.address": host or "",
        "server.port": port,
        "url.full": public_url(url)[:MAX_URL],
        "url.path": path[:MAX_URL],
    }
