"""Forks: what they inherit, how they are made in four steps, and how they let go (§4.2)."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from remote import Fate, RemoteStore
from tokens import NOT_REACHED, at, position

from durable_streams_core.entities import DELETED, FORKING, LIVE, Commit, Delta, Guard, Refused
from durable_streams_core.store import Store
from durable_streams_server import (
    NOW,
    START,
    Conflict,
    Engine,
    Gone,
    InvalidRequest,
    MemoryStore,
    NotFound,
    Unavailable,
)

JSON = "application/json"


async def paths(store: Any) -> Any:
    return [path for path, _ in await store.list("", "", 1000)]


# The data of a fork.


async def test_a_fork_begins_with_its_sources_data_and_goes_its_own_way(streams: Engine) -> None:
    await streams.create("source", content_type="text/plain", data="shared ")
    fork = await streams.fork("fork", "source", data="and own")
    await streams.append("source", "source only")
    await streams.append("fork", "!")
    batch = await streams.read("fork")
    assert batch.data == b"shared and own!"
    assert position(batch.offset) == 15
    assert (fork.content_type, position(fork.offset)) == ("text/plain", 14)


async def test_a_fork_may_leave_its_source_anywhere(streams: Engine) -> None:
    source = await streams.create("source", data="0123456789")
    fourth = at(source.offset, 4)
    cases = {START: b"", NOW: b"0123456789", fourth: b"0123"}
    for number, (offset, data) in enumerate(cases.items()):
        await streams.fork(f"fork/{number}", "source", offset=offset)
        assert (await streams.read(f"fork/{number}")).data == data
    await streams.fork("fork/sub", "source", offset=fourth, sub_offset=2)
    assert (await streams.read("fork/sub")).data == b"012345"


async def test_a_json_sub_offset_counts_messages(
    streams: Engine, engines: Callable[..., object], memory: MemoryStore
) -> None:
    await streams.create("source", content_type=JSON, data=b"[1,[2],3]")
    first = await streams.read("source", limit=4)
    await streams.fork("fork", "source", offset=first.offset, sub_offset=1)
    await streams.append("fork", {"own": True})
    assert list(await streams.read("fork")) == [1, [2], {"own": True}]


@pytest.mark.parametrize(
    "asked, code",
    [
        ({"offset": NOT_REACHED}, "offset-past-tail"),
        ({"offset": "rubbish"}, "invalid-offset"),
        ({"offset": START, "sub_offset": 4}, "sub-offset-past-data"),
        ({"data": b"{"}, "invalid-json"),
    ],
)
async def test_a_fork_that_cannot_be_made_leaves_no_reference(
    streams: Engine, store: Store, asked: Any, code: str
) -> None:
    await streams.create("source", content_type=JSON, data=b"[1,2,3]")
    with pytest.raises(InvalidRequest) as caught:
        await streams.fork("fork", "source", **asked)
    assert caught.value.code == code
    await streams.delete("source")
    assert await paths(store) == []


async def test_a_fork_inside_a_message_is_refused(streams: Engine) -> None:
    source = await streams.create("source", content_type=JSON, data="[1,2,3]")
    with pytest.raises(InvalidRequest) as caught:
        await streams.fork("fork", "source", offset=at(source.offset, 1))
    assert caught.value.code == "offset-inside-message"


async def test_a_sub_offset_past_the_bytes_is_refused(streams: Engine) -> None:
    source = await streams.create("source", data="0123")
    with pytest.raises(InvalidRequest) as caught:
        await streams.fork("fork", "source", offset=at(source.offset, 2), sub_offset=3)
    assert caught.value.code == "sub-offset-past-data"


async def test_a_long_json_sub_offset_is_counted_page_by_page(
    engines: Callable[..., object], store: Store
) -> None:
    streams = await engines(store, page_bytes=16)
    await streams.create("source", content_type=JSON, data=str(list(range(100))).encode())
    await streams.fork("fork", "source", offset=START, sub_offset=60)
    seen, offset = [], START
    while True:
        batch = await streams.read("fork", offset)
        seen += list(batch)
        if batch.up_to_date:
            break
        offset = batch.offset
    assert seen == list(range(60))


async def test_the_source_must_be_there_and_of_the_same_type(streams: Engine) -> None:
    with pytest.raises(NotFound) as missing:
        await streams.fork("fork", "source")
    assert missing.value.code == "source-not-found"
    await streams.create("source", content_type=JSON)
    with pytest.raises(Conflict) as other:
        await streams.fork("fork", "source", content_type="text/plain")
    assert other.value.code == "content-type-mismatch"
    with pytest.raises(NotFound):
        await streams.fork("self", "self")


async def test_a_path_in_use_is_a_conflict(streams: Engine) -> None:
    await streams.create("source")
    await streams.create("fork")
    with pytest.raises(Conflict) as caught:
        await streams.fork("fork", "source")
    assert caught.value.code == "configuration-mismatch"


async def test_asking_again_finds_the_fork_whatever_its_source_did_since(streams: Engine) -> None:
    await streams.create("source", data="x")
    await streams.fork("fork", "source")
    await streams.append("source", "y")
    again = await streams.fork("fork", "source")
    assert (again.created, position(again.offset)) == (False, 1)
    await streams.delete("source")
    assert not (await streams.fork("fork", "source")).created


async def test_a_closed_stream_may_be_forked_and_the_fork_is_open(streams: Engine) -> None:
    await streams.create("source", data="x", closed=True)
    assert not (await streams.fork("fork", "source")).closed
    await streams.append("fork", "y")
    assert (await streams.read("fork")).data == b"xy"


@pytest.mark.parametrize(
    "source, asked, expected",
    [
        ({}, {}, (None, None)),
        ({"ttl": 10}, {}, (10, None)),
        ({"ttl": 10}, {"ttl": 20}, (20, None)),
        (
            {"ttl": 10},
            {"expires_at": "2040-01-01T00:00:00Z"},
            (None, "2040-01-01T00:00:00.000Z"),
        ),
        (
            {"expires_at": "2040-01-01T00:00:00Z"},
            {},
            (None, "2040-01-01T00:00:00.000Z"),
        ),
        ({"expires_at": "2040-01-01T00:00:00Z"}, {"ttl": 20}, (20, None)),
    ],
)
async def test_a_fork_lives_as_the_table_says(
    streams: Engine, source: Any, asked: Any, expected: Any
) -> None:
    await streams.create("source", **source)
    fork = await streams.fork("fork", "source", **asked)
    assert (fork.ttl, fork.expires_at) == expected


async def test_a_follower_of_a_fork_hears_nothing_of_its_source(streams: Engine) -> None:
    await streams.create("source", data="shared")
    await streams.fork("fork", "source")

    async def follow() -> Any:
        return [batch.data async for batch in streams.follow("fork")]

    task = asyncio.create_task(follow())
    for _ in range(20):
        await asyncio.sleep(0)
    await streams.append("source", "source only")
    await streams.append("fork", "own", close=True)
    assert b"".join(await task) == b"sharedown"


# Chains.


async def test_deep_chains_are_read_whole_and_let_go_whole(streams: Engine, store: Store) -> None:
    await streams.create("0", data="0;")
    for number in range(1, 100):
        await streams.fork(str(number), str(number - 1), data=f"{number};")
    batch = await streams.read("99")
    assert batch.data == "".join(f"{n};" for n in range(100)).encode()
    for number in range(99):
        await streams.delete(str(number))
    assert (await streams.read("99")).data == batch.data
    await streams.delete("99")
    while await paths(store):
        await asyncio.sleep(0)


async def test_a_fork_of_a_fork_may_end_before_the_bytes_of_the_one_between_begin(
    streams: Engine,
) -> None:
    source = await streams.create("a", data="0123456789")
    await streams.fork("b", "a", offset=at(source.offset, 8), data="BBBB")
    await streams.fork("c", "b", offset=at(source.offset, 4), data="CC")
    assert (await streams.read("c")).data == b"0123CC"
    assert (await streams.read("b")).data == b"01234567BBBB"


async def test_the_middle_of_a_chain_is_gone_and_still_read_through(streams: Engine) -> None:
    await streams.create("a", data="a")
    await streams.fork("b", "a", data="b")
    await streams.fork("c", "b", data="c")
    await streams.delete("b")
    with pytest.raises(Gone):
        await streams.read("b")
    with pytest.raises(Gone):
        await streams.delete("b")
    with pytest.raises(Conflict) as taken:
        await streams.create("b")
    assert taken.value.code == "soft-deleted"
    with pytest.raises(Conflict) as refused:
        await streams.fork("d", "b")
    assert refused.value.code == "source-deleted"
    assert (await streams.read("c")).data == b"abc"
    await streams.delete("c")
    await streams.create("b")


async def test_a_source_whose_life_ends_is_kept_for_its_forks(
    streams: Engine, store: Store, clock: Any
) -> None:
    await streams.create("a", ttl=10, data="shared")
    await streams.fork("b", "a", ttl=1000)
    clock.advance(12)
    await streams.sweep()
    assert (await streams.read("b")).data == b"shared"
    with pytest.raises(Gone):
        await streams.read("a")
    clock.advance(1200)
    await streams.sweep()
    clock.advance(120)
    await streams.sweep()
    assert await paths(store) == []


async def test_a_fork_that_expired_is_made_anew(streams: Engine, clock: Any) -> None:
    await streams.create("a", data="x")
    await streams.fork("b", "a", ttl=10)
    clock.advance(12)
    assert (await streams.fork("b", "a", ttl=10)).created
    assert (await streams.read("b")).data == b"x"


# The four steps.


async def interrupted(engines: Any, memory: Any, step: Any) -> Any:
    """A process dies after its n-th commit of a fork; another one lives on over the same data."""
    survivor = await engines(memory)
    await survivor.create("source", data="shared")
    dying = RemoteStore(memory)
    engine = await engines(dying, unknown_outcome=0.02, drain=0.02)
    done = 0

    def fate(_commit: Any) -> Any:
        nonlocal done
        done += 1
        return Fate.ARRIVES if done <= step else Fate.LOST

    dying.fate = fate
    with pytest.raises(Unavailable):
        await engine.fork("fork", "source")
    # It is quite dead.
    await engine.stop()
    return survivor


@pytest.mark.parametrize("step", [0, 1, 2, 3])
async def test_an_interrupted_fork_is_finished_or_undone_by_who_meets_it(
    engines: Callable[..., object], memory: MemoryStore, step: int
) -> None:
    streams = await interrupted(engines, memory, step)
    facts = memory.peek("fork")
    assert (None if facts is None else facts.head.state) == (FORKING if step >= 2 else None)
    if step >= 2:
        assert (await streams.read("fork")).data == b"shared"
    else:
        with pytest.raises(NotFound):
            await streams.read("fork")
    assert (await streams.fork("fork", "source")).created == (step < 2)
    await streams.delete("source")
    assert (await streams.read("fork")).data == b"shared"


@pytest.mark.parametrize("step", [0, 1, 2, 3])
@pytest.mark.parametrize(
    "meet", ["append", "create", "delete", "head", "follow", "fork of it", "list"]
)
async def test_whoever_meets_an_interrupted_fork_settles_it(
    engines: Callable[..., object], memory: MemoryStore, step: int, meet: str
) -> None:
    streams = await interrupted(engines, memory, step)
    found = step >= 2
    if meet == "list":
        assert [info.path for info in await streams.list()] == ["source"]
        return
    if meet == "create":
        if found:
            with pytest.raises(Conflict):
                await streams.create("fork")
        else:
            assert (await streams.create("fork")).created
        return
    calls = {
        "append": lambda: streams.append("fork", "!"),
        "delete": lambda: streams.delete("fork"),
        "head": lambda: streams.head("fork"),
        "follow": lambda: anext(aiter(streams.follow("fork"))),
        "fork of it": lambda: streams.fork("fork2", "fork"),
    }
    if found:
        await calls[meet]()
    else:
        with pytest.raises(NotFound):
            await calls[meet]()


@pytest.mark.parametrize("step", [0, 1, 2, 3])
async def test_the_sweep_settles_an_interrupted_fork_that_nobody_meets(
    engines: Callable[..., object], memory: MemoryStore, clock: Any, step: int
) -> None:
    streams = await interrupted(engines, memory, step)
    await streams.delete("source")
    for _ in range(3):
        clock.advance(61)
        await streams.sweep()
    if step >= 2:
        facts = memory.peek("fork")
        assert facts is not None
        assert facts.head.state == LIVE
        assert (await streams.read("fork")).data == b"shared"
        await streams.delete("fork")
    assert await paths(memory) == []


async def test_a_pending_link_dropped_meanwhile_makes_the_fork_start_over(
    engines: Callable[..., object], memory: MemoryStore, clock: Any
) -> None:
    """The source is deleted between the first step and the second."""
    remote = RemoteStore(memory)
    streams = await engines(remote)
    other = await engines(memory)
    await streams.create("source", data="shared")

    async def delete_source(commit: Any) -> None:
        if commit.path == "fork":
            remote.before_commit = None
            await other.delete("source")
            clock.advance(61)
            await other.sweep()

    remote.before_commit = delete_source
    with pytest.raises(NotFound):
        await streams.fork("fork", "source")
    assert await paths(memory) == []


async def test_a_source_made_anew_meanwhile_is_not_mistaken_for_the_old(
    engines: Callable[..., object], memory: MemoryStore
) -> None:
    remote = RemoteStore(memory)
    streams = await engines(remote)
    other = await engines(memory)
    await streams.create("source", data="old")

    async def replace(commit: Any) -> None:
        remote.before_commit = None
        await other.delete("source")
        await other.create("source", data="the new one")

    remote.before_commit = replace
    await streams.fork("fork", "source")
    assert (await streams.read("fork")).data == b"the new one"


async def test_a_fork_refused_by_a_full_store_leaves_no_reference(
    engines: Callable[..., object], memory: MemoryStore
) -> None:
    remote = RemoteStore(memory)
    streams = await engines(remote)
    await streams.create("source", data="shared")
    full = Refused("storage-full", "No space.")
    remote.fate = lambda commit: full if commit.path == "fork" else Fate.ARRIVES
    with pytest.raises(Unavailable) as caught:
        await streams.fork("fork", "source")
    assert caught.value.status == 507
    await streams.delete("source")
    assert await paths(memory) == []


async def test_two_tries_of_one_fork_do_not_drop_each_others_link(
    engines: Callable[..., object], memory: MemoryStore
) -> None:
    """A retry that began before the first try had finished, and lost, took its link with it:
    deleting the source then destroyed the fork's data.
    """
    slow, fast = RemoteStore(memory), RemoteStore(memory)
    retry = await engines(slow)
    first = await engines(fast)
    await first.create("source", data="shared")

    async def overtake(commit: Any) -> None:
        slow.before_commit = None
        assert (await first.fork("fork", "source")).created

    slow.before_commit = overtake
    assert not (await retry.fork("fork", "source")).created
    await first.delete("source")
    assert (await first.read("fork")).data == b"shared"
    await first.delete("fork")
    assert await paths(memory) == []


@pytest.mark.parametrize("turns", range(0, 40, 3))
async def test_tries_of_one_fork_race_to_one_fork(
    engines: Callable[..., object], memory: MemoryStore, turns: Any
) -> None:
    first, second = await engines(RemoteStore(memory)), await engines(RemoteStore(memory))
    await first.create("source", data="shared")
    one = asyncio.create_task(first.fork("fork", "source"))
    for _ in range(turns):
        await asyncio.sleep(0)
    two = asyncio.create_task(second.fork("fork", "source"))
    results = await asyncio.gather(one, two)
    assert sorted(result.created for result in results) == [False, True]
    await second.delete("source")
    assert (await first.read("fork")).data == b"shared"
    await first.delete("fork")
    assert await paths(memory) == []


@pytest.mark.parametrize("turns", range(0, 40, 3))
async def test_a_fork_and_the_deletion_of_its_source_race_to_something_whole(
    engines: Callable[..., object], memory: MemoryStore, clock: Any, turns: Any
) -> None:
    first, second = await engines(RemoteStore(memory)), await engines(RemoteStore(memory))
    await first.create("source", data="shared")
    forking = asyncio.create_task(first.fork("fork", "source"))
    for _ in range(turns):
        await asyncio.sleep(0)
    await second.delete("source")
    (result,) = await asyncio.gather(forking, return_exceptions=True)
    if isinstance(result, BaseException):
        assert isinstance(result, NotFound | Conflict)
    else:
        assert (await second.read("fork")).data == b"shared"
        await second.delete("fork")
    for _ in range(3):
        clock.advance(61)
        await first.sweep()
    assert await paths(memory) == []


async def test_a_crash_between_delete_and_unlink_is_cleaned_up_by_the_sweep(
    engines: Callable[..., object], memory: MemoryStore, clock: Any
) -> None:
    remote = RemoteStore(memory)
    streams = await engines(remote)
    await streams.create("source", data="shared")
    await streams.fork("fork", "source")
    await streams.delete("source")
    remote.fate = lambda c: Fate.ARRIVES if c.path == "fork" else Refused("unavailable", "Died.")
    await streams.delete("fork")
    facts = memory.peek("source")
    assert facts is not None
    assert facts.head.state == DELETED
    survivor = await engines(memory)
    clock.advance(61)
    await survivor.sweep()
    assert await paths(memory) == []


async def test_data_that_a_fork_shares_and_the_store_lost_is_named(
    engines: Callable[..., object], memory: MemoryStore
) -> None:
    streams = await engines(memory)
    await streams.create("source", data="shared")
    await streams.fork("fork", "source")
    source = memory.peek("source")
    assert source is not None
    loss = Commit("loss", "source", Guard(source.head.incarnation), Delta(remove=True))
    await memory.commit([loss])
    with pytest.raises(Exception, match="missing from the store") as caught:
        await streams.read("fork")
    assert caught.value.code == "source-lost"
