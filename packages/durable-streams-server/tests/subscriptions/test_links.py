"""Which streams a subscription links, and from where they count (§6.1, §6.2, §6.4)."""

import asyncio
import tracemalloc
from typing import Any

import pytest
from remote import RemoteStore

from durable_streams_core.store import Store
from durable_streams_server import MemoryStore
from durable_streams_server.subscriptions.index import REMEMBERED_BYTES, Index


async def test_what_is_there_is_linked_at_its_tail_and_wakes_nobody(
    node: Any, receiver: Any
) -> None:
    old = await node.engine.create("events/old", data=b"history")
    other = await node.engine.create("other/old", data=b"history")
    await node.webhook("s", receiver.url, streams=["manual/none", "other/old"])
    assert await node.links("s") == {
        "events/old": ("glob", old.offset),
        "manual/none": ("explicit", "-1"),
        "other/old": ("explicit", other.offset),
    }
    await node.engine.append("events/old", b"new")
    webhook = await receiver.next()
    assert webhook.stream("events/old")["acked_offset"] == old.offset


async def test_a_stream_that_comes_later_is_linked_before_its_first_append(
    node: Any, receiver: Any
) -> None:
    await node.webhook("s", receiver.url, pattern="a/**")
    await node.engine.create("a/b/c", data=b"first")
    webhook = await receiver.next()
    assert webhook.stream("a/b/c")["acked_offset"] == "-1"


async def test_an_empty_stream_is_no_work(node: Any, receiver: Any) -> None:
    await node.webhook("s", receiver.url)
    await node.engine.create("events/empty")
    await node.engine.create("events/full", data=b"x")
    webhook = await receiver.next()
    assert [stream["path"] for stream in webhook.body["streams"]] == ["events/full"]


async def test_appends_while_a_subscription_is_made_are_not_lost(
    store: Store, node: Any, receiver: Any
) -> None:
    """Listed before the append and made known after it: the look afterwards finds it."""
    await node.engine.create("events/a", data=b"x")
    making = asyncio.create_task(node.webhook("s", receiver.url))
    appended = await node.engine.append("events/a", b"y")
    await making
    cursor = (await node.links("s"))["events/a"][1]
    if cursor != appended.offset:
        await receiver.next()
        await node.until_acked("s", "events/a", appended.offset)


async def test_more_streams_than_fit_one_commit_are_all_linked(node: Any, receiver: Any) -> None:
    for n in range(1234):
        await node.engine.create(f"events/{n:04}", data=b"x")
    described = await node.webhook("s", receiver.url)
    assert len(described["streams"]) == 1234
    assert {s["acked_offset"][-1] for s in described["streams"]} == {"1"}
    await node.engine.append("events/1000", b"y")
    assert [s["path"] for s in (await receiver.next()).body["streams"]] == ["events/1000"]


async def test_a_creation_that_stopped_half_way_is_finished_by_the_next(
    nodes: Any, remote: RemoteStore, memory: MemoryStore
) -> None:
    node = await nodes(remote)
    for n in range(600):
        await node.engine.create(f"events/{n:04}", data=b"x")
    sent = len(remote.sent)
    remote.before_commit = lambda commit: _fail_after(remote, sent + 3)
    with pytest.raises(Exception, match="store"):
        await node.pull("s")
    remote.before_commit = None
    assert (await memory.load("__ds/subscriptions/s")).head.state == "linking"
    assert len((await node.pull("s"))["streams"]) == 600


async def _fail_after(remote: Any, count: Any) -> None:
    if len(remote.sent) > count:
        raise OSError("the store is gone")


async def test_explicit_goes_before_glob_and_leaves_it_behind(node: Any, receiver: Any) -> None:
    await node.webhook("s", receiver.url)
    created = await node.engine.create("events/a", data=b"x")
    await receiver.next()
    await node.until_acked("s", "events/a", created.offset)
    for _ in range(2):
        await node.subscriptions.add_streams("s", ["events/a"])
        assert (await node.links("s"))["events/a"] == ("explicit", created.offset)
    for _ in range(2):
        await node.subscriptions.remove_stream("s", "events/a")
        assert (await node.links("s"))["events/a"] == ("glob", created.offset)


async def test_added_streams_wake_and_removed_ones_do_not(node: Any, receiver: Any) -> None:
    await node.webhook("s", receiver.url)
    for path in ("x", "y"):
        await node.engine.create(path, data=b"before")
    await node.subscriptions.add_streams("s", ["x", "y"])
    await node.engine.append("x", b"after")
    assert [s["path"] for s in (await receiver.next()).body["streams"]] == ["x"]
    await node.subscriptions.remove_stream("s", "x")
    await node.engine.append("x", b"unheard")
    await node.engine.append("y", b"after")
    assert [s["path"] for s in (await receiver.next()).body["streams"]] == ["y"]
    assert set(await node.links("s")) == {"y"}


async def test_a_stream_deleted_and_made_again_begins_anew(node: Any, receiver: Any) -> None:
    await node.webhook("s", receiver.url)
    first = await node.engine.create("events/a", data=b"old bytes")
    await receiver.next()
    await node.until_acked("s", "events/a", first.offset)
    await node.engine.delete("events/a")
    await node.engine.create("events/a", data=b"new")
    webhook = await receiver.next()
    assert webhook.stream("events/a")["acked_offset"] == "-1"


async def test_cursors_of_streams_that_are_gone_are_not_kept(node: Any, receiver: Any) -> None:
    await node.webhook("s", receiver.url)
    created = await node.engine.create("events/a", data=b"x")
    await receiver.next()
    await node.until_acked("s", "events/a", created.offset)
    await node.engine.delete("events/a")

    async def forgotten() -> Any:
        facts = await node.engine.store.load("__ds/subscriptions/s")
        return not facts.counts.get("c")

    await node.until(forgotten)
    assert await node.links("s") == {}


async def test_a_wake_tells_of_so_many_streams_and_the_next_of_the_rest(
    node: Any, receiver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durable_streams_server.subscriptions.pending.SNAPSHOT", 3)
    monkeypatch.setattr("durable_streams_server.subscriptions.state.MAX_CANDIDATES", 5)
    monkeypatch.setattr("durable_streams_server.subscriptions.state.MAX_CANDIDATES", 5)
    await node.webhook("s", receiver.url, pattern="events/**")
    for n in range(20):
        await node.engine.create(f"events/{n}", data=b"x")
    seen = set()
    while len(seen) < 20:
        webhook = await receiver.next()
        assert len(webhook.body["streams"]) <= 3
        seen.update(stream["path"] for stream in webhook.body["streams"])


async def test_what_a_description_leaves_out_wakes_all_the_same(
    node: Any, receiver: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durable_streams_server.subscriptions.service.MAX_LISTED", 3)
    for n in range(5):
        last = await node.engine.create(f"events/{n}", data=b"x")
    described = await node.webhook("s", receiver.url)
    assert [stream["path"] for stream in described["streams"]] == [f"events/{n}" for n in range(3)]
    await node.engine.append("events/4", b"y")
    webhook = await receiver.next()
    assert webhook.stream("events/4")["acked_offset"] == last.offset


def test_the_index_remembers_only_what_holds() -> None:
    index = Index()
    index.add_glob(("a", "*"), 1)
    index.add_stream("a/x", 2)
    assert set(index.find("a/x")) == {1, 2}
    index.remove_stream("a/x", 2)
    index.remove_stream("a/x", 2)
    index.remove_stream("never", 2)
    assert index.find("a/x") == (1,)
    index.add_glob(("**",), 3)
    assert set(index.find("a/x")) == {1, 3}
    index.remove_glob(("a", "*"), 1)
    assert index.find("a/x") == (3,)
    assert index.find("__ds/subscriptions/s") == ()


def test_the_index_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("durable_streams_server.subscriptions.index.REMEMBERED_BYTES", 700)
    index = Index()
    index.add_glob(("*",), 1)
    for n in range(10):
        assert index.find(str(n)) == (1,)
    assert len(index.found) <= 3


def test_what_is_remembered_of_streams_is_bounded_in_bytes() -> None:
    index: Index[int] = Index()
    for item in range(100):
        index.add_glob(("**",), item)
    tracemalloc.start()
    try:
        for number in range(30_000):
            assert len(index.find(f"{number}" + "x" * 900)) == 100
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 2 * REMEMBERED_BYTES
