"""Every query of the dashboard and the alerts names metrics and labels that the servers have."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client import CollectorRegistry, ProcessCollector

from durable_streams_redis import RedisStore
from durable_streams_server import Engine
from durable_streams_server.frontends.mount import Mount
from durable_streams_server.http.options import Options
from durable_streams_server.operations.metrics import MetricsCollector

ROOT = Path(__file__).parents[2]
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "dashboard.json").read_text())
RULES = [
    rule
    for group in yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yaml").read_text())[
        "groups"
    ]
    for rule in group["rules"]
]
OF_PROMETHEUS = {"job", "instance"}
"""Labels that Prometheus adds to what it reads."""


def queries() -> Iterator[tuple[str, str]]:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"].replace("$__rate_interval", "5m")
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            asked = re.fullmatch(r"label_values\((.+), \w+\)", variable["query"]["query"])
            yield variable["name"], asked[1]
    for rule in RULES:
        yield rule["alert"], rule["expr"]


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The labels of every series, by its name, of a server on a file store and one on Redis."""
    stores = [f"file:{tmp_path_factory.mktemp('data')}", RedisStore("redis://localhost")]
    found: dict[str, set[str]] = {"up": set()}
    families = [
        *(
            family
            for store in stores
            for family in MetricsCollector(Mount(Engine(store), Options(), None)).collect()
        ),
        *ProcessCollector(registry=CollectorRegistry()).collect(),
    ]
    for family in families:
        labels = set(getattr(family, "_labelnames", ()))
        ends = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
        for end in ends.get(family.type, [""]):
            extra = {"le"} if end == "_bucket" else set()
            found[family.name + end] = labels | extra
    return found


def selectors(query: str) -> Iterator[Any]:
    """The selectors of series in a query."""
    found: list[Any] = []
    promql_parser.walk(promql_parser.parse(query), found.append)
    return (each for each in found if isinstance(each, promql_parser.VectorSelector))


@pytest.mark.parametrize("title, query", list(queries()))
def test_a_query_names_what_there_is(title: str, query: str, metrics: dict[str, set[str]]) -> None:
    found = list(selectors(query))
    assert found
    for selector in found:
        assert selector.name in metrics
        used = {matcher.name for matcher in selector.matchers.matchers}
        assert used <= metrics[selector.name] | OF_PROMETHEUS
    grouped = set(re.findall(r"\w+", " ".join(re.findall(r"\bby \(([^)]*)\)", query))))
    assert grouped <= set().union(*(metrics[each.name] for each in found)) | OF_PROMETHEUS


def test_every_metric_of_the_server_is_on_the_dashboard_or_in_an_alert(
    metrics: dict[str, set[str]],
) -> None:
    asked = {selector.name for _, query in queries() for selector in selectors(query)}

    def base(name: str) -> str:
        return re.sub(r"_(bucket|sum|count)$", "", name)

    ours = {base(name) for name in metrics if name.startswith("durable_streams_")}
    assert ours <= set(map(base, asked))


def test_every_panel_says_where_its_numbers_go() -> None:
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}
    assert len(places) == len(panels)


def test_every_alert_has_an_entry_in_the_runbook_and_every_entry_an_alert() -> None:
    runbook = (ROOT / "docs" / "runbook.md").read_text()
    entries = re.findall(r"^### (\w+)$", runbook, re.MULTILINE)
    assert entries == [rule["alert"] for rule in RULES]
    for rule in RULES:
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert rule["annotations"]["runbook"] == f"docs/runbook.md#{rule['alert'].lower()}"
