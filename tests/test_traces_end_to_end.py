"""Traces through our client and our server: a call, its request and its commit are one trace."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import durable_streams_server.operations.tracing as server_tracing
from durable_streams_client import AsyncAsgiTransport, AsyncClient
from durable_streams_client.tracing import Tracing
from durable_streams_server import Engine, create_asgi
from durable_streams_server.frontends.mount import Mount
from durable_streams_server.frontends.servers import Address, standalone_server
from durable_streams_server.http.options import Options


class Traced:
    """A client and a server whose spans stay in memory."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.client = AsyncClient()

    async def spans(self, count: int) -> list[ReadableSpan]:
        """The next spans to end, once there are so many. A server ends its own after a response."""
        async with asyncio.timeout(60):
            while len(self.exporter.get_finished_spans()) < count:
                await asyncio.sleep(0)
        spans = list(self.exporter.get_finished_spans())
        self.exporter.clear()
        return spans


@pytest.fixture(params=["standalone", "asgi"])
async def traced(request: pytest.FixtureRequest) -> AsyncIterator[Traced]:
    traced = Traced()
    tracing = Tracing(provider=traced.provider)
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(Engine("memory:"))
        if request.param == "standalone":
            mount = Mount(engine, Options(), None)
            address = Address("127.0.0.1", 0)
            port = await stack.enter_async_context(standalone_server(mount, "/", address))
            client = AsyncClient(f"http://127.0.0.1:{port}/", tracing=tracing)
        else:
            app = create_asgi(engine)
            mount = app.mount
            client = AsyncClient("http://app/", http=AsyncAsgiTransport(app), tracing=tracing)
        server_tracing.Tracing(mount, provider=traced.provider)
        traced.client = await stack.enter_async_context(client)
        yield traced


def chain(spans: list[ReadableSpan]) -> list[str]:
    """The names of a span without a parent, of its child, of that one's child, and so on."""
    below = {None if span.parent is None else span.parent.span_id: span for span in spans}
    names = []
    span: ReadableSpan | None = below[None]
    while span is not None and span.context is not None:
        names.append(span.name)
        span = below.get(span.context.span_id)
    return names


async def test_a_call_its_request_and_its_commit_are_one_trace(traced: Traced) -> None:
    stream = traced.client.stream("a")
    with traced.provider.get_tracer("test").start_as_current_span("work"):
        await stream.create(content_type="application/json")
    assert chain(await traced.spans(4)) == ["work", "PUT create", "PUT create", "commit"]
    for number in range(2):
        with traced.provider.get_tracer("test").start_as_current_span("work"):
            await stream.append(number)
        assert chain(await traced.spans(4)) == ["work", "POST append", "POST append", "commit"]


async def test_a_batch_of_a_producer_and_its_commit_are_one_trace(traced: Traced) -> None:
    stream = traced.client.stream("a")
    await stream.create(content_type="application/json")
    await traced.spans(3)
    with traced.provider.get_tracer("test").start_as_current_span("work"):
        async with stream.producer() as producer:
            await producer.append_many([1, 2])
    assert chain(await traced.spans(4)) == ["work", "POST append", "POST append", "commit"]
