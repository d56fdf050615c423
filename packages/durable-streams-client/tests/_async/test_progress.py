"""Progress inside a page: what was handled is not handed out again, and nothing is left out."""

from pathlib import Path
from typing import Any

import pytest
from hostile import Asked, Fault, Hostile

from durable_streams_client import (
    NOW,
    START,
    AsyncClient,
    AsyncReader,
    AsyncStream,
    DecodeError,
    FileCheckpoint,
    InvalidArgument,
    MemoryCheckpoint,
    OffsetGone,
)

JSON = "application/json"


async def take(reader: AsyncReader[Any], count: int) -> list[Any]:
    """The next items; the reader still holds the last one."""
    items = []
    async for item in reader.items():
        items.append(item)
        if len(items) == count:
            break
    return items


def numbers(first: int, last: int) -> list[bytes]:
    return [b"%d" % n for n in range(first, last)]


@pytest.mark.parametrize("page,page_again", [(100, 100), (7, 5), (5, 7), (100, 2), (1, 100)])
async def test_a_page_that_is_longer_or_shorter_when_read_again_is_gone_on_with(
    server: Hostile, page: int, page_again: int
) -> None:
    server.put("a", *numbers(0, 12), content_type=JSON)
    async with AsyncClient(server.url) as client:
        stream = client.stream("a")
        for handled in (1, 5, 7, 11):
            server.page = page
            kept = MemoryCheckpoint()
            # It ends as a process does that is killed: without a word.
            killed = stream.follow(checkpoint=kept, save_every=1)
            assert await take(killed, handled + 1) == list(range(handled + 1))
            assert killed.offset == kept.offset
            server.page = page_again
            again = stream.follow(checkpoint=kept, save_every=1)
            assert await take(again, 12 - handled) == list(range(handled, 12))
            assert await stream.read(killed.offset).read_items() == list(range(handled, 12))


async def test_the_checkpoint_is_saved_after_so_many_messages(server: Hostile) -> None:
    server.put("a", *numbers(0, 8), content_type=JSON).closed = True
    kept = MemoryCheckpoint()
    seen = []
    async with AsyncClient(server.url) as client:
        reader = client.stream("a").follow(checkpoint=kept, save_every=3)
        async for item in reader.items():
            seen.append((item, kept.offset, reader.offset))  # noqa: PERF401 - one by one
    offsets = [START, *(f"-1/{n}/00000008" for n in range(1, 8))]
    saved = [None] * 3 + ["-1/3/00000008"] * 3 + ["-1/6/00000008"] * 2
    assert seen == list(zip(range(8), saved, offsets, strict=True))
    assert kept.offset == "00000008"


async def test_a_reader_that_is_closed_saves_what_was_handled(server: Hostile) -> None:
    server.put("a", *numbers(0, 8), content_type=JSON)
    kept = MemoryCheckpoint()
    async with AsyncClient(server.url) as client:
        async with client.stream("a").follow(checkpoint=kept) as reader:
            assert await take(reader, 5) == [0, 1, 2, 3, 4]
            assert kept.offset is None
        assert kept.offset == "-1/4/00000008"
        async with client.stream("a").follow(checkpoint=kept) as reader:
            assert await take(reader, 2) == [4, 5]
            await reader.save()
            assert kept.offset == reader.offset == "-1/6/00000008"
        assert kept.offset == "-1/6/00000008"


async def test_items_go_on_where_they_were_left(server: Hostile) -> None:
    server.put("a", *numbers(0, 8), content_type=JSON)
    async with AsyncClient(server.url) as client:
        reader = client.stream("a").read()
        assert await take(reader, 3) == [0, 1, 2]
        assert await take(reader, 2) == [3, 4]
        batch = await anext(reader)
        assert batch.items() == [5, 6, 7]
        assert reader.offset == "-1/5/00000008"
        assert await reader.read_items() == []
        assert reader.offset == "00000008"


@pytest.mark.parametrize("page", [4, 100])
async def test_max_items_bounds_each_batch(server: Hostile, page: int) -> None:
    server.page = page
    server.put("a", *numbers(0, 10), content_type=JSON).closed = True
    async with AsyncClient(server.url) as client:
        stream = client.stream("a")
        batches = [batch async for batch in stream.follow(max_items=3)]
        assert [item for batch in batches for item in batch] == list(range(10))
        assert max(len(batch) for batch in batches) == 3
        assert [batch.closed for batch in batches] == [False] * (len(batches) - 1) + [True]
        rest = list(range(10))
        for batch in batches:
            del rest[: len(batch)]
            assert await stream.read(batch.offset, max_items=4).read_items() == rest


async def test_each_batch_of_at_most_so_many_is_saved(server: Hostile) -> None:
    server.put("a", *numbers(0, 5), content_type=JSON).closed = True
    kept = MemoryCheckpoint()
    seen = []
    async with AsyncClient(server.url) as client:
        async for batch in client.stream("a").follow(checkpoint=kept, max_items=2):
            seen.append((batch.items(), kept.offset))  # noqa: PERF401 - one by one
    assert seen == [([0, 1], None), ([2, 3], "-1/2/00000005"), ([4], "-1/4/00000005")]
    assert kept.offset == "00000005"


async def test_a_message_that_does_not_fit_comes_after_those_before_it(server: Hostile) -> None:
    server.put("a", b"0", b"1", b'"two"', b"3", content_type=JSON).closed = True
    kept = MemoryCheckpoint()
    async with AsyncClient(server.url) as client:
        stream = client.stream("a")
        seen: list[int] = []
        reader = stream.follow(decode=int, checkpoint=kept)
        with pytest.raises(DecodeError) as caught:
            async for item in reader.items():
                seen = [*seen, item]
        assert seen == [0, 1]
        assert caught.value.offset == reader.offset == kept.offset == "-1/2/00000004"
        assert caught.value.data == b'"two"'
        assert caught.value.next_offset is not None
        assert await stream.read(caught.value.next_offset, decode=int).read_items() == [3]
        skipping = stream.follow(decode=int, on_bad="skip", checkpoint=kept, save_every=1)
        assert await skipping.read_items() == [3]
        assert kept.offset == "00000004"


async def test_a_stream_with_fewer_messages_than_were_handled_is_not_gone_on_with(
    server: Hostile,
) -> None:
    server.put("a", *numbers(0, 3), content_type=JSON)
    async with AsyncClient(server.url) as client:
        reader = client.stream("a").follow("-1/4/00000003")
        for _ in range(2):
            with pytest.raises(OffsetGone, match="fewer messages"):
                await anext(reader)
        assert reader.offset == "-1/4/00000003"
        assert await take(client.stream("a").follow("00000001/1"), 1) == [2]
        # All that there is was handled: the tail is reached.
        batch = await anext(client.stream("a").follow("00000001/2"))
        assert (batch.items(), batch.offset, batch.up_to_date) == ([], "00000003", True)


async def test_a_stream_that_was_replaced_is_not_gone_on_with(server: Hostile) -> None:
    """Its first messages would be left out, as many as were handled of the old one."""
    server.put("a", *numbers(0, 3), content_type=JSON)

    def replaced(asked: Asked) -> Fault | None:
        """The answer of a server whose offsets tell a stream from the one before it."""
        problem = b'{"code": "offset-gone"}'
        gone = Fault(status=410, body=problem, headers={"Content-Type": "application/problem+json"})
        return gone if asked.params.get("offset") == "00000003" else None

    async with AsyncClient(server.url) as client:
        reader = client.stream("a").follow()
        await take(reader, 3)
        assert reader.offset == "-1/2/00000003"
        assert await client.stream("a").read(reader.offset).read_items() == [2]
        server.faults = replaced
        again = client.stream("a").follow(reader.offset)
        for _ in range(2):
            with pytest.raises(OffsetGone):
                await anext(again)


async def test_a_fork_may_begin_inside_a_page(server: Hostile) -> None:
    server.put("a", *numbers(0, 5), content_type=JSON)
    async with AsyncClient(server.url) as client:
        reader = client.stream("a").read("00000001")
        await take(reader, 3)
        assert reader.offset == "00000001/2"
        await client.stream("b").fork(client.stream("a"), offset=reader.offset)
        assert await client.stream("b").read().read_items() == [0, 1, 2]


@pytest.mark.parametrize(
    "offset", ["", "a/", "/1", "a/b", "a/-1", "a/1/-1", "a/1/", "-1/1", f"{NOW}/1", "a/²"]
)
async def test_an_offset_that_nobody_gave_is_refused(server: Hostile, offset: str) -> None:
    async with AsyncClient(server.url) as client:
        with pytest.raises(InvalidArgument, match="offset"):
            client.stream("a").read(offset)


async def test_a_count_is_of_messages(server: Hostile) -> None:
    server.put("a", b"abc", content_type="text/plain")
    async with AsyncClient(server.url) as client:
        with pytest.raises(InvalidArgument, match="JSON"):
            await client.stream("a").read("00000001/1").read_bytes()


@pytest.mark.parametrize(
    "options",
    [{"max_items": 0}, {"save_every": 0, "checkpoint": MemoryCheckpoint()}, {"save_every": 1}],
)
async def test_options_that_have_no_meaning_are_refused(
    server: Hostile, options: dict[str, Any]
) -> None:
    async with AsyncClient(server.url) as client:
        with pytest.raises(InvalidArgument):
            client.stream("a").follow(**options)


async def test_a_file_keeps_the_place_inside_a_page(server: Hostile, tmp_path: Path) -> None:
    server.put("a", *numbers(0, 4), content_type=JSON)

    def follow(stream: AsyncStream) -> AsyncReader[Any]:
        return stream.follow(checkpoint=FileCheckpoint(tmp_path / "place"), save_every=1)

    async with AsyncClient(server.url) as client:
        assert await take(follow(client.stream("a")), 3) == [0, 1, 2]
        assert (tmp_path / "place").read_text() == "-1/2/00000004\n"
        assert await take(follow(client.stream("a")), 2) == [2, 3]
    assert [path.name for path in tmp_path.iterdir()] == ["place"]
