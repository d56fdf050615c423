"""Traces of webhooks: each carries a span of its own, linked to the appends that caused it."""

from typing import Any

from aiohttp import web
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import format_span_id, format_trace_id

from durable_streams_server import MemoryStore
from durable_streams_server.frontends.mount import Mount
from durable_streams_server.http.exchange import Exchange
from durable_streams_server.http.messages import RequestHead
from durable_streams_server.http.options import Options
from durable_streams_server.operations.tracing import Tracing

TRACE = "0af7651916cd43dd8448eb211c80319c"


class Request:
    """An append whose client traces it."""

    method, target, peer = "POST", "/events/a", "192.0.2.1"

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange

    def header(self, name: bytes) -> bytes | None:
        return f"00-{TRACE}-b7ad6b7169203331-01".encode() if name == b"traceparent" else None


async def test_a_webhook_carries_a_traceparent_and_is_linked_to_its_append(
    nodes: Any, receiver: Any, memory: MemoryStore
) -> None:
    async def refused(_webhook: Any) -> web.Response:
        return web.Response(status=500)

    node = await nodes(memory)
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    mount = Mount(node.engine, Options(), None)
    tracing = Tracing(mount, provider=provider)
    await node.engine.create("events/a", content_type="text/plain")
    receiver.answer = refused
    await node.webhook("s", receiver.url)
    head = RequestHead("POST", "events/a", "", {b"content-type": b"text/plain"})
    exchange = mount.handler.begin(head)
    assert isinstance(exchange, Exchange)
    response: Any = exchange.run(b"x")
    tracing.finished(Request(exchange), response.status, 1, 0, 1.0)
    webhook = await receiver.next()
    await node.until_status("s", "failed")
    spans = {span.name: span for span in exporter.get_finished_spans()}
    append, delivery = spans["POST append"], spans["deliver webhook"]
    assert append.context is not None
    assert delivery.context is not None
    _, trace, span, _ = webhook.headers["traceparent"].split("-")
    assert (trace, span) == (
        format_trace_id(delivery.context.trace_id),
        format_span_id(delivery.context.span_id),
    )
    assert [link.context for link in delivery.links] == [append.context]
    assert trace != TRACE
    assert delivery.attributes is not None
    assert delivery.attributes["durable_streams.outcome"] == "failed"
