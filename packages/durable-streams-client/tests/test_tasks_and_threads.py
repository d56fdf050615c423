"""What only one flavour has: tasks that are cancelled, threads that share."""

import asyncio
import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from hostile import Fault, Hostile, refuse

from durable_streams_client import (
    AsyncClient,
    Client,
    InvalidArgument,
    NotStored,
    ProducerLimits,
    RetryPolicy,
)

JSON = "application/json"


@pytest.mark.parametrize("live", ["sse", "long-poll"])
async def test_a_cancelled_task_leaves_its_connection(server: Hostile, live: str) -> None:
    server.put("a", b"1")
    server.poll = 30
    handed_out = asyncio.Event()
    async with AsyncClient(server.url) as client:

        async def read() -> None:
            async for _ in client.stream("a").follow(live=live):  # type: ignore[arg-type]
                handed_out.set()

        task = asyncio.create_task(read())
        await handed_out.wait()
        await asyncio.to_thread(server.wait_until, lambda: server.asked[-1].live == live)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(server.wait_until, lambda: server.live == 0)
        # The pool has lost nothing by it.
        await client.stream("a").append(b"2")


@pytest.mark.parametrize("steps", range(0, 60, 3))
async def test_cancelled_at_any_wait(server: Hostile, steps: int) -> None:
    """However far an append has come when its task is cancelled, the next one is stored once."""
    server.put("a", content_type=JSON)
    async with AsyncClient(server.url, retry=RetryPolicy(initial=0.001)) as client:
        stream = client.stream("a")
        await stream.append(0)
        task = asyncio.create_task(stream.append(1))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for n in range(2, 8):
            await stream.append(n)
    stored = [int(message) for message in server.streams["/a"].messages]
    assert [n for n in stored if n != 1] == [0, 2, 3, 4, 5, 6, 7]
    assert stored.count(1) <= 1


async def test_a_producer_in_a_cancelled_task_stops_and_says_what_it_dropped(
    server: Hostile, caplog: pytest.LogCaptureFixture
) -> None:
    server.put("a", content_type=JSON)
    server.faults = lambda asked: Fault(stall=True) if asked.method == "POST" else None
    full = ProducerLimits(queue_items=1, linger=0)
    async with AsyncClient(server.url) as client:
        producer = client.stream("a").producer(limits=full)

        async def write() -> None:
            async with producer:
                for n in range(10):
                    await producer.append(n)

        task = asyncio.create_task(write())
        await asyncio.to_thread(
            server.wait_until, lambda: bool(server.asked) and server.asked[-1].method == "POST"
        )
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert "was interrupted: 1 of 1 items were not stored" in caplog.text
        with pytest.raises(NotStored) as caught:
            await producer.flush()
        assert caught.value.items == [b"0"]
        assert caught.value.uncertain == 1
    assert len(asyncio.all_tasks()) == 1


async def test_appends_at_once(server: Hostile) -> None:
    server.put("a", content_type=JSON)
    server.faults = lambda asked: Fault(cut=0) if asked.count % 5 == 1 else None
    async with AsyncClient(server.url, retry=RetryPolicy(initial=0.001)) as client:
        stream = client.stream("a")
        await asyncio.gather(*(stream.append(n) for n in range(50)))
    assert sorted(int(message) for message in server.streams["/a"].messages) == list(range(50))
    assert len(server.streams["/a"].producers) <= 4


def test_threads_share_a_client_a_stream_and_a_producer(server: Hostile) -> None:
    server.put("a", content_type=JSON)
    server.put("b", content_type=JSON)
    with Client(server.url) as client, ThreadPoolExecutor(8) as pool:
        plain = client.stream("a")
        list(pool.map(plain.append, range(100)))
        with client.stream("b").producer(limits=ProducerLimits(queue_items=50)) as producer:
            list(pool.map(producer.append, range(2000)))
    for path, count in (("/a", 100), ("/b", 2000)):
        stored = sorted(int(message) for message in server.streams[path].messages)
        assert stored == list(range(count))


def test_coroutines_are_nothing_for_the_sync_client(server: Hostile) -> None:
    async def token() -> str:
        return "t"

    with (
        Client(server.url, headers={"A": token}) as client,  # type: ignore[dict-item]
        pytest.raises(InvalidArgument, match="coroutine"),
    ):
        client.stream("a").head()


def test_cancel_with_an_http_client_handed_in(server: Hostile) -> None:
    """Its sockets are not ours: the reader notices when the server has answered."""
    server.put("a")
    server.poll = 0.2
    with httpx.Client() as http, Client(server.url, http=http) as client:
        reader = client.stream("a").follow(live="long-poll")
        next(reader)
        threading.Timer(0.05, reader.cancel).start()
        with pytest.raises(Exception, match="cancelled"):
            next(reader)


def test_repeats_are_logged(server: Hostile, caplog: pytest.LogCaptureFixture) -> None:
    server.faults = lambda asked: refuse(503) if asked.count == 0 else None
    with (
        caplog.at_level(logging.WARNING, "durable_streams_client"),
        Client(server.url, retry=RetryPolicy(initial=0.001)) as client,
    ):
        client.stream("a?token=secret").create()
    assert "trying again" in caplog.text
    assert "secret" not in caplog.text


def test_http2_says_what_to_install(server: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "h2", None)
    with Client(server.url, http2=True) as client, pytest.raises(ImportError, match="http2"):
        client.stream("a").create()
