"""A program whose traces begin with its own spans, printed on the terminal."""

import sys

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

from durable_streams_client import Client
from durable_streams_client.tracing import Tracing

provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter()))
trace.set_tracer_provider(provider)
tracer = trace.get_tracer("orders")

with Client(sys.argv[1], tracing=Tracing()) as client:
    orders = client.stream("orders")
    orders.create(content_type="application/json")
    with tracer.start_as_current_span("place an order"):
        orders.append({"item": "tea"})
