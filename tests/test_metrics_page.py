"""The page of metrics lists exactly the metrics that there are."""

import re
from pathlib import Path

from prometheus_client.metrics_core import Metric

from durable_streams_redis import RedisStore
from durable_streams_server.frontends.mount import Mount
from durable_streams_server.http.options import Options
from durable_streams_server.operations.metrics import MetricsCollector

PAGE = Path(__file__).parent.parent / "docs" / "metrics.md"
ROW = re.compile(r"\| `(durable_streams_\w+)` \| (\w+) \|")


def shown(family: Metric) -> tuple[str, str]:
    """The name under which Prometheus keeps a metric, and its kind."""
    return family.name + ("_total" if family.type == "counter" else ""), family.type


def test_the_page_lists_every_metric_with_its_kind_and_no_other(tmp_path: Path) -> None:
    stores = ("memory:", f"file:{tmp_path}", RedisStore("redis://localhost"))
    found = {
        shown(family)
        for store in stores
        for family in MetricsCollector(Mount(store, Options(), None)).collect()
    }
    assert set(ROW.findall(PAGE.read_text())) == found
