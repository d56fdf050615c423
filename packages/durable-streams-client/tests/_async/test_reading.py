"""Reading and following: pages, live modes, fallbacks, checkpoints, cancelling."""

import gc
import threading
from pathlib import Path

import msgspec
import pytest
from hostile import LOST, Fault, Hostile, refuse

from durable_streams_client import (
    NOW,
    START,
    AsyncClient,
    Batch,
    Cancelled,
    DecodeError,
    FileCheckpoint,
    Gone,
    InvalidArgument,
    InvalidRequest,
    MalformedResponse,
    MemoryCheckpoint,
    NotFound,
    OffsetGone,
    Retry,
    RetryPolicy,
    TimedOut,
    Timeouts,
    Unavailable,
)

QUICK = RetryPolicy(initial=0.001, maximum=0.01)
JSON = "application/json"


class Message(msgspec.Struct):
    n: int


async def test_read_goes_page_by_page_to_the_tail(server: Hostile) -> None:
    server.page = 4
    server.put("a", b"hello ", b"world")
    async with AsyncClient(server.url) as client:
        reader = client.stream("a").read()
        batches = [batch async for batch in reader]
        assert [batch.data for batch in batches] == [b"hell", b"o wo", b"rld"]
        assert [batch.up_to_date for batch in batches] == [False, False, True]
        assert reader.offset == batches[-1].offset == "00000011"
        assert reader.up_to_date
        assert not reader.closed
        assert await client.stream("a").read(batches[0].offset).read_bytes() == b"o world"


async def test_read_of_an_empty_stream_and_from_now(server: Hostile) -> None:
    server.put("e", content_type=JSON)
    server.put("a", b"1", content_type=JSON)
    async with AsyncClient(server.url) as client:
        assert await client.stream("e").read().read_items() == []
        [batch] = [batch async for batch in client.stream("a").read(NOW)]
        assert list(batch) == []
        assert batch.offset == "00000001"


async def test_json_of_a_type(server: Hostile) -> None:
    server.put("a", b'{"n":1}', b'{"n":2}', content_type=JSON)
    async with AsyncClient(server.url) as client:
        stream = client.stream("a")
        assert await stream.read(decode=Message).read_items() == [Message(1), Message(2)]
        reader = stream.read(decode=str)
        batch = await anext(reader)
        assert batch.is_json
        with pytest.raises(DecodeError, match="Message 1"):
            len(batch)


async def test_offset_moves_on_when_the_batch_was_handled(server: Hostile) -> None:
    server.page = 1
    server.put("a", b"1", b"2", b"3", content_type=JSON)
    async with AsyncClient(server.url) as client:
        reader = client.stream("a").read()
        await anext(reader)
        assert reader.offset == START
        await anext(reader)
        assert reader.offset == "00000001"
        await reader.save()
        assert reader.offset == "00000002"
        await reader.aclose()
        items = client.stream("a").read()
        seen = []
        async for item in items.items():
            seen.append((item, items.offset))  # noqa: PERF401 - one by one is the point
        assert seen == [(1, START), (2, "00000001"), (3, "00000002")]
        assert items.offset == "00000003"


async def test_text_never_splits_a_character(server: Hostile) -> None:
    server.page = 1
    server.put("a", "aäb€".encode(), content_type="text/plain").closed = True
    async with AsyncClient(server.url) as client:
        reader = client.stream("a").follow()
        seen = []
        async for text in reader.text():
            seen.append((text, reader.offset))  # noqa: PERF401 - one by one is the point
        assert [text for text, _ in seen] == ["a", "ä", "b", "€"]
        # Before "€" was handed out, everything up to its first byte had been handled.
        assert seen[-1][1] == "00000004"
        assert reader.offset == "00000007"


async def test_text_that_is_none(server: Hostile) -> None:
    server.put("a", b"a\xff", content_type="text/plain").closed = True
    async with AsyncClient(server.url) as client:
        with pytest.raises(MalformedResponse, match="UTF-8"):
            await client.stream("a").read().read_text()
        batch = await anext(client.stream("a").read())
        with pytest.raises(MalformedResponse):
            batch.text()
        assert list(batch) == [b"a\xff"]


async def test_a_page_is_not_sent_twice(server: Hostile) -> None:
    server.put("a", b"12")
    async with AsyncClient(server.url) as client:
        stream = client.stream("a")
        assert await stream.read().read_bytes() == b"12"
        assert await stream.read().read_bytes() == b"12"
        assert server.asked[-1].headers["if-none-match"]
        server.write("a", b"3")
        assert await stream.read().read_bytes() == b"123"


@pytest.mark.parametrize("live", ["auto", "sse", "long-poll"])
@pytest.mark.parametrize("content_type", [JSON, "text/plain", "application/octet-stream"])
async def test_follow_to_the_end(server: Hostile, live: str, content_type: str) -> None:
    server.put("a", b'"1\xe2\x80\xa8"', content_type=content_type)
    got = b""
    async with AsyncClient(server.url) as client:
        stream = client.stream("a")
        modes = []
        async for batch in stream.follow(live=live):  # type: ignore[arg-type]
            data = b"".join(b'"%b"' % i.encode() for i in batch) if batch.is_json else batch.data
            got += data
            modes.append(server.asked[-1].live)
            if len(modes) == 1:
                server.write("a", b'"2"')
            elif len(modes) == 2:
                server.write("a", b'"3"', close=True)
        assert batch.closed
    assert got == b'"1\xe2\x80\xa8""2""3"'
    assert modes[-1] == ("long-poll" if live == "long-poll" else "sse")
    server.wait_until(lambda: server.live == 0)


@pytest.mark.parametrize("live", ["sse", "long-poll"])
async def test_an_odd_message_does_not_hide_its_neighbours(server: Hostile, live: str) -> None:
    odd = [rb'{"delta":"\ud83d"}', b"1e400", b"1" * 5000]
    server.put("a", b'{"ok":1}', *odd, b'{"ok":2}', content_type=JSON)
    async with AsyncClient(server.url) as client:
        reader = client.stream("a").follow(live=live)  # type: ignore[arg-type]
        for _ in range(2):
            [first, delta, infinite, digits, last] = (await anext(reader)).items()
            assert [first, last] == [{"ok": 1}, {"ok": 2}]
            assert delta == {"delta": "\ud83d"}
            assert infinite == float("inf")
            assert str(digits) == "1" * 5000
            server.write("a", b'{"ok":1}', *odd, b'{"ok":2}', close=True)
        with pytest.raises(StopAsyncIteration):
            await anext(reader)


@pytest.mark.parametrize("live", ["auto", "sse", "long-poll"])
async def test_follow_of_a_closed_stream_ends_at_once(server: Hostile, live: str) -> None:
    server.put("a", b"1").closed = True
    async with AsyncClient(server.url) as client:
        stream = client.stream("a")
        assert await stream.follow(live=live).read_bytes() == b"1"  # type: ignore[arg-type]
        assert len(server.asked) == 1
        [batch] = [batch async for batch in stream.follow(NOW)]
        assert batch.closed
    assert len(server.asked) == 2


async def test_follow_from_now_misses_nothing(server: Hostile) -> None:
    """The tail is pinned at once: what is written while the live request fails comes."""
    server.put("a", b"1")

    def fault(asked: object) -> Fault | None:
        if asked.live and asked.count == 1:  # type: ignore[attr-defined]
            server.streams["/a"].messages.append(b"2")
            return LOST
        return None

    server.faults = fault
    async with AsyncClient(server.url, retry=QUICK) as client:
        reader = client.stream("a").follow(NOW)
        assert (await anext(reader)).data == b""
        assert (await anext(reader)).data == b"2"
        await reader.aclose()


async def test_long_poll_echoes_the_cursor(server: Hostile) -> None:
    server.put("a")
    server.poll = 0.01
    async with AsyncClient(server.url) as client:
        reader = client.stream("a").follow(live="long-poll")
        await anext(reader)
        server.write("a", b"1")
        await anext(reader)
        assert reader.cursor is not None
        server.write("a", b"2")
        await anext(reader)
        assert [asked.params.get("cursor") for asked in server.asked[:3]] == [None, "1", "2"]
        await reader.aclose()


@pytest.mark.parametrize("status", [400, 404 - 4, 405, 406, 501])
async def test_sse_refused_falls_back(server: Hostile, status: int) -> None:
    server.put("a", b"1")
    server.faults = lambda asked: refuse(status) if asked.live == "sse" else None
    async with AsyncClient(server.url) as client:
        reader = client.stream("a").follow()
        await anext(reader)
        server.write("a", b"2")
        assert (await anext(reader)).data == b"2"
        assert server.asked[-1].live == "long-poll"
        await reader.aclose()
        with pytest.raises(InvalidRequest):
            await client.stream("a").follow(live="sse").read_bytes()


async def test_sse_that_is_none_falls_back(server: Hostile) -> None:
    server.put("a", b"1")
    page = Fault(apply=False, status=200, headers={"Content-Type": "text/html"}, body=b"<p>")
    server.faults = lambda asked: page if asked.live == "sse" else None
    async with AsyncClient(server.url) as client:
        reader = client.stream("a").follow()
        await anext(reader)
        server.write("a", b"2", close=True)
        assert (await anext(reader)).data == b"2"
        server.put("b")
        with pytest.raises(MalformedResponse) as caught:
            await client.stream("b").follow(NOW, live="sse").read_bytes()
        assert caught.value.code == "no-event-stream"


async def test_sse_kept_back_by_a_proxy_falls_back(server: Hostile) -> None:
    server.put("a", b"1")
    server.faults = lambda asked: Fault(stall=True) if asked.live == "sse" else None
    async with AsyncClient(server.url, timeouts=Timeouts(first_event=0.05)) as client:
        reader = client.stream("a").follow()
        await anext(reader)
        server.write("a", b"2", close=True)
        assert (await anext(reader)).data == b"2"
        assert server.asked[-1].live == "long-poll"
        await reader.aclose()


async def test_sse_cut_again_and_again_falls_back(server: Hostile) -> None:
    server.put("a", b"1")
    server.faults = lambda asked: Fault(cut=200) if asked.live == "sse" else None
    async with AsyncClient(server.url, retry=QUICK) as client:
        reader = client.stream("a").follow()
        await anext(reader)
        server.write("a", b"2" * 1000)
        assert (await anext(reader)).data == b"2" * 1000
        assert [asked.live for asked in server.asked] == ["", "sse", "sse", "sse", "long-poll"]
        await reader.aclose()


async def test_sse_rotation_is_not_seen(server: Hostile) -> None:
    server.put("a", b"0")
    server.rotate = 0.02
    async with AsyncClient(server.url, retry=QUICK) as client:
        got = []
        async for batch in client.stream("a").follow(live="sse"):
            got.append(batch.data)
            server.write("a", b"%d" % len(got), close=len(got) == 5)
        assert got == [b"0", b"1", b"2", b"3", b"4", b"5"]
        assert len(server.asked) < 40


@pytest.mark.parametrize(
    "body",
    [
        b"event: control\ndata: {no\n\n",
        b"event: control\ndata:\n\n",
        b'event: control\ndata: {"streamNextOffset":"-1"}\n\n',
        b"event: data\ndata: a=b\n\n",
        b"event: \xff\n\n",
    ],
)
async def test_malformed_events_are_errors(server: Hostile, body: bytes) -> None:
    server.put("a", b"1")
    events = {"Content-Type": "text/event-stream", "Stream-SSE-Data-Encoding": "base64"}
    server.faults = lambda asked: (
        Fault(apply=False, status=200, headers=events, body=body) if asked.live == "sse" else None
    )
    async with AsyncClient(server.url) as client:
        with pytest.raises(MalformedResponse):
            await client.stream("a").follow().read_bytes()


async def test_unknown_events_and_comments_are_skipped(server: Hostile) -> None:
    server.put("a", b"1", content_type=JSON)
    body = (
        b": hello\n\nevent: new\ndata: x\n\nretry: 5\n\n"
        b"event: data\ndata: [1,\ndata: 2]\n\nevent: data\ndata: []\n\nevent: data\ndata: [3]\n\n"
        b'event: control\ndata: {"streamNextOffset":"9","streamClosed":true,"new":1}\n\n'
    )
    events = Fault(
        apply=False, status=200, headers={"Content-Type": "text/event-stream"}, body=body
    )
    server.faults = lambda asked: events if asked.live == "sse" else None
    async with AsyncClient(server.url) as client:
        assert await client.stream("a").follow().read_items() == [1, 1, 2, 3]


async def test_an_answer_that_would_loop_is_an_error(server: Hostile) -> None:
    server.put("a", b"12")
    server.faults = lambda asked: Fault(
        headers={"Stream-Next-Offset": "00000001"}, drop=["Stream-Up-To-Date"]
    )
    async with AsyncClient(server.url) as client:
        with pytest.raises(MalformedResponse, match="next offset"):
            await client.stream("a").read("00000001").read_bytes()


async def test_a_server_that_answers_polls_at_once_is_not_hammered(server: Hostile) -> None:
    server.put("a")
    server.poll = 0.0
    async with AsyncClient(server.url) as client:
        reader = client.stream("a").follow(live="long-poll")
        await anext(reader)
        threading.Timer(0.4, reader.cancel).start()
        with pytest.raises(Cancelled):
            await anext(reader)
        assert len(server.asked) < 30


async def test_faults_end_a_read_after_some_tries_and_follow_never(server: Hostile) -> None:
    server.put("a", b"1").closed = True
    seen: list[Retry] = []
    server.faults = lambda asked: refuse(503) if len(server.asked) <= 20 else None
    async with AsyncClient(server.url, retry=QUICK, on_retry=seen.append) as client:
        with pytest.raises(Unavailable):
            await client.stream("a").read().read_bytes()
        assert len(server.asked) == 10
        assert await client.stream("a").follow().read_bytes() == b"1"
    assert len(server.asked) == 21


async def test_follow_may_be_bounded(server: Hostile) -> None:
    server.put("a", b"1")
    server.faults = lambda asked: refuse(503)
    policy = RetryPolicy(initial=0.001, follow_attempts=2)
    async with AsyncClient(server.url, retry=policy) as client:
        with pytest.raises(Unavailable):
            await anext(client.stream("a").follow())
    assert len(server.asked) == 2


async def test_total_limits_the_time_without_progress(server: Hostile) -> None:
    server.put("a", b"1")
    """Where nothing comes at all is left open: a busy machine may not even get to the first."""
    got = []
    async with AsyncClient(server.url, timeouts=Timeouts(total=0.1)) as client:
        with pytest.raises(TimedOut, match="Nothing came"):
            async for batch in client.stream("a").follow():
                got.append(batch.data)  # noqa: PERF401 - what came before the error counts
    assert got in ([], [b"1"])


async def test_what_is_gone_ends_a_follow(server: Hostile) -> None:
    server.put("a", b"1")
    server.poll = 0.01
    async with AsyncClient(server.url) as client:
        reader = client.stream("a").follow(live="long-poll")
        await anext(reader)
        await client.stream("a").delete()
        with pytest.raises(NotFound):
            await anext(reader)


# -- checkpoints -----------------------------------------------------------------------------------


async def test_checkpoint_is_saved_after_handling(server: Hostile, tmp_path: Path) -> None:
    server.page = 1
    server.put("a", b"1", b"2", b"3")
    checkpoint = FileCheckpoint(tmp_path / "a.offset")
    async with AsyncClient(server.url) as client:
        stream = client.stream("a")
        got = []
        async for batch in stream.follow(checkpoint=checkpoint):
            got.append(batch.data)
            assert checkpoint.load() == (None if len(got) == 1 else "00000001")
            if len(got) == 2:
                break
        # The second was handed out and not handled: it comes again.
        server.write("a", close=True)
        got = [batch.data async for batch in stream.follow(checkpoint=checkpoint) if batch.data]
        assert got == [b"2", b"3"]
        assert checkpoint.load() == "00000003"
    files = list(tmp_path.iterdir())
    assert [file.name for file in files] == ["a.offset"]


async def test_checkpoint_of_ones_own(server: Hostile) -> None:
    server.put("a", b"1", b"2").closed = True
    saved = ["00000001"]

    class Mine:
        async def load(self) -> str | None:
            return saved[-1]

        async def save(self, offset: str) -> None:
            saved.append(offset)

    async with AsyncClient(server.url) as client:
        assert await client.stream("a").follow(checkpoint=Mine()).read_bytes() == b"2"
        assert saved == ["00000001", "00000002"]
        kept = MemoryCheckpoint()
        assert await client.stream("a").follow(checkpoint=kept).read_bytes() == b"12"
        assert kept.offset == "00000002"


async def test_checkpoint_that_fails_is_heard(server: Hostile, tmp_path: Path) -> None:
    server.put("a", b"1").closed = True
    broken = tmp_path / "b"
    broken.write_text("no offset / at all")
    async with AsyncClient(server.url) as client:
        stream = client.stream("a")
        with pytest.raises(FileNotFoundError):
            await stream.follow(checkpoint=FileCheckpoint(tmp_path / "no" / "x")).read_bytes()
        with pytest.raises(InvalidArgument, match="does not hold an offset"):
            await stream.follow(checkpoint=FileCheckpoint(broken)).read_bytes()


# -- cancelling and letting go ---------------------------------------------------------------------


@pytest.mark.parametrize("live", ["sse", "long-poll"])
async def test_cancel_from_another_thread(server: Hostile, live: str) -> None:
    server.put("a")
    server.poll = 30
    async with AsyncClient(server.url) as client:
        reader = client.stream("a").follow(live=live)  # type: ignore[arg-type]
        await anext(reader)
        threading.Timer(0.1, reader.cancel).start()
        with pytest.raises(Cancelled):
            await anext(reader)
        with pytest.raises(Cancelled):
            await anext(reader)


async def test_cancel_while_waiting_to_repeat(server: Hostile) -> None:
    server.faults = lambda asked: refuse(503, Retry_After="60")
    async with AsyncClient(server.url) as client:
        reader = client.stream("a").follow()
        threading.Timer(0.1, reader.cancel).start()
        with pytest.raises(Cancelled):
            await anext(reader)


async def test_an_abandoned_reader_gives_its_connection_back(server: Hostile) -> None:
    server.put("a", b"1")
    async with AsyncClient(server.url) as client:
        for _ in range(3):
            batches: list[Batch[object]] = []
            async for batch in client.stream("a").follow(NOW):
                batches.append(batch)
                server.write("a", b"2")
                if len(batches) == 2:
                    break
            gc.collect()
        await client.stream("a").head()  # async readers are released by the loop
        server.wait_until(lambda: server.live == 0)


async def test_leaving_the_block_gives_the_connection_back(server: Hostile) -> None:
    server.put("a", b"1")
    async with AsyncClient(server.url) as client:
        async with client.stream("a").follow() as reader:
            await anext(reader)
            server.write("a", b"2")
            await anext(reader)
            assert server.live == 1
        with pytest.raises(StopAsyncIteration):
            await anext(reader)
        server.wait_until(lambda: server.live == 0)


@pytest.mark.parametrize("wrong", [{"live": "push"}, {"offset": ""}])
async def test_nonsense_is_refused(server: Hostile, wrong: dict[str, str]) -> None:
    async with AsyncClient(server.url) as client:
        with pytest.raises(InvalidArgument):
            client.stream("a").follow(**wrong)  # type: ignore[arg-type]


async def test_an_offset_whose_data_is_gone_ends_the_reader_with_what_to_do(
    server: Hostile,
) -> None:
    server.page = 1
    server.put("a", b"1", b"2")
    gone = Fault(
        apply=False,
        status=410,
        headers={"content-type": "application/problem+json"},
        body=b'{"code":"offset-gone","detail":"It was replaced."}',
    )
    server.faults = lambda asked: gone if asked.count else None
    async with AsyncClient(server.url) as client:
        for reader in (client.stream("a").read(), client.stream("a").follow(live="long-poll")):
            server.asked.clear()
            with pytest.raises(OffsetGone, match="read it again from START") as caught:
                async for batch in reader:
                    assert batch.data == b"1"
            assert isinstance(caught.value, Gone)
            assert (caught.value.status, caught.value.code) == (410, "offset-gone")
