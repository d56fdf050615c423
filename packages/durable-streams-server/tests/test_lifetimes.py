"""Sliding and fixed lifetimes: renewed by reads and writes with few stores, ended by the sweep."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from remote import RemoteStore

from durable_streams_core.entities import Refused
from durable_streams_server import Engine, MemoryStore, NotFound
from durable_streams_server.engine.upkeep import LogPace


async def test_an_idle_stream_ends(streams: Engine, clock: Any) -> None:
    await streams.create("a", ttl=10, data="x")
    clock.advance(12)
    for call in (streams.read("a"), streams.head("a"), streams.append("a", "x")):
        with pytest.raises(NotFound):
            await call


async def test_a_life_lasts_at_least_as_long_as_promised(streams: Engine, clock: Any) -> None:
    await streams.create("a", ttl=10, data="x")
    clock.advance(9.999)
    assert (await streams.read("a")).data == b"x"
    clock.advance(9.999)
    assert (await streams.read("a")).data == b"x"


@pytest.mark.parametrize("renew", ["read", "append"])
async def test_reads_and_writes_renew_a_life(streams: Engine, clock: Any, renew: str) -> None:
    await streams.create("a", ttl=10)
    for _ in range(5):
        clock.advance(8)
        if renew == "read":
            await streams.read("a")
        else:
            await streams.append("a", "x")
    assert await streams.head("a")


async def test_a_lifetime_given_as_text_is_a_number_of_seconds(streams: Engine, clock: Any) -> None:
    """As it comes from a form or the environment."""
    assert (await streams.create("a", ttl="10")).ttl == 10
    clock.advance(9)
    assert (await streams.read("a")).data == b""


async def test_head_renews_nothing(streams: Engine, clock: Any) -> None:
    await streams.create("a", ttl=10)
    clock.advance(8)
    await streams.head("a")
    clock.advance(4)
    with pytest.raises(NotFound):
        await streams.head("a")


async def test_a_fixed_end_is_not_moved_by_reading(streams: Engine, clock: Any) -> None:
    await streams.create("a", expires_at="2027-01-15T08:00:10Z")
    assert clock.now == 1_800_000_000_000
    clock.advance(9)
    await streams.read("a")
    await streams.append("a", "x")
    clock.advance(2)
    with pytest.raises(NotFound):
        await streams.head("a")


async def test_a_life_of_no_length_ends_at_once(streams: Engine) -> None:
    await streams.create("a", ttl=0)
    with pytest.raises(NotFound):
        await streams.head("a")


async def test_a_busy_reader_costs_few_writes(
    engines: Callable[..., object], remote: RemoteStore, clock: Any
) -> None:
    streams = await engines(remote)
    await streams.create("a", ttl=1000)
    before = len(remote.sent)
    for _ in range(1000):
        clock.advance(1)
        await streams.read("a")
    assert len(remote.sent) - before <= 11


async def test_the_sweep_ends_lives_that_nobody_looks_at(
    engines: Callable[..., object], memory: MemoryStore, clock: Any
) -> None:
    streams = await engines(memory)
    for number in range(450):
        await streams.create(f"a/{number}", ttl=10)
    await streams.create("b", ttl=100)
    clock.advance(12)
    await streams.sweep()
    assert [path for path, _ in await memory.list("", "", 1000)] == ["b"]
    assert await memory.due(clock.now, 10) == []


async def test_the_sweep_spares_a_life_that_was_renewed_meanwhile(
    engines: Callable[..., object], memory: MemoryStore, clock: Any
) -> None:
    streams = await engines(memory)
    await streams.create("a", ttl=10)
    clock.advance(9)
    await streams.read("a")
    clock.advance(3)
    await streams.sweep()
    assert await streams.head("a")


async def test_an_expired_path_can_be_created_again_before_any_sweep(
    streams: Engine, clock: Any
) -> None:
    await streams.create("a", ttl=10, data="old")
    clock.advance(12)
    created = await streams.create("a", data="new")
    assert created.created
    assert (await streams.read("a")).data == b"new"
    clock.advance(1000)
    assert (await streams.read("a")).data == b"new"


async def test_one_clean_up_that_fails_does_not_keep_the_sweep_from_the_rest(
    engines: Callable[..., object],
    remote: RemoteStore,
    clock: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    streams = await engines(remote)
    await streams.create("a", ttl=10)
    await streams.create("b", ttl=10)
    clock.advance(12)
    full = Refused("storage-full", "No space.")
    remote.fate = lambda commit: full if commit.path == "a" else next_fate(commit)
    next_fate = type(remote)(remote.inner).fate
    await streams.sweep()
    assert [path for path, _ in await remote.list("", "", 10)] == ["a"]
    assert "left to the next sweep" in caplog.text


async def test_a_reader_gets_the_data_though_the_renewal_cannot_be_stored(
    engines: Callable[..., object],
    remote: RemoteStore,
    clock: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:
    streams = await engines(remote)
    await streams.create("a", ttl=10, data="x")
    clock.advance(5)
    remote.fate = lambda _: Refused("storage-full", "No space.")
    assert (await streams.read("a")).data == b"x"
    assert "renewing" in caplog.text


async def test_a_follower_keeps_a_stream_alive_whose_life_is_shorter_than_its_wait(
    engines: Callable[..., object], memory: MemoryStore, clock: Any
) -> None:
    streams = await engines(memory)
    await streams.create("a", ttl=1)
    renewed = asyncio.Event()
    stop = memory.watch(lambda _: None)
    submit = memory.submit

    def submitted(batch: Any, done: Any) -> None:
        submit(batch, done)
        if any(commit.delta.deadline for commit in batch):
            renewed.set()

    memory.submit = submitted

    async def follow() -> None:
        async for _ in streams.follow("a"):
            pass

    task = asyncio.create_task(follow())
    await asyncio.sleep(0)
    clock.advance(0.9)
    await renewed.wait()
    clock.advance(0.9)
    assert await streams.head("a")
    await streams.close_stream("a")
    await task
    stop()


async def test_a_follower_learns_that_its_stream_expired(
    engines: Callable[..., object], memory: MemoryStore, clock: Any
) -> None:
    streams = await engines(memory)
    await streams.create("a", expires_at="2027-01-15T08:00:10Z")

    async def follow() -> None:
        async for _ in streams.follow("a"):
            pass

    task = asyncio.create_task(follow())
    while not len(streams.fanout):
        await asyncio.sleep(0)
    clock.advance(11)
    await streams.sweep()
    with pytest.raises(NotFound):
        await task


async def test_the_engine_sweeps_by_itself(
    memory: MemoryStore, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durable_streams_server.engine.upkeep.SWEEP_SECONDS", 0.001)
    swept = asyncio.Event()
    memory.watch(lambda changes: swept.set() if changes and changes[0].gone else None)
    async with Engine(memory) as streams:
        await streams.create("a", ttl=10)
        clock.advance(12)
        await swept.wait()
    assert await memory.list("", "", 10) == []


async def test_a_sweep_that_fails_is_tried_again(
    memory: MemoryStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("durable_streams_server.engine.upkeep.SWEEP_SECONDS", 0.001)
    store = RemoteStore(memory)
    again = asyncio.Event()
    calls = 0

    async def due(_before: Any, _limit: Any) -> None:
        nonlocal calls
        calls += 1
        if calls > 1:
            again.set()
        raise OSError("the network is down")

    store.due = due  # type: ignore[method-assign]
    async with Engine(store):
        await again.wait()
    assert "upkeep failed" in caplog.text


def test_a_sweep_that_fails_every_second_is_logged_at_growing_intervals() -> None:
    pace = LogPace()
    assert [second for second in range(300) if pace.is_due(second)] == [0, 5, 20, 65, 200]
    # After a quiet minute it is reported again.
    assert pace.is_due(361)
    assert not pace.is_due(362)
