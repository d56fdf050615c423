"""Traces of requests, commits and webhooks for OpenTelemetry.

Needs ``opentelemetry-api``; the command, which sets the SDK up as the ``OTEL_*`` variables say,
needs what ``durable-streams-server[tracing]`` installs. Spans are made when a request is over, from
the times that it took, so a request that is not sampled costs a look at its parent and no more.
"""

import re
from collections.abc import Callable, Sequence
from http import HTTPStatus
from time import perf_counter, time_ns
from typing import Final

from durable_streams_server.caches import TwoGenerationCache
from durable_streams_server.frontends.mount import Mount
from durable_streams_server.http.observing import CLIENT_CLOSED_REQUEST, OTHER, Caller
from durable_streams_server.operations.access_log import redacted
from durable_streams_server.operations.clients import TrustedProxies

try:
    from opentelemetry import trace
    from opentelemetry.context import Context
    from opentelemetry.trace import (
        Link,
        SpanContext,
        SpanKind,
        Status,
        StatusCode,
        Tracer,
        TracerProvider,
    )
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError as error:
    raise ImportError(
        "Tracing needs OpenTelemetry: pip install 'durable-streams-server[tracing]'"
    ) from error

NAME: Final = "durable_streams_server"
METHODS: Final = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"))
UNKNOWN_METHOD: Final = "_OTHER"
"""Stands for every other method, as OpenTelemetry has it: a client may send any word."""
REMEMBERED_APPENDS: Final = 4096
"""Streams whose latest traced append is known, for the links of webhooks."""
MAX_LINKS: Final = 32

# The lowest of the flags says whether it is sampled; newer clients set the next one too.
_NOT_SAMPLED: Final = re.compile(
    rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f][02468ace]"
)
_PROPAGATOR: Final = TraceContextTextMapPropagator()


class Tracing:
    """Makes a server span of each request of a mount, which continues its ``traceparent``.

    Its child ``commit`` is the time that the store took. A webhook carries the ``traceparent`` of a
    span of its own, which is linked to the appends that caused it. Attach it before requests are
    served. ``provider`` is OpenTelemetry's global one by default.
    """

    def __init__(
        self,
        mount: Mount,
        *,
        provider: TracerProvider | None = None,
        proxies: TrustedProxies | None = None,
    ) -> None:
        provider = provider or trace.get_tracer_provider()
        self._tracer: Tracer = provider.get_tracer(NAME)
        self._proxies = proxies or TrustedProxies()
        self._appends: TwoGenerationCache[str, SpanContext] = TwoGenerationCache(REMEMBERED_APPENDS)
        self._offset = time_ns() - round(perf_counter() * 1e9)
        description = getattr(getattr(provider, "sampler", None), "get_description", str)()
        self._skips = "remoteParentNotSampled:AlwaysOffSampler" in description
        """Whether a request is certainly not sampled where its client does not sample."""
        mount.handler.time_commits()
        mount.handler.observe(self)
        mount.engine.subscriptions.trace_deliveries(self.deliver)

    def finished(self, caller: Caller, status: int, received: int, sent: int, began: float) -> None:
        """Make the spans of a request."""
        ended = perf_counter()
        parent = self._parent_of(caller)
        if parent is None:
            return
        exchange = caller.exchange
        action = OTHER if exchange is None else exchange.kind
        method = caller.method if caller.method in METHODS else UNKNOWN_METHOD
        span = self._tracer.start_span(
            f"{'HTTP' if method is UNKNOWN_METHOD else method} {action}",
            parent,
            SpanKind.SERVER,
            start_time=self._nanoseconds(began),
        )
        if span.is_recording():
            path, _, query = redacted(caller.target).partition("?")
            span.set_attributes(
                {
                    "http.request.method": method,
                    "http.response.status_code": status,
                    "http.request.body.size": received,
                    "http.response.body.size": sent,
                    "url.path": path,
                    "client.address": self._proxies.client_of(caller),
                    "durable_streams.action": action,
                }
            )
            if query:
                span.set_attribute("url.query", query)
            if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                span.set_status(Status(StatusCode.ERROR))
            elif status == CLIENT_CLOSED_REQUEST:
                span.set_attribute("error.type", "client_left")
            if exchange is not None:
                if exchange.committed is not None:
                    commit_began, commit_ended = exchange.committed
                    commit = self._tracer.start_span(
                        "commit",
                        trace.set_span_in_context(span, Context()),
                        start_time=self._nanoseconds(commit_began),
                    )
                    commit.end(self._nanoseconds(commit_ended))
                if action == "append" and status < HTTPStatus.MULTIPLE_CHOICES:
                    self._appends.add(exchange.path, span.get_span_context())
        span.end(self._nanoseconds(ended))

    def deliver(
        self, subscription: str, streams: Sequence[str]
    ) -> tuple[dict[str, str], Callable[[str], None]]:
        """Begin the span of a webhook: the headers to send with it, and what ends the span with its
        outcome.
        """
        known = (self._appends.get(stream) for stream in streams)
        links = [Link(context) for context in known if context is not None][:MAX_LINKS]
        span = self._tracer.start_span(
            "deliver webhook",
            Context(),
            SpanKind.PRODUCER,
            {"durable_streams.subscription": subscription},
            links,
        )
        headers: dict[str, str] = {}
        _PROPAGATOR.inject(headers, trace.set_span_in_context(span, Context()))

        def end(outcome: str) -> None:
            span.set_attribute("durable_streams.outcome", outcome)
            if outcome == "failed":
                span.set_status(Status(StatusCode.ERROR))
            span.end()

        return headers, end

    def _parent_of(self, caller: Caller) -> Context | None:
        """The span that the application has made already, else the one that the client names; None
        where nothing is sampled below it.
        """
        current = trace.get_current_span()
        if current.get_span_context().is_valid:
            return trace.set_span_in_context(current, Context())
        parent = caller.header(b"traceparent")
        if parent is None:
            return Context()
        if self._skips and _NOT_SAMPLED.fullmatch(parent):
            return None
        carrier = {"traceparent": parent.decode("latin-1")}
        state = caller.header(b"tracestate")
        if state is not None:
            carrier["tracestate"] = state.decode("latin-1")
        return _PROPAGATOR.extract(carrier, Context())

    def _nanoseconds(self, moment: float) -> int:
        return round(moment * 1e9) + self._offset
