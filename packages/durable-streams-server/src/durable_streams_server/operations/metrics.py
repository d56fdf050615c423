"""All metrics of a server, and a collector that shows them to Prometheus.

Needs ``prometheus-client``, which ``durable-streams-server[metrics]`` installs.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from time import monotonic
from typing import Any, Final

from durable_streams_core.metrics import Histogram, Metric
from durable_streams_server.engine.engine import Engine
from durable_streams_server.frontends.mount import Mount
from durable_streams_server.frontends.tls import Certificate
from durable_streams_server.http.live import Readers
from durable_streams_server.operations.log_handler import LineHandler
from durable_streams_server.operations.requests import RequestMeter

try:
    from prometheus_client import (
        CollectorRegistry,
        GCCollector,
        PlatformCollector,
        ProcessCollector,
    )
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
    )
    from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
    from prometheus_client.metrics_core import Metric as Family
    from prometheus_client.registry import Collector
except ImportError as error:
    raise ImportError(
        "Metrics need prometheus-client: pip install 'durable-streams-server[metrics]'"
    ) from error

PREFIX: Final = "durable_streams_"


class MetricsCollector(Collector):
    """The metrics of one mount, or of an engine alone, for a registry of ``prometheus_client``.

    Register it before requests are served: of a mount it counts the requests from then on. Each
    scrape reads plain counters, also from another thread, and touches no store.

    ``streams`` is an :class:`~durable_streams_server.Engine`, or the mount of an application:
    ``app.mount`` of :func:`~durable_streams_server.create_asgi`, or ``app[MOUNT]`` of
    :func:`~durable_streams_server.create_app`. ``certificate`` and ``lines`` are
    those of the process, where it serves HTTPS and writes its log itself.
    """

    def __init__(
        self,
        streams: Mount | Engine,
        *,
        certificate: Certificate | None = None,
        lines: LineHandler | None = None,
    ) -> None:
        self._certificate = certificate
        self._lines = lines
        if isinstance(streams, Engine):
            self._engine = streams
            self._requests: RequestMeter | None = None
            self._readers: Readers | None = None
        else:
            self._engine = streams.engine
            self._readers = streams.handler.readers
            self._requests = RequestMeter()
            streams.handler.observe(self._requests)

    def collect(self) -> Iterator[Family]:
        """All metrics, as a registry asks for them."""
        for metric in self._metrics():
            yield family_of(metric)

    def _metrics(self) -> Iterator[Metric]:
        waiting: dict[str, int] = {}
        if self._requests is not None and self._readers is not None:
            yield from self._requests.metrics(self._readers.sent)
            waiting.update(self._readers.waiting)
        waiting["engine"] = self._engine.meter.followers
        yield Metric(
            "live_readers",
            "Readers that wait for more, by mode; engine is this process itself.",
            ("mode",),
            {(mode,): count for mode, count in waiting.items()},
        )
        yield from self._engine.metrics()
        certificate = self._certificate
        yield Metric(
            "tls_certificate_not_after_timestamp_seconds",
            "When the certificate that new connections get expires, in seconds since 1970.",
            (),
            {} if certificate is None else {(): certificate.not_after.timestamp()},
        )
        yield Metric(
            "dropped_log_lines_total",
            "Lines of the log that were dropped, because they were not read fast enough.",
            (),
            {(): 0 if self._lines is None else self._lines.dropped},
        )


def family_of(metric: Metric) -> Family:
    """A metric as ``prometheus_client`` shows it."""
    name = PREFIX + metric.name
    family: Any
    if name.endswith("_total"):
        family = CounterMetricFamily(name, metric.meaning, labels=metric.labels)
    elif any(isinstance(value, Histogram) for value in metric.samples.values()):
        family = HistogramMetricFamily(name, metric.meaning, labels=metric.labels)
    else:
        family = GaugeMetricFamily(name, metric.meaning, labels=metric.labels)
    for labels, value in metric.samples.items():
        if isinstance(value, Histogram):
            family.add_metric(labels, buckets=_buckets(value), sum_value=value.total)
        else:
            family.add_metric(labels, value)
    found: Family = family
    return found


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    bounds = [*map(str, map(float, histogram.bounds)), "+Inf"]
    return list(zip(bounds, accumulate(histogram.counts.copy()), strict=True))


FRESH_SECONDS: Final = 0.2
"""A page is made anew only when it is older, so that no client can make it too often."""


class Exposition:
    """The page ``/metrics`` of a server: its own metrics, the process's and Python's."""

    def __init__(
        self, collectors: Iterable[Collector], *, clock: Callable[[], float] = monotonic
    ) -> None:
        self._clock = clock
        self._made_at = float("-inf")
        self._made = b""
        self._registry = CollectorRegistry()
        for collector in collectors:
            self._registry.register(collector)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def page(self) -> tuple[bytes, bytes]:
        """The content type and the page, as it is now or was a moment ago."""
        now = self._clock()
        if now - self._made_at >= FRESH_SECONDS:
            self._made = generate_latest(self._registry)
            self._made_at = now
        return CONTENT_TYPE_LATEST.encode(), self._made
