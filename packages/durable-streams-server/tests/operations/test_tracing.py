"""Traces: a span for each request that continues its client's, and one below it for the commit."""

import subprocess
import sys
from collections.abc import Awaitable, Callable

import httpx
import pytest
from observing import Recorder
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased, Sampler
from opentelemetry.trace import SpanKind, StatusCode, format_span_id, format_trace_id
from remote import RemoteStore
from wire import Client

from durable_streams_server import MemoryStore, create_asgi
from durable_streams_server.operations.trace_export import provider_of_environment
from durable_streams_server.operations.tracing import Tracing

Serving = Callable[..., Awaitable[Client]]
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


class Traced:
    """A provider whose spans stay in memory."""

    def __init__(self, sampler: Sampler | None = None) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(sampler=sampler)
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        return self.exporter.get_finished_spans()

    def named(self, name: str) -> ReadableSpan:
        (found,) = [span for span in self.spans if span.name == name]
        return found


def context_of(span: ReadableSpan) -> tuple[str, str]:
    """The trace and the span, as in a ``traceparent``."""
    assert span.context is not None
    return format_trace_id(span.context.trace_id), format_span_id(span.context.span_id)


@pytest.fixture
def traced() -> Traced:
    return Traced()


@pytest.mark.parametrize("far", [False, True])
async def test_a_request_continues_the_trace_of_its_client_and_its_commit_is_a_child(
    serve: Serving, remote: RemoteStore, traced: Traced, far: bool
) -> None:
    client = await serve(remote if far else None)
    Tracing(client.mount, provider=traced.provider)
    await client.put("a", traceparent=TRACEPARENT)
    traced.exporter.clear()
    await client.post("a", b"12345", traceparent=TRACEPARENT)
    request, commit = traced.named("POST append"), traced.named("commit")
    assert request.kind is SpanKind.SERVER
    assert request.parent is not None
    assert context_of(request)[0] == TRACE
    assert format_span_id(request.parent.span_id) == PARENT
    assert commit.parent is not None
    assert format_span_id(commit.parent.span_id) == context_of(request)[1]
    assert context_of(commit)[0] == TRACE
    assert request.attributes is not None
    assert request.attributes["http.response.status_code"] == 204
    assert request.attributes["http.request.body.size"] == 5
    assert request.attributes["durable_streams.action"] == "append"
    assert request.start_time is not None
    assert request.end_time is not None
    assert commit.start_time is not None
    assert commit.end_time is not None
    assert request.start_time <= commit.start_time <= commit.end_time <= request.end_time


async def test_a_request_without_a_trace_begins_one_and_a_malformed_one_is_ignored(
    serve: Serving, traced: Traced
) -> None:
    client = await serve()
    Tracing(client.mount, provider=traced.provider)
    await client.get("a")
    await client.get("a", traceparent="00-rubbish")
    assert [span.parent for span in traced.spans] == [None, None]


@pytest.mark.parametrize("flags", ["00", "02", "fe"])
async def test_a_client_that_does_not_sample_is_not_traced(serve: Serving, flags: str) -> None:
    traced = Traced(ParentBased(ALWAYS_OFF))
    client = await serve()
    recorder = Recorder()
    Tracing(client.mount, provider=traced.provider)
    client.mount.handler.observe(recorder)
    await client.get("a", traceparent=TRACEPARENT.removesuffix("01") + flags)
    await client.get("a")
    assert len(recorder.reports) == 2
    assert traced.spans == ()


async def test_a_method_that_a_client_makes_up_is_no_name_of_a_span(
    memory: MemoryStore, traced: Traced
) -> None:
    app = create_asgi(memory)
    Tracing(app.mount, provider=traced.provider)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
        assert (await client.request("MADEUP", "/a")).status_code == 405
    (span,) = traced.spans
    assert span.name == "HTTP other"
    assert span.attributes is not None
    assert span.attributes["http.request.method"] == "_OTHER"


async def test_a_span_holds_no_signature(serve: Serving, traced: Traced) -> None:
    client = await serve(signing_keys=["0123456789abcdef"])
    Tracing(client.mount, provider=traced.provider)
    await client.put("a", body=b"x")
    signed = client.engine.sign("a", expires=60)
    assert (await client.get(f"a?{signed}")).status == 200
    assert signed.partition("=")[2] not in traced.named("GET read").to_json()


async def test_an_error_of_the_server_marks_the_span(serve: Serving, traced: Traced) -> None:
    client = await serve()
    Tracing(client.mount, provider=traced.provider)
    await client.put("a")
    await client.engine.stop()
    answer = await client.post("a", b"x")
    assert answer.status == 503
    assert traced.spans[-1].status.status_code is StatusCode.ERROR


def test_the_exporter_follows_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    provider = provider_of_environment()
    assert provider.resource.attributes["service.name"] == "durable-streams-server"
    monkeypatch.setenv("OTEL_SERVICE_NAME", "chat")
    assert provider_of_environment().resource.attributes["service.name"] == "chat"
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "pigeon")
    with pytest.raises(ValueError, match="otlp, console or none"):
        provider_of_environment()


def test_a_server_without_tracing_imports_nothing_of_opentelemetry() -> None:
    code = (
        "import sys, durable_streams_server.cli.command, durable_streams_server.cli.operating;"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "[]"
