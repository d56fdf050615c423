"""The metrics: what is counted, and what Prometheus reads of it."""

import asyncio
import re
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from observing import Recorder
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from remote import Fate, RemoteStore
from wire import Client

from durable_streams_core.entities import Change, Conflicted
from durable_streams_server import Engine, MemoryStore
from durable_streams_server.engine.fanout import FEW, SLICE, Fanout, Notification
from durable_streams_server.engine.meter import EngineMeter
from durable_streams_server.frontends.mount import Mount
from durable_streams_server.http.options import Options
from durable_streams_server.operations.metrics import FRESH_SECONDS, Exposition, MetricsCollector
from durable_streams_server.stores.file import FileStore

Serving = Callable[..., Awaitable[Client]]
ACTIONS = {
    *("read", "long-poll", "sse", "head", "append", "create", "delete", "list", "other"),
    *("subscribe", "claim", "ack", "callback", "release", "jwks"),
}


class Scraped:
    """A page of metrics as Prometheus reads it."""

    def __init__(self, text: str) -> None:
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self.samples = {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in self.families.values()
            for sample in family.samples
        }

    def __getitem__(self, name: str) -> float:
        """A sample without labels."""
        return self.samples["durable_streams_" + name,]

    def of(self, name: str, **labels: str) -> float:
        return self.samples.get(("durable_streams_" + name, *sorted(labels.items())), 0.0)

    def labels(self) -> Iterator[tuple[str, str]]:
        for name, *labels in self.samples:
            if name.startswith("durable_streams_"):
                yield from labels  # type: ignore[misc]


def scrape(streams: Mount | Engine | MetricsCollector) -> Scraped:
    collector = streams if isinstance(streams, MetricsCollector) else MetricsCollector(streams)
    return Scraped(Exposition([collector]).page()[1].decode())


async def test_requests_are_counted_by_action_and_status_with_their_bytes(serve: Serving) -> None:
    client = await serve()
    collector = MetricsCollector(client.mount)
    await client.put("a", body=b"x")
    for _ in range(3):
        await client.post("a", b"12345")
    await client.get("a")
    await client.get("missing")
    found = scrape(collector)
    assert found.of("requests_total", action="create", status="201") == 1
    assert found.of("requests_total", action="append", status="204") == 3
    assert found.of("requests_total", action="read", status="200") == 1
    assert found.of("requests_total", action="read", status="404") == 1
    assert found.of("request_seconds_count", action="append") == 3
    assert found.of("received_bytes_total", action="append") == 15
    assert found.of("sent_bytes_total", action="read") > 16


async def test_bytes_of_events_are_counted_while_they_are_sent_and_once(serve: Serving) -> None:
    client = await serve()
    recorder = Recorder()
    client.mount.handler.observe(recorder)
    collector = MetricsCollector(client.mount)
    await client.put("a", body=b"x")
    events = await client.sse("a?offset=-1&live=sse")
    await events.batch()
    found = scrape(collector)
    assert found.of("live_readers", mode="sse") == 1
    assert found.of("sent_bytes_total", action="sse") == len(events.raw)
    await client.post("a", b"!", stream_closed="true")
    await events.rest()
    await recorder.count(3)
    found = scrape(collector)
    assert found.of("live_readers", mode="sse") == 0
    assert found.of("sent_bytes_total", action="sse") == len(events.raw)


async def test_live_readers_are_counted_by_mode(serve: Serving) -> None:
    client = await serve()
    collector = MetricsCollector(client.mount)
    await client.put("a", body=b"x")
    connection, answer = await client.waiting("a?offset=now&live=long-poll")
    follower = client.engine.follow("a")
    await anext(follower)
    found = scrape(collector)
    assert found.of("live_readers", mode="long-poll") == 1
    assert found.of("live_readers", mode="engine") == 1
    await follower.aclose()  # type: ignore[attr-defined]
    answer.cancel()
    connection.abort()
    await client.quiet()
    found = scrape(collector)
    assert found.of("live_readers", mode="long-poll") == 0
    assert found.of("live_readers", mode="engine") == 0


async def test_refusals_are_counted_by_their_reason(serve: Serving) -> None:
    client = await serve(max_body=10, max_waiting_readers=1)
    collector = MetricsCollector(client.mount)
    await client.put("a")
    await client.post("a", b"x" * 11)
    connection, answer = await client.waiting("a?offset=now&live=long-poll")
    assert (await client.get("a?offset=now&live=long-poll")).status == 429
    found = scrape(collector)
    assert found.of("refused_total", reason="limit") == 2
    assert found.of("refused_total", reason="unavailable") == 0
    answer.cancel()
    connection.abort()


async def test_no_label_holds_a_path_an_id_or_anything_else_that_a_client_chooses(
    serve: Serving,
) -> None:
    client = await serve()
    collector = MetricsCollector(client.mount)
    for method in ("PUT", "POST", "GET", "HEAD", "DELETE", "PATCH", "OPTIONS"):
        for path in ("s3cret", "__ds/subscriptions/s3cret", "__ds/s3cret", "s3cret?live=s3cret"):
            await client.request(method, path, {"content-type": "text/s3cret"}, b"s3cret")
    values: dict[str, set[str]] = {}
    for name, value in scrape(collector).labels():
        values.setdefault(name, set()).add(value)
    assert values["action"] <= ACTIONS
    assert all(re.fullmatch(r"\d{3}", status) for status in values["status"])
    assert not any("s3cret" in value for found in values.values() for value in found)


async def test_each_commit_is_counted_once_by_how_it_ended(
    memory: MemoryStore, remote: RemoteStore
) -> None:
    fates: list[Any] = [Fate.ARRIVES, Conflicted(None), Fate.ANSWER_LOST, Fate.ARRIVES]
    remote.fate = lambda _: fates.pop(0) if fates else Fate.ARRIVES
    async with Engine(remote) as engine:
        await engine.create("a")
        await engine.create("b")
        await engine.append("a", b"x")
        found = scrape(engine)
    assert found.of("commits_total", outcome="applied") == 3
    assert found.of("commits_total", outcome="conflicted") == 1
    assert found.of("commits_total", outcome="unknown") == 1
    async with Engine(memory) as engine:
        await engine.create("c")
        for _ in range(5):
            await engine.append("c", b"x")
        found = scrape(engine)
        assert found.of("commits_total", outcome="applied") == 6
        assert found["commit_operations_count"] == found["commit_operations_sum"] == 6
        assert found["streams"] == 3


async def test_operations_that_share_a_commit_are_all_counted(remote: RemoteStore) -> None:
    async with Engine(remote) as engine:
        await engine.create("a")
        remote.committing.shut()
        first = asyncio.create_task(engine.append("a", b"x"))
        await remote.committing.reached.wait()
        others = [asyncio.create_task(engine.append("a", b"x")) for _ in range(7)]
        await asyncio.sleep(0)
        remote.committing.open()
        await asyncio.gather(first, *others)
        found = scrape(engine)
        assert found.of("commits_total", outcome="applied") == 3
        assert found["commit_operations_sum"] == 9


async def test_a_lifetime_that_ended_is_counted_once(memory: MemoryStore, clock: Any) -> None:
    async with Engine(memory) as engine:
        for name in ("a", "b"):
            await engine.create(name, ttl=10)
        await engine.delete("a")
        clock.advance(60)
        await engine.create("b")
        await engine.sweep()
        await engine.sweep()
        assert scrape(engine)["expired_streams_total"] == 1


class Counting:
    """A subscriber that counts its notifications."""

    def __init__(self) -> None:
        self.notified = 0

    def notify(self, _notification: Notification) -> None:
        self.notified += 1


@pytest.mark.parametrize("subscribers", [1, FEW, SLICE + 10, 3 * SLICE])
async def test_the_lag_of_every_notification_is_counted(subscribers: int) -> None:
    meter = EngineMeter()
    fanout = Fanout(10_000, meter)
    readers = [Counting() for _ in range(subscribers)]
    for reader in readers:
        fanout.subscribe("a", reader)
    for tail in (1, 2, 3):
        fanout.publish([Change("a", "i", tail, False, data=b"x")])
    while fanout.behind:
        await asyncio.sleep(0)
    assert sum(meter.lag.counts) == sum(reader.notified for reader in readers)


async def test_a_file_store_counts_groups_syncs_checkpoints_and_its_recovery(
    tmp_path: Path,
) -> None:
    store = FileStore(tmp_path)
    async with Engine(store) as engine:
        await engine.create("a", content_type="text/plain")
        await asyncio.gather(*(engine.append("a", "x") for _ in range(10)))
        await store.checkpoint()
        found = scrape(engine)
        assert found["batch_commits_sum"] == found.of("commits_total", outcome="applied")
        assert found["fsync_seconds_count"] >= found["batch_commits_count"] > 0
        assert found["journal_written_bytes_total"] > 0
        assert found["journal_bytes"] > 0
        assert found["checkpoint_seconds_count"] == 1
        assert found["recovery_seconds"] > 0
        assert found["streams"] == 1
    assert scrape(engine)["journal_bytes"] == 0


async def test_a_page_is_made_anew_only_once_in_a_while_so_that_nobody_can_keep_us_busy() -> None:
    now = 0.0
    async with Engine("memory:") as engine:
        page = Exposition([MetricsCollector(engine)], clock=lambda: now)
        content_type, first = page.page()
        await engine.create("a")
        assert page.page()[1] is first
        now += FRESH_SECONDS
        assert Scraped(page.page()[1].decode())["streams"] == 1
        assert content_type.startswith(b"text/plain")


async def test_an_application_registers_the_collector_before_its_engine_is_started() -> None:
    mount = Mount("memory:", Options(), None)
    registry = CollectorRegistry()
    registry.register(MetricsCollector(mount))
    assert registry.get_sample_value("durable_streams_streams") == 0
    async with mount.running():
        await mount.engine.create("a")
        assert registry.get_sample_value("durable_streams_streams") == 1


async def test_metrics_may_be_read_in_another_thread_while_everything_is_counted() -> None:
    async with Engine("memory:") as engine:
        collector = MetricsCollector(engine)
        await engine.create("a")

        def look() -> list[float]:
            return [scrape(collector).of("commits_total", outcome="applied") for _ in range(20)]

        looking = asyncio.create_task(asyncio.to_thread(look))
        while not looking.done():
            await engine.append("a", b"x")
            await asyncio.sleep(0)
        seen = await looking
        assert seen == sorted(seen)
        assert scrape(collector)["commit_operations_count"] == scrape(collector).of(
            "commits_total", outcome="applied"
        )


def test_nothing_of_prometheus_is_imported_by_a_server_without_metrics() -> None:
    import subprocess

    code = (
        "import sys, durable_streams_server, durable_streams_server.cli.command;"
        "print([name for name in sys.modules if name.startswith(('prometheus', 'opentelemetry'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "[]"
