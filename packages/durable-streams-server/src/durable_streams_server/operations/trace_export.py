"""Sets OpenTelemetry's SDK up for the command, as the ``OTEL_*`` variables say."""

import os

try:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import (
        BatchSpanProcessor,
        ConsoleSpanExporter,
        SimpleSpanProcessor,
    )
except ImportError as error:
    raise ImportError(
        "Tracing needs OpenTelemetry: pip install 'durable-streams-server[tracing]'"
    ) from error


def provider_of_environment() -> TracerProvider:
    """A provider that exports over OTLP, or as ``OTEL_TRACES_EXPORTER`` says: otlp, console, none.

    The SDK itself reads the sampler, the resource, the endpoint and the sizes of batches. Raises
    ValueError for an exporter that it does not know.
    """
    resource = Resource.create()
    if str(resource.attributes.get("service.name", "")).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": "durable-streams-server"}))
    provider = TracerProvider(resource=resource)
    exporter = os.environ.get("OTEL_TRACES_EXPORTER", "otlp") or "otlp"
    if exporter == "otlp":
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    elif exporter == "console":
        provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter()))
    elif exporter != "none":
        raise ValueError(f"OTEL_TRACES_EXPORTER must be otlp, console or none, got {exporter!r}.")
    return provider
