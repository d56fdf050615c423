"""Quotas: how large streams and prefixes may become, exactly and after a restart."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from remote import RemoteStore
from wire import Client

from durable_streams_core.drafts import Growth
from durable_streams_core.entities import Head
from durable_streams_core.errors import ProtocolError
from durable_streams_core.store import Store
from durable_streams_server import Engine, MemoryStore, PrefixQuota, ProducerClaim, StreamQuota
from durable_streams_server.engine import quotas as engine_quotas

Start = Callable[..., Awaitable[Engine]]


@pytest.fixture(params=["memory", "remote", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Store | str:
    """Each kind of store, over the same contents whenever it is opened."""
    if request.param == "file":
        return f"file:{tmp_path}/data"
    memory = MemoryStore()
    return memory if request.param == "memory" else RemoteStore(memory)


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    async with AsyncExitStack() as stack:

        async def started(store: Store | str, *quotas: Any) -> Engine:
            return await stack.enter_async_context(Engine(store, quotas=quotas))

        yield started


async def outcomes(*calls: Awaitable[object]) -> list[str]:
    """How each call ended: its code, or ``done``."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    return ["done" if not isinstance(each, ProtocolError) else each.code for each in results]


async def test_concurrent_appends_never_exceed_a_streams_quota(
    url: Store | str, start: Start
) -> None:
    engine = await start(url, StreamQuota(path="chats/*", max_bytes=95))
    await engine.create("chats/1")
    ended = await outcomes(*(engine.append("chats/1", b"x" * 10) for _ in range(50)))
    assert ended.count("done") == 9
    assert ended.count("stream-full") == 41
    # What fits still goes in, and a refusal has done nothing.
    await engine.append("chats/1", b"12345")
    assert (await engine.head("chats/1")).size == 95
    await engine.close_stream("chats/1")


async def test_concurrent_appends_to_many_streams_never_exceed_a_prefixs_quota(
    url: Store | str, start: Start
) -> None:
    engine = await start(url, PrefixQuota(prefix="users/*", max_bytes=100))
    for user in ("ann", "bob"):
        for number in range(5):
            await engine.create(f"users/{user}/{number}")
    ended = await outcomes(
        *(engine.append(f"users/ann/{n % 5}", b"x" * 10) for n in range(40)),
        *(engine.append(f"users/bob/{n % 5}", b"x" * 10) for n in range(7)),
    )
    assert ended[:40].count("done") == 10
    assert ended[:40].count("prefix-full") == 30
    assert ended[40:] == ["done"] * 7


async def test_streams_below_a_prefix_are_counted(url: Store | str, start: Start) -> None:
    engine = await start(url, PrefixQuota(prefix="users/*", max_streams=3))
    ended = await outcomes(*(engine.create(f"users/ann/{n}") for n in range(10)))
    assert ended.count("done") == 3
    assert ended.count("too-many-streams") == 7
    there = [info.path for info in await engine.list("users/ann/")]
    # To confirm what is there, and to write to it, needs no room.
    assert not (await engine.create(there[0])).created
    await engine.append(there[0], b"x")
    await engine.delete(there[0])
    await engine.create("users/ann/again")
    assert await outcomes(engine.create("users/ann/more")) == ["too-many-streams"]
    await engine.create("users/bob/1")
    await engine.create("users/ann")


async def test_what_was_stored_before_counts_after_a_restart(
    url: Store | str, start: Start
) -> None:
    limits = (
        StreamQuota(path="**", max_bytes=60),
        PrefixQuota(prefix="", max_bytes=100),
        PrefixQuota(prefix="a", max_streams=2),
    )
    async with Engine(url, quotas=limits) as engine:
        await engine.create("a/1", data=b"x" * 50)
        await engine.create("a/2", data=b"x" * 40)
    again = await start(url, *limits)
    ended = await outcomes(
        again.append("a/1", b"x" * 11), again.append("a/2", b"x" * 11), again.create("a/3")
    )
    assert ended == ["stream-full", "prefix-full", "too-many-streams"]
    await again.append("a/1", b"x" * 10)
    await again.delete("a/2")
    await again.create("a/3", data=b"x" * 40)
    assert await outcomes(again.append("a/3", b"x")) == ["prefix-full"]


async def test_a_producers_duplicate_needs_no_room(url: Store | str, start: Start) -> None:
    engine = await start(url, StreamQuota(path="**", max_bytes=10))
    await engine.create("a")
    await engine.append("a", b"x" * 10, producer=ProducerClaim("p", 0, 0))
    again = await engine.append("a", b"x" * 10, producer=ProducerClaim("p", 0, 0))
    assert again.duplicate
    full = engine.append("a", b"y", producer=ProducerClaim("p", 0, 1))
    assert await outcomes(full) == ["stream-full"]
    # The refusal did not count as the producer's batch.
    await engine.set_quotas([])
    assert not (await engine.append("a", b"y", producer=ProducerClaim("p", 0, 1))).duplicate


async def test_of_quotas_given_at_the_same_time_the_last_are_kept_and_the_first_count_no_more(
    remote: RemoteStore,
) -> None:
    async with Engine(remote) as engine:
        await engine.set_quotas([PrefixQuota(prefix="", max_streams=9)])
        before = asyncio.all_tasks()
        await asyncio.gather(
            engine.set_quotas([PrefixQuota(prefix="", max_streams=8)]),
            engine.set_quotas([PrefixQuota(prefix="", max_streams=1)]),
        )
        assert len(asyncio.all_tasks()) == len(before)
        await engine.create("a")
        assert await outcomes(engine.create("b")) == ["too-many-streams"]


async def test_two_quotas_of_one_prefix_take_over_what_was_counted(memory: MemoryStore) -> None:
    bytes_and_streams = [
        PrefixQuota(prefix="a", max_bytes=100),
        PrefixQuota(prefix="a", max_streams=2),
    ]
    before = engine_quotas.Quotas(bytes_and_streams)
    before.add("a/x", Growth(60, 1))
    after = engine_quotas.Quotas(bytes_and_streams[::-1])
    after.adopt(before)
    assert after.totals() == {"a": {"a": Growth(60, 1)}}
    after.add("a/y", Growth(40, 1))
    with pytest.raises(ProtocolError) as caught:
        after.check("a/x", Head("i", b""), 1)
    assert caught.value.code == "prefix-full"


async def test_quotas_whose_count_failed_are_counted_when_they_are_given_again(
    memory: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> None:
        raise OSError("a hiccup")

    limits = [PrefixQuota(prefix="a", max_bytes=100)]
    async with Engine(memory) as engine:
        await engine.create("a/x", data=b"x" * 90)
        with monkeypatch.context() as patched:
            patched.setattr(memory, "list", fail)
            with pytest.raises(OSError, match="hiccup"):
                await engine.set_quotas(limits)
        await engine.set_quotas(limits)
        assert await outcomes(engine.append("a/x", b"x" * 11)) == ["prefix-full"]


async def test_a_creation_that_does_not_fit_creates_nothing(url: Store | str, start: Start) -> None:
    engine = await start(url, StreamQuota(path="**", max_bytes=10))
    assert await outcomes(engine.create("a", data=b"x" * 11)) == ["stream-full"]
    assert await engine.list() == []


async def test_forks_count_what_they_store_themselves(url: Store | str, start: Start) -> None:
    engine = await start(url, PrefixQuota(prefix="", max_bytes=100, max_streams=2))
    await engine.create("a", data=b"x" * 60)
    await engine.fork("b", "a")
    assert await outcomes(engine.fork("c", "a")) == ["too-many-streams"]
    await engine.append("b", b"y" * 40)
    assert await outcomes(engine.append("b", b"y")) == ["prefix-full"]
    # The source's bytes stay while the fork reads them.
    await engine.delete("a")
    assert await outcomes(engine.append("b", b"y")) == ["prefix-full"]
    await engine.delete("b")
    async with asyncio.timeout(engine_quotas.RECOUNT_SECONDS / 2):
        while await outcomes(engine.create("d", data=b"z" * 100)) != ["done"]:
            await asyncio.sleep(0.01)


async def test_quotas_change_while_the_engine_runs(url: Store | str, start: Start) -> None:
    engine = await start(url)
    await engine.create("a/1", data=b"x" * 50)
    await engine.set_quotas([PrefixQuota(prefix="a", max_bytes=55)])
    assert await outcomes(engine.append("a/1", b"x" * 6)) == ["prefix-full"]
    await engine.set_quotas([PrefixQuota(prefix="a", max_bytes=60)])
    await engine.append("a/1", b"x" * 10)
    await engine.set_quotas([PrefixQuota(prefix="a", max_bytes=5)])
    assert await outcomes(engine.append("a/1", b"x")) == ["prefix-full"]
    assert (await engine.read("a/1")).data == b"x" * 60
    await engine.set_quotas([])
    await engine.append("a/1", b"x" * 100)


async def test_a_count_under_way_misses_no_append(start: Start, monkeypatch: Any) -> None:
    monkeypatch.setattr(engine_quotas, "PAGE", 2)
    engine = await start("memory:")
    for number in range(9):
        await engine.create(f"a/{number}", data=b"x" * 10)
    counting = asyncio.create_task(engine.set_quotas([PrefixQuota(prefix="a", max_bytes=130)]))
    written = 90
    while not counting.done():
        for number in (0, 8):
            if written < 110:
                await engine.append(f"a/{number}", b"x")
                written += 1
        await asyncio.sleep(0)
    fits = engine.append("a/4", b"x" * (130 - written))
    assert await outcomes(fits, engine.append("a/5", b"x")) == ["done", "prefix-full"]


async def test_what_other_processes_wrote_is_counted_again(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_quotas, "RECOUNT_SECONDS", 0.01)
    memory = MemoryStore()
    here = await start(RemoteStore(memory), PrefixQuota(prefix="a", max_bytes=100))
    there = await start(RemoteStore(memory))
    await here.create("a/1", data=b"x" * 50)
    await there.create("a/2", data=b"x" * 50)
    async with asyncio.timeout(60):
        while await outcomes(here.append("a/1", b"x")) == ["done"]:
            await asyncio.sleep(0.01)
    await there.delete("a/2")
    async with asyncio.timeout(60):
        while await outcomes(here.append("a/1", b"x")) != ["done"]:
            await asyncio.sleep(0.01)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["create", "append", "delete", "fork"]),
        st.sampled_from(["p/a", "p/b", "p/c"]),
        st.integers(1, 40),
    ),
    max_size=12,
)


@given(STEPS)
async def test_totals_are_those_of_the_store_whatever_was_done(steps: Any) -> None:
    memory = MemoryStore()
    async with Engine(
        memory, quotas=[PrefixQuota(prefix="p", max_bytes=60, max_streams=2)]
    ) as engine:
        for what, path, size in steps:
            if what == "create":
                await outcomes(engine.create(path, data=b"x" * size))
            elif what == "append":
                await outcomes(engine.append(path, b"x" * size))
            elif what == "fork":
                await outcomes(engine.fork(path, "p/a"))
            else:
                await outcomes(engine.delete(path))
            rows = await memory.list("p/", "", 100)
            stored = sum(head.tail - head.start for _, head in rows)
            assert stored <= 60
            assert len(rows) <= 2
        fits = await outcomes(engine.create("p/last", data=b"x" * (60 - stored))) if steps else []
        if steps and len(rows) < 2 and stored < 60:
            assert fits == ["done"]


async def test_a_full_stream_says_so_over_http(serve: Callable[..., Awaitable[Client]]) -> None:
    client = await serve()
    await client.engine.set_quotas([StreamQuota(path="**", max_bytes=5)])
    await client.put("a")
    assert (await client.post("a", b"12345")).status == 204
    answer = await client.post("a", b"6")
    assert (answer.status, answer.code) == (507, "stream-full")
    assert "retry-after" not in answer
    assert (await client.get("a")).body == b"12345"


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda: StreamQuota(path="a//b", max_bytes=1), "empty"),
        (lambda: StreamQuota(path="a", max_bytes=0), "positive"),
        (lambda: StreamQuota(path="a", max_bytes=True), "positive"),
        (lambda: PrefixQuota(prefix="a/**", max_bytes=1), "fixed number"),
        (lambda: PrefixQuota(prefix="a"), "needs max_bytes"),
        (lambda: PrefixQuota(prefix="a", max_streams=-1), "positive"),
        (lambda: PrefixQuota(prefix="/a", max_streams=1), "slash"),
    ],
)
def test_what_is_not_a_quota_is_refused(make: Callable[[], object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()
