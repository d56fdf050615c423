"""Our client and our server, in one process and over a network."""

import asyncio
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import durable_streams_client as client_errors
from durable_streams_client import (
    START,
    AsgiTransport,
    AsyncAsgiTransport,
    AsyncClient,
    Batch,
    Client,
    FileCheckpoint,
    NotUsableHere,
    OffsetGone,
    ProducerLimits,
    Retry,
    RetryPolicy,
    StreamClosed,
    TailMoved,
)
from durable_streams_core import errors as core_errors
from durable_streams_server import Batch as EngineBatch
from durable_streams_server import Engine, Limiter, PrincipalLimits, create_asgi


async def test_in_memory_over_asgi() -> None:
    """An application is tested without a socket, and live."""
    async with Engine("memory:") as streams:
        http = AsyncAsgiTransport(create_asgi(streams))
        async with AsyncClient("http://test/", http=http) as client:
            chat = client.stream("chats/42")
            await chat.create(content_type="application/json", ttl=60)
            async with chat.producer() as out:
                for n in range(1000):
                    await out.append({"n": n})
                await out.close_stream()
            assert [item["n"] async for item in chat.follow().items()] == list(range(1000))
            with pytest.raises(StreamClosed):
                await chat.append({})
            fork = client.stream("chats/43")
            await fork.fork(chat, offset=START, sub_offset=2)
            assert await fork.read().read_items() == [{"n": 0}, {"n": 1}]
            assert (await fork.head()).ttl == 60


@pytest.mark.parametrize("live", ["auto", "sse", "long-poll"])
async def test_in_memory_readers_wait_for_more(live: Any) -> None:
    async with Engine("memory:") as streams:
        http = AsyncAsgiTransport(create_asgi(streams))
        async with AsyncClient("http://test/", http=http) as client:
            await streams.create("a", content_type="application/json")
            items = client.stream("a").follow(live=live).items()
            for n in range(3):
                await streams.append("a", n)
                assert await anext(items) == n
            await streams.close_stream("a")
            assert [item async for item in items] == []


@pytest.mark.parametrize("live", ["sse", "long-poll"])
async def test_an_engine_has_no_reader_left_once_its_client_is_cancelled(live: Any) -> None:
    async with Engine("memory:") as streams:
        await streams.create("a")
        http = AsyncAsgiTransport(create_asgi(streams))
        async with AsyncClient("http://test/", http=http) as client:
            reading = asyncio.create_task(client.stream("a").follow(live=live).read_bytes())
            while not streams.fanout.subscribers("a"):
                await asyncio.sleep(0)
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            async with asyncio.timeout(60):
                while streams.fanout.subscribers("a"):
                    await asyncio.sleep(0)


async def test_a_sync_client_follows_an_engine_of_another_thread() -> None:
    """The engine's loop goes on while a thread waits."""
    async with Engine("memory:") as streams:
        await streams.create("a", content_type="application/json")
        http = AsgiTransport(create_asgi(streams), loop=asyncio.get_running_loop())
        with Client("http://test/", http=http) as client:
            items = client.stream("a").follow().items()
            for n in range(3):
                await streams.append("a", n)
                assert await asyncio.to_thread(next, items) == n
            with pytest.raises(NotUsableHere, match="AsyncClient"):
                client.stream("a").head()
            await asyncio.to_thread(client.close)


def test_a_sync_client_of_an_application_needs_no_loop() -> None:
    with Client("http://test/", http=AsgiTransport(create_asgi("memory:"))) as client:
        stream = client.stream("a")
        stream.create(content_type="application/json")
        with stream.producer() as out:
            out.append_many(range(100))
            out.close_stream()
        assert list(stream.follow().items()) == list(range(100))


@pytest.fixture(scope="module")
def url() -> Iterator[Any]:
    """Where the streams of a standalone server live."""
    command = [sys.executable, "-m", "durable_streams_server", "--port", "0", "--store", "memory:"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout:
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                break
        else:
            pytest.fail("the server did not start")
        yield found[0] + "/v1/stream/"
        process.terminate()


@pytest.mark.parametrize("live", ["auto", "sse", "long-poll"])
@pytest.mark.parametrize("kind", ["application/json", "text/plain", "application/octet-stream"])
def test_every_way_of_following(url: Any, live: str, kind: str) -> None:
    with Client(url) as client:
        stream = client.stream(f"{live}/{kind}", content_type=kind)
        stream.create()
        pieces = [b'"%d"' % n for n in range(300)]
        limits = ProducerLimits(batch_items=7, linger=0)
        got = b""
        with stream.producer(limits=limits) as out:
            out.append_many(pieces[:100])
            out.flush()
            for batch in stream.follow(live=live):
                got += (
                    b"".join(b'"%b"' % i.encode() for i in batch) if batch.is_json else batch.data
                )
                if len(got) == len(b"".join(pieces[:100])):
                    out.append_many(pieces[100:])
                    out.close_stream()
        assert got == b"".join(pieces)


def members(kind: type) -> set[str]:
    """The public attributes and methods of a class, those of a ``Batch`` besides its stream."""
    names = {name for name in dir(kind) if not name.startswith("_")}
    special = {name for name in ("__iter__", "__len__", "__bool__") if name in dir(kind)}
    return (names | special) - {"url"}


def test_a_batch_of_the_engine_has_the_attributes_of_one_of_the_client() -> None:
    assert members(EngineBatch) == members(Batch)


def test_appends_that_expect_a_tail(url: Any) -> None:
    with Client(url) as client:
        stream = client.stream("expecting", content_type="application/json")
        tail = stream.create().offset
        assert stream.append({"n": 1}, expected=tail).offset > tail
        with pytest.raises(TailMoved) as caught:
            stream.append({"n": 2}, expected=tail)
        stream.append({"n": 2}, expected=caught.value.offset)
        assert stream.read().read_items() == [{"n": 1}, {"n": 2}]


def test_streams_are_listed_by_their_names(url: Any) -> None:
    names = [f"listed/{n}" for n in range(3)] + ["listed/is it done? 100% ä"]
    with Client(url) as client:
        for name in names:
            client.stream(name).create(content_type="text/plain", data="12", ttl=60)
        listed = list(client.list("listed/"))
        assert [each.path for each in listed] == names
        assert {(each.content_type, each.size, each.ttl) for each in listed} == {
            ("text/plain", 2, 60)
        }
        assert [client.stream(each.path).read().read_text() for each in listed] == ["12"] * 4


def test_progress_inside_a_page_of_a_real_server(url: Any) -> None:
    with Client(url) as client:
        stream = client.stream("progress", content_type="application/json")
        stream.create()
        stream.append_many(range(100))
        with stream.follow() as reader:
            items = reader.items()
            assert [next(items) for _ in range(43)] == list(range(43))
        fork = client.stream("progress-fork")
        fork.fork(stream, offset=reader.offset)
        assert fork.read().read_items() == list(range(42))
        stream.append_many(range(100, 200))
        assert stream.read(reader.offset).read_items() == list(range(42, 200))


def test_a_stream_that_was_replaced_while_a_reader_was_in_its_first_page(url: Any) -> None:
    with Client(url) as client:
        stream = client.stream("replaced-in-page", content_type="application/json")
        stream.create()
        stream.append_many(range(10))
        reader = stream.read()
        items = reader.items()
        assert [next(items) for _ in range(5)] == [0, 1, 2, 3, 4]
        assert next(stream.read(reader.offset).items()) == 4
        stream.delete()
        stream.create()
        stream.append_many(range(100, 200))
        with pytest.raises(OffsetGone):
            next(stream.read(reader.offset).items())


async def test_many_readers_of_one_client(url: Any) -> None:
    async with AsyncClient(url) as client:
        stream = client.stream("many")
        await stream.create(content_type="application/json")
        started = asyncio.Semaphore(0)

        async def read() -> list[int]:
            got: list[int] = []
            async for batch in stream.follow():
                got += batch
                started.release()
            return got

        readers = [asyncio.create_task(read()) for _ in range(150)]
        for _ in readers:
            await started.acquire()
        await stream.append_many(range(10))
        await stream.close_stream(10)
        assert await asyncio.gather(*readers) == [list(range(11))] * 150


@pytest.mark.parametrize("live", ["auto", "sse", "long-poll"])
async def test_a_follower_of_a_stream_that_is_replaced_ends_and_skips_nothing(
    url: Any, live: str
) -> None:
    """The new stream is longer than what was read of the old one, so positions would not tell."""
    async with AsyncClient(url) as client:
        stream = client.stream(f"replaced/{live}", content_type="text/plain")
        await stream.create()
        await stream.append("old")
        got = []
        with pytest.raises(OffsetGone, match="START"):
            async for batch in stream.follow(live=live):
                got.append(batch.data)
                await stream.delete()
                await stream.create()
                await stream.append("newer data")
        assert got == [b"old"]


def test_a_saved_offset_of_a_stream_that_was_replaced_is_refused(url: Any, tmp_path: Path) -> None:
    checkpoint = FileCheckpoint(tmp_path / "offset")
    with Client(url) as client:
        stream = client.stream("replaced/saved", content_type="text/plain")
        stream.create()
        stream.append("old")
        with stream.follow(checkpoint=checkpoint) as reader:
            for batch in reader:
                assert batch.data == b"old"
                break
        checkpoint.save(batch.offset)
        stream.delete()
        stream.create()
        stream.append("newer data")
        with pytest.raises(OffsetGone), stream.follow(checkpoint=checkpoint) as reader:
            next(iter(reader))


def test_the_command_says_that_an_offset_is_gone(url: Any, tmp_path: Path) -> None:
    name = "replaced/command"
    command = [sys.executable, "-m", "durable_streams_client", "--url", url]

    def run(*arguments: Any, status: Any = 0) -> Any:
        done = subprocess.run(
            [*command, *arguments], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == status, done.stderr
        return done

    run("create", name, "--content-type", "text/plain")
    run("append", name, "old")
    saved = tmp_path / "offset"
    with Client(url) as client:
        saved.write_text(client.stream(name).head().offset)
    run("delete", name)
    run("create", name, "--content-type", "text/plain")
    run("append", name, "newer data")
    ended = run("follow", name, "--checkpoint", str(saved), status=3)
    assert ended.stdout == ""
    assert "read it again from START" in ended.stderr


@pytest.mark.parametrize("name", sorted(set(core_errors.__all__) & set(client_errors.__all__)))
def test_errors_of_the_client_are_kinds_of_cores(name: Any) -> None:
    """One ``except`` clause fits an engine in the process and a client of a server."""
    assert issubclass(getattr(client_errors, name), getattr(core_errors, name))


async def test_the_same_error_is_caught_from_an_engine_and_from_a_client(url: Any) -> None:
    async with Engine("memory:") as engine, AsyncClient(url) as client:
        await engine.create("closed", content_type="text/plain", closed=True)
        stream = client.stream("closed", content_type="text/plain")
        await stream.create(closed=True)
        for append in (engine.append("closed", "x"), stream.append("x")):
            with pytest.raises(core_errors.StreamClosed) as caught:
                await append
            assert (caught.value.status, caught.value.code) == (409, "stream-closed")
        for missing in (engine.read("missing"), client.stream("missing").head()):
            with pytest.raises(core_errors.NotFound):
                await missing


async def test_a_client_that_is_too_fast_waits_and_loses_nothing() -> None:
    """The server refuses what is beyond a limit, and the client comes again after Retry-After."""
    now = 0.0
    retries: list[Retry] = []

    def clock() -> float:
        nonlocal now
        now += 0.3
        return now

    limiter = Limiter(PrincipalLimits(appends_per_second=1, bytes_per_second=50), clock=clock)
    async with Engine("memory:") as streams:
        http = AsyncAsgiTransport(create_asgi(streams, limiter=limiter))
        # The wait is as long as the server asks for; here the test's clock has gone on by itself.
        retry = RetryPolicy(attempts=50, retry_after_limit=0.001, initial=0.001, maximum=0.001)
        async with AsyncClient(
            "http://test/", http=http, retry=retry, on_retry=retries.append
        ) as client:
            log = client.stream("log")
            await log.create(content_type="application/json")
            async with log.producer() as out:
                for n in range(30):
                    await out.append({"n": n})
                    await out.flush()
            assert await log.read().read_items() == [{"n": n} for n in range(30)]
    assert {retry.error.status for retry in retries} == {429}
