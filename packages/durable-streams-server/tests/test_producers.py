"""Idempotent producers through the engine: exactly once, fenced, bounded (§5.2.1)."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from remote import Fate, RemoteStore, commits_of

from durable_streams_core.store import Store
from durable_streams_server import (
    Conflict,
    Engine,
    Fenced,
    InvalidRequest,
    MemoryStore,
    ProducerClaim,
    SequenceGap,
    StreamClosed,
)


async def send(
    streams: Any, seq: Any, data: Any, *, epoch: Any = 0, producer: Any = "p", close: Any = False
) -> Any:
    claim = ProducerClaim(producer, epoch, seq)
    return await streams.append("a", data, producer=claim, close=close)


async def test_a_batch_sent_twice_is_stored_once(streams: Engine) -> None:
    await streams.create("a")
    first = await send(streams, 0, "x")
    again = await send(streams, 0, "x")
    assert (first.duplicate, again.duplicate) == (False, True)
    assert (again.offset, again.epoch, again.seq) == (first.offset, 0, 0)
    assert (await streams.read("a")).data == b"x"


async def test_pipelined_batches_are_confirmed_by_the_newest(streams: Engine) -> None:
    await streams.create("a")
    await asyncio.gather(*(send(streams, n, str(n)) for n in range(5)))
    again = await send(streams, 2, "2")
    assert (again.duplicate, again.seq) == (True, 4)
    assert (await streams.read("a")).data == b"01234"


async def test_a_gap_names_what_is_missing(streams: Engine) -> None:
    await streams.create("a")
    await send(streams, 0, "x")
    with pytest.raises(SequenceGap) as caught:
        await send(streams, 2, "y")
    assert (caught.value.expected, caught.value.received) == (1, 2)
    with pytest.raises(SequenceGap) as caught:
        await send(streams, 1, "y", producer="never seen")
    assert (caught.value.expected, caught.value.received) == (0, 1)


async def test_a_newer_epoch_fences_the_older(streams: Engine) -> None:
    await streams.create("a")
    await send(streams, 0, "1")
    await send(streams, 0, "2", epoch=3)
    with pytest.raises(Fenced) as caught:
        await send(streams, 1, "x")
    assert caught.value.epoch == 3
    with pytest.raises(InvalidRequest) as refused:
        await send(streams, 1, "x", epoch=4)
    assert refused.value.code == "epoch-starts-at-zero"
    assert (await streams.read("a")).data == b"12"


async def test_a_producer_may_close_and_close_again(streams: Engine) -> None:
    await streams.create("a")
    first = await send(streams, 0, "last", close=True)
    again = await send(streams, 0, "last", close=True)
    assert (first.closed, again.closed, again.duplicate) == (True, True, True)
    with pytest.raises(StreamClosed):
        await send(streams, 1, "more")


async def test_a_refused_batch_leaves_no_trace_of_its_producer(streams: Engine) -> None:
    await streams.create("a", content_type="application/json")
    with pytest.raises(InvalidRequest):
        await send(streams, 0, b"{")
    with pytest.raises(Conflict):
        await streams.append("a", "1", content_type="text/plain", producer=ProducerClaim("p", 0, 0))
    assert not (await send(streams, 0, "1")).duplicate


async def test_a_producer_is_new_to_a_stream_made_anew(streams: Engine) -> None:
    await streams.create("a")
    await send(streams, 0, "x")
    await streams.delete("a")
    await streams.create("a")
    assert not (await send(streams, 0, "y")).duplicate


async def test_forks_know_no_producer_of_their_source(streams: Engine) -> None:
    await streams.create("source")
    claim = ProducerClaim("p", 0, 0)
    await streams.append("source", "x", producer=claim, seq="5")
    await streams.fork("fork", "source")
    assert not (await streams.append("fork", "y", producer=claim, seq="1")).duplicate
    assert (await streams.read("fork")).data == b"xy"


async def test_one_producers_batches_sent_through_two_processes_are_stored_once(
    engines: Callable[..., object], memory: MemoryStore
) -> None:
    from remote import RemoteStore

    first = await engines(RemoteStore(memory))
    second = await engines(RemoteStore(memory))
    await first.create("a")
    for seq in range(10):
        results = await asyncio.gather(send(first, seq, str(seq)), send(second, seq, str(seq)))
        assert [result.duplicate for result in results].count(True) == 1
    assert (await first.read("a")).data == b"0123456789"


async def test_a_batch_whose_answer_was_lost_is_a_duplicate_when_sent_again(
    engines: Callable[..., object], remote: RemoteStore
) -> None:
    streams = await engines(remote)
    await streams.create("a")
    lost = iter([Fate.ANSWER_LOST, Fate.LOST])
    remote.fate = lambda _: next(lost, Fate.ARRIVES)
    assert not (await send(streams, 0, "x")).duplicate
    assert (await send(streams, 0, "x")).duplicate
    assert (await streams.read("a")).data == b"x"
    ids = commits_of(remote, "a")[1:]
    assert len(ids) == 3
    assert len(set(ids)) == 1


async def test_the_producers_idle_longest_are_forgotten(
    engines: Callable[..., object], store: Store, clock: Any
) -> None:
    """A stream remembers a bounded number of producers, whatever its clients invent."""
    streams = await engines(store, max_producers=20)
    await streams.create("a")
    for number in range(20):
        clock.advance(1)
        await send(streams, 0, "x", producer=f"p{number}")
    clock.advance(1)
    await send(streams, 1, "x", producer="p0")
    await send(streams, 0, "x", producer="p20")
    while (await remembered(store)) > 18:
        await asyncio.sleep(0)
    assert (await send(streams, 1, "x", producer="p0")).duplicate
    assert (await send(streams, 0, "x", producer="p20")).duplicate
    assert not (await send(streams, 0, "x", producer="p1")).duplicate


async def remembered(store: Any) -> Any:
    facts = await store.load("a")
    return len(await store.scan("a", facts.head.incarnation, "p", "", 1000))
