"""A provider whose spans stay in memory."""

from typing import Any

from hostile import Asked
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Sampler
from opentelemetry.trace import format_span_id, format_trace_id

from durable_streams_client.tracing import Tracing


class Traced:
    def __init__(self, sampler: Sampler | None = None) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler=sampler)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer: trace.Tracer = self.provider.get_tracer("a user")
        self.tracing = Tracing(provider=self.provider)

    @property
    def spans(self) -> list[ReadableSpan]:
        """The spans that have ended, in that order."""
        return list(self.exporter.get_finished_spans())

    @property
    def names(self) -> list[str]:
        return [span.name for span in self.spans]

    def named(self, name: str) -> ReadableSpan:
        (found,) = [span for span in self.spans if span.name == name]
        return found


def traceparent(span: ReadableSpan) -> str:
    """The ``traceparent`` of a request below the span."""
    assert span.context is not None
    ids = format_trace_id(span.context.trace_id), format_span_id(span.context.span_id)
    return f"00-{ids[0]}-{ids[1]}-{span.context.trace_flags:02x}"


def carried(asked: list[Asked]) -> list[str]:
    """The ``traceparent`` of each request, "" without one."""
    return [each.headers.get("traceparent", "") for each in asked]


def about(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def parent_id(span: ReadableSpan) -> int | None:
    return None if span.parent is None else span.parent.span_id


def id_of(span: trace.Span) -> int:
    return span.get_span_context().span_id


def current() -> trace.Span:
    return trace.get_current_span()
