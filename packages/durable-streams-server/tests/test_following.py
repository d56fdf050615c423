"""Following a stream in the process: everything once, in order, until it is closed or gone."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from remote import RemoteStore

from durable_streams_core.entities import Slice
from durable_streams_core.offsets import later_timeline
from durable_streams_core.store import Store
from durable_streams_server import (
    NOW,
    Conflict,
    Engine,
    MemoryStore,
    NotFound,
    OffsetGone,
    ProtocolError,
    Unavailable,
)

JSON = "application/json"


async def collected(streams: Any, path: Any, offset: Any = "-1") -> Any:
    return [item async for batch in streams.follow(path, offset) for item in batch]


async def until(condition: Any) -> None:
    """Let the loop turn until something holds; a hang is caught by the test's time limit."""
    while not condition():
        await asyncio.sleep(0)


async def test_a_follower_gets_what_was_there_and_what_comes(streams: Engine) -> None:
    await streams.create("a", content_type=JSON)
    await streams.append("a", 1)
    seen = []
    waiting = asyncio.Event()

    async def follow() -> None:
        async for batch in streams.follow("a"):
            seen.extend(batch)
            waiting.set()

    task = asyncio.create_task(follow())
    await waiting.wait()
    await streams.append("a", 2)
    await streams.append("a", 3)
    await streams.close_stream("a")
    await task
    assert seen == [1, 2, 3]


@pytest.mark.parametrize("content_type, joined", [("text/plain", b"12"), (JSON, b"[1,\n2]")])
async def test_a_read_is_up_to_date_though_an_append_came_between_look_and_read(
    remote: RemoteStore, engines: Callable[..., Any], content_type: str, joined: bytes
) -> None:
    """With an append before each read, a reader that ends where it looked never catches up."""
    streams = await engines(remote)
    await streams.create("a", content_type=content_type, data=b"1")
    remote.reading.shut()
    reading = asyncio.create_task(streams.read("a"))
    await remote.reading.reached.wait()
    await streams.append("a", b"2")
    remote.reading.open()
    batch = await reading
    assert (batch.data, batch.up_to_date) == (joined, True)


async def test_a_read_of_a_stream_whose_data_is_lost_between_look_and_read_is_empty(
    remote: RemoteStore, engines: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = await engines(remote)
    await streams.create("a", data=b"1")

    async def lost(path: str, incarnation: str, start: int, limit: int) -> Slice:
        facts = await remote.inner.load(path)
        assert facts is not None
        emptied = msgspec.structs.replace(facts.head, tail=0)
        later = later_timeline(emptied.timeline, emptied.timeline)
        return Slice(emptied.moved_on(later), b"")

    monkeypatch.setattr(remote, "read", lost)
    batch = await streams.read("a")
    assert (batch.data, batch.up_to_date) == (b"", True)


async def test_the_last_batch_of_a_closed_stream_says_so(streams: Engine) -> None:
    await streams.create("a", data="x", closed=True)
    batches = [batch async for batch in streams.follow("a")]
    assert [(batch.data, batch.closed) for batch in batches] == [(b"x", True)]
    at_end = [batch async for batch in streams.follow("a", batches[-1].offset)]
    assert [(batch.data, batch.closed) for batch in at_end] == [(b"", True)]


async def test_following_from_now_skips_what_was_there(streams: Engine) -> None:
    await streams.create("a", data="old")
    task = asyncio.create_task(collected(streams, "a", NOW))
    await until(lambda: len(streams.fanout))
    for _ in range(20):
        await asyncio.sleep(0)
    await streams.append("a", "new", close=True)
    assert await task == [b"new"]


async def test_a_saved_offset_goes_on_where_the_batch_ended(
    engines: Callable[..., object], memory: MemoryStore
) -> None:
    streams = await engines(memory, page_bytes=4)
    await streams.create("a", data="abcdefgh", closed=True)
    seen = []
    async for batch in streams.follow("a"):
        seen.append(batch.data)
        offset = batch.offset
        break
    assert seen == [b"abcd"]
    assert await collected(streams, "a", offset) == [b"efgh"]


async def test_a_follower_learns_that_its_stream_was_deleted(streams: Engine) -> None:
    await streams.create("a")
    task = asyncio.create_task(collected(streams, "a"))
    await until(lambda: len(streams.fanout))
    await streams.delete("a")
    with pytest.raises(NotFound):
        await task


@pytest.mark.parametrize("data", ["", "longer than the old one was"])
async def test_a_follower_is_not_led_on_into_a_stream_made_anew_at_its_path(
    streams: Engine, data: str
) -> None:
    await streams.create("a", data="0123456789")
    seen = []
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def follow() -> None:
        async for batch in streams.follow("a"):
            seen.append(batch.data)
            begun.set()
            await go_on.wait()

    task = asyncio.create_task(follow())
    await begun.wait()
    await streams.delete("a")
    await streams.create("a", data=data or None)
    go_on.set()
    with pytest.raises(OffsetGone):
        await task
    assert seen == [b"0123456789"]


async def test_an_append_between_looking_and_waiting_wakes_the_follower(
    engines: Callable[..., object], memory: MemoryStore
) -> None:
    store = RemoteStore(memory)
    streams = await engines(store)
    await streams.create("a")
    store.loading.shut()
    task = asyncio.create_task(collected(streams, "a"))
    await store.loading.reached.wait()
    # Another process appends while the follower's first look is on its way.
    other = await engines(memory)
    await other.append("a", "x", close=True)
    store.loading.open()
    assert await task == [b"x"]


async def test_followers_that_leave_are_not_kept(streams: Engine) -> None:
    await streams.create("a")
    task = asyncio.create_task(collected(streams, "a"))
    await until(lambda: len(streams.fanout))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(streams.fanout) == 0


async def test_followers_of_one_stream_are_bounded(
    engines: Callable[..., object], store: Store
) -> None:
    streams = await engines(store, max_waiting_readers=1)
    await streams.create("a")
    first = asyncio.create_task(collected(streams, "a"))
    await until(lambda: len(streams.fanout))
    with pytest.raises(ProtocolError) as caught:
        await collected(streams, "a")
    assert (caught.value.status, caught.value.code) == (429, "too-many-readers")
    await streams.close_stream("a")
    assert await first == []


async def test_a_store_that_may_have_missed_something_makes_everybody_look(
    engines: Callable[..., object], memory: MemoryStore
) -> None:
    store = RemoteStore(memory)
    deaf: list = []
    store.watch = lambda watcher: deaf.append(watcher) or (lambda: None)  # type: ignore[method-assign]
    streams = await engines(store)
    await streams.create("a")
    task = asyncio.create_task(collected(streams, "a"))
    await until(lambda: len(streams.fanout))
    await streams.append("a", "x", close=True)
    deaf[0](None)
    assert await task == [b"x"]


async def test_two_hundred_appenders_lose_nothing_and_double_nothing(streams: Engine) -> None:
    """Offsets are unique and strictly rising under any concurrency, and readers see each once."""
    await streams.create("a", content_type=JSON)
    reader = asyncio.create_task(collected(streams, "a"))
    offsets: dict[int, str] = {}

    async def appender(number: Any) -> None:
        offsets[number] = (await streams.append("a", number)).offset

    await asyncio.gather(*(appender(number) for number in range(200)))
    await streams.close_stream("a")
    seen = await reader
    assert sorted(seen) == list(range(200))
    assert len(set(offsets.values())) == 200
    assert sorted(offsets, key=offsets.__getitem__) == seen


async def test_appenders_of_two_processes_get_offsets_that_never_meet(
    engines: Callable[..., object], memory: MemoryStore
) -> None:
    first = await engines(RemoteStore(memory))
    second = await engines(RemoteStore(memory))
    await first.create("a", content_type=JSON)
    reader = asyncio.create_task(collected(first, "a"))
    results = await asyncio.gather(
        *((first, second)[number % 2].append("a", number) for number in range(200))
    )
    await second.close_stream("a")
    seen = await reader
    assert sorted(seen) == list(range(200))
    order = sorted(range(200), key=lambda number: results[number].offset)
    assert order == seen
    assert len({result.offset for result in results}) == 200


async def test_narrow_guards_let_the_appends_of_two_processes_pass(
    engines: Callable[..., object], memory: MemoryStore
) -> None:
    """Plain appends depend on nobody else's: none is sent twice."""
    stores = [RemoteStore(memory), RemoteStore(memory)]
    first, second = [await engines(store) for store in stores]
    await first.create("a")
    await asyncio.gather(*((first, second)[n % 2].append("a", b"x") for n in range(100)))
    assert sum(len(store.sent) for store in stores) == len(
        {commit.id for store in stores for commit in store.sent}
    )
    with pytest.raises(Conflict):
        await second.create("a", content_type=JSON)


async def test_a_racing_close_is_lost_to_nobody(
    engines: Callable[..., object], memory: MemoryStore
) -> None:
    first = await engines(RemoteStore(memory))
    second = await engines(RemoteStore(memory))
    for number in range(20):
        path = f"race/{number}"
        await first.create(path)
        await first.append(path, "1")
        await second.append(path, "2")
        appended, closed = await asyncio.gather(
            first.append(path, "3"), second.close_stream(path), return_exceptions=True
        )
        batch = await second.read(path)
        assert batch.closed
        assert not isinstance(closed, BaseException)
        assert batch.data == (b"12" if isinstance(appended, Conflict) else b"123")


async def test_following_a_stopped_engine_is_refused(store: Store) -> None:
    engine = Engine(store)
    async with engine:
        await engine.create("a", data="x")
    with pytest.raises(Unavailable) as caught:
        await collected(engine, "a")
    assert caught.value.code == "not-started"


async def test_a_follower_that_waits_learns_that_the_engine_stops(store: Store) -> None:
    async with Engine(store) as engine:
        await engine.create("a", data="x")
        follower = engine.follow("a")
        assert (await anext(follower)).data == b"x"
        waiting = asyncio.create_task(anext(follower))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not waiting.done()
    with pytest.raises(Unavailable) as caught:
        await waiting
    assert caught.value.code == "not-started"
