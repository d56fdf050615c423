"""A stream deleted and created again: old offsets are refused in every use, and nobody who waits
reads on in the new stream as if it were the old one (§8).
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from remote import RemoteStore
from tokens import at, position

from durable_streams_core.operations import Append, Body, Create, Delete
from durable_streams_core.streams import CreationRequest
from durable_streams_server import (
    NOW,
    START,
    Conflict,
    Engine,
    InvalidRequest,
    MemoryStore,
    NotFound,
    OffsetGone,
    TailMoved,
)

TEXT = "text/plain"
ZERO = f"{0:016}_{0:016}"


async def replaced(streams: Engine, path: str = "a") -> str:
    """An offset of a stream that was deleted; a longer one is at its path now."""
    old = await streams.create(path, content_type=TEXT, data="old")
    await streams.delete(path)
    await streams.create(path, content_type=TEXT, data="newer data")
    return old.offset


# In the process.


async def test_new_offsets_are_larger_as_text_than_those_of_any_stream_before(
    streams: Engine, clock: Any
) -> None:
    told = []
    for number in range(6):
        told.append((await streams.create("a", content_type=TEXT)).offset)
        told.append((await streams.append("a", "x" * number or "y")).offset)
        await streams.delete("a")
        if number % 2:
            clock.advance(-3600)
    assert told == sorted(set(told))


async def test_an_old_offset_is_refused_by_read_follow_append_and_fork(streams: Engine) -> None:
    old = await replaced(streams)
    with pytest.raises(OffsetGone):
        await streams.read("a", old)
    with pytest.raises(OffsetGone):
        await anext(streams.follow("a", old))
    with pytest.raises(OffsetGone):
        await streams.append("a", "x", expected=old)
    with pytest.raises(OffsetGone):
        await streams.fork("fork", "a", offset=old)
    with pytest.raises(OffsetGone):
        await streams.fork("fork", "a", offset=old, sub_offset=1)
    assert (await streams.read("a")).data == b"newer data"


async def test_the_start_and_the_tail_are_those_of_the_new_stream(streams: Engine) -> None:
    await replaced(streams)
    for start in (START, ZERO):
        assert (await streams.read("a", start)).data == b"newer data"
    assert (await streams.read("a", NOW)).data == b""
    await streams.create("empty", content_type=TEXT)
    assert position((await streams.append("empty", "x", expected=ZERO)).offset) == 1
    with pytest.raises(TailMoved):
        await streams.append("empty", "x", expected=ZERO)


@pytest.mark.parametrize("lives", ["create append delete", "create delete"])
async def test_lives_that_fall_into_one_commit_share_no_offset(
    engines: Callable[..., object], remote: RemoteStore, lives: str
) -> None:
    """All of them are decided while another commit is in flight, within one millisecond."""
    streams = await engines(remote)
    remote.committing.shut()
    results = []

    def perform(operation: Any) -> None:
        task = asyncio.create_task(streams.perform("a", operation))
        results.append(task)

    def create(number: Any) -> Any:
        return Create(f"i{number}", CreationRequest(TEXT), TEXT)

    perform(create(0))
    await remote.committing.reached.wait()
    perform(Delete())
    for number in range(1, 4):
        perform(create(number))
        if "append" in lives:
            perform(Append(Body(b"x")))
        perform(Delete())
    remote.committing.open()
    answers = await asyncio.gather(*results)
    told = [(one.timeline, one.tail) for one in answers if hasattr(one, "timeline")]
    assert told == sorted(set(told))


async def test_a_follower_that_waits_ends_with_the_error(streams: Engine) -> None:
    await streams.create("a", content_type=TEXT, data="old")
    follower = streams.follow("a")
    assert (await anext(follower)).data == b"old"
    waiting = asyncio.create_task(anext(follower))
    await asyncio.sleep(0)
    await streams.delete("a")
    await streams.create("a", content_type=TEXT, data="newer data")
    # One that looks between the two finds nothing.
    with pytest.raises((OffsetGone, NotFound)):
        await waiting


async def test_a_follower_of_an_empty_stream_that_is_replaced_is_told_too(streams: Engine) -> None:
    await streams.create("a", content_type=TEXT)
    follower = streams.follow("a")
    waiting = asyncio.create_task(anext(follower))
    while not streams.fanout.subscribers("a"):
        await asyncio.sleep(0)
    for _ in range(10):
        await asyncio.sleep(0)
    await streams.delete("a")
    await streams.create("a", content_type=TEXT, data="new")
    with pytest.raises((OffsetGone, NotFound)):
        await waiting


# Forks.


async def test_a_fork_and_its_source_share_offsets_up_to_where_they_part(streams: Engine) -> None:
    source = await streams.create("source", content_type=TEXT, data="0123456789")
    fork = await streams.fork("fork", "source", offset=at(source.offset, 6))
    assert fork.offset == at(source.offset, 6)
    own = await streams.append("fork", "own")
    assert own.offset > source.offset
    page = await streams.read("fork", limit=4)
    assert page.offset == at(source.offset, 4)
    assert (await streams.read("source", page.offset)).data == b"456789"
    assert (await streams.read("fork", page.offset)).data == b"45own"
    with pytest.raises(OffsetGone):
        await streams.read("fork", source.offset)
    with pytest.raises(InvalidRequest):
        await streams.read("source", own.offset)


async def test_a_fork_made_again_elsewhere_refuses_offsets_of_the_one_before(
    streams: Engine,
) -> None:
    source = await streams.create("source", content_type=TEXT, data="0123456789")
    await streams.fork("fork", "source", offset=at(source.offset, 4), data="AAAA")
    old = await streams.head("fork")
    await streams.delete("fork")
    await streams.fork("fork", "source", offset=at(source.offset, 6), data="BBBBBB")
    with pytest.raises(OffsetGone):
        await streams.read("fork", old.offset)
    assert (await streams.read("fork", at(source.offset, 5))).data == b"5BBBBBB"


async def test_the_same_fork_of_a_source_that_was_replaced_is_another_request(
    streams: Engine,
) -> None:
    old = await streams.create("source", content_type=TEXT, data="0123")
    await streams.fork("fork", "source", offset=at(old.offset, 2))
    assert not (await streams.fork("fork", "source", offset=at(old.offset, 2))).created
    other = at(old.offset.replace("1", "2", 1), 2)
    with pytest.raises(Conflict, match="another configuration"):
        await streams.fork("fork", "source", offset=other)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 3), st.integers(1, 5)),
        st.tuples(st.just("fork"), st.integers(0, 3), st.integers(0, 3), st.integers(0, 12)),
        st.tuples(st.just("replace"), st.integers(0, 3)),
        st.tuples(st.just("page"), st.integers(0, 3), st.integers(0, 12)),
    ),
    max_size=30,
)


@given(steps)
async def test_an_offset_reads_what_follows_the_bytes_that_its_reader_saw_or_is_refused(
    history: Any,
) -> None:
    """Each offset that was ever told names a history, whatever is at its path now."""
    letters = iter("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ" * 9)
    held: dict[str, bytes] = {}
    seen: dict[str, bytes] = {}
    async with Engine(MemoryStore(clock=lambda: 1_800_000_000_000)) as streams:

        def note(offset: str, data: bytes) -> None:
            assert seen.setdefault(offset, data) == data, "two histories share an offset"

        async def create(path: str) -> None:
            note((await streams.create(path, content_type=TEXT)).offset, b"")
            held[path] = b""

        for number in range(4):
            await create(str(number))
        for verb, first, *rest in history:
            path = str(first)
            if path not in held:
                continue
            if verb == "append":
                data = next(letters).encode() * rest[0]
                held[path] += data
                note((await streams.append(path, data)).offset, held[path])
            elif verb == "page" and held[path]:
                batch = await streams.read(path, limit=max(1, rest[0]))
                note(batch.offset, held[path][: position(batch.offset)])
            elif verb == "replace":
                await streams.delete(path)
                del held[path]
                # While forks read it, its path stays taken.
                with suppress(Conflict):
                    await create(path)
            elif verb == "fork":
                target = str(rest[0] + 10)
                if target not in held:
                    batch = await streams.read(path, limit=max(1, rest[1]))
                    fork = await streams.fork(target, path, offset=batch.offset)
                    held[target] = held[path][: position(batch.offset)]
                    note(fork.offset, held[target])
        for offset, data in seen.items():
            for path, whole in held.items():
                try:
                    batch = await streams.read(path, offset)
                except (OffsetGone, InvalidRequest):
                    continue
                assert data + batch.data == whole, f"{offset} misleads a reader of {path}"
