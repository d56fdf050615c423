"""What only one flavour has: tasks that are cancelled, threads that share."""

import asyncio
import logging
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from hostile import Fault, Hostile, refuse

from durable_streams_client import (
    AsyncClient,
    AsyncProducer,
    Cancelled,
    Client,
    ClientClosed,
    ClientError,
    InvalidArgument,
    NotStored,
    NotUsableHere,
    ProducerLimits,
    RetryPolicy,
)

JSON = "application/json"


def all_errors(kind: type[ClientError] = ClientError) -> set[type[ClientError]]:
    return {kind}.union(*(all_errors(each) for each in kind.__subclasses__()))


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


@pytest.mark.parametrize("first", ["task", "reader", "client"])
async def test_a_task_cancelled_in_the_turn_that_ends_its_reader_is_cancelled(
    server: Hostile, first: str
) -> None:
    server.faults = lambda asked: refuse(503, Retry_After="60")
    pausing = asyncio.Event()
    async with AsyncClient(server.url, on_retry=lambda _: pausing.set()) as client:
        reader = client.stream("a").follow()

        async def read() -> None:
            async for _ in reader:
                pass

        task = asyncio.create_task(read())
        await pausing.wait()
        await asyncio.sleep(0)
        if first == "task":
            task.cancel()
            reader.cancel()
        elif first == "reader":
            reader.cancel()
            task.cancel()
        else:
            closing = asyncio.create_task(client.aclose())
            await asyncio.sleep(0)
            task.cancel()
            await closing
        await asyncio.wait([task])
        assert task.cancelled()


async def test_a_reader_that_is_ended_says_so_in_a_task_that_was_cancelled_before(
    server: Hostile,
) -> None:
    server.put("a", b"1")
    server.poll = 30
    async with AsyncClient(server.url) as client:
        reader = client.stream("a").follow(live="long-poll")

        async def clean_up() -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                async for _ in reader:
                    pass

        task = asyncio.create_task(clean_up())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.to_thread(
            server.wait_until, lambda: bool(server.asked) and server.asked[-1].live == "long-poll"
        )
        reader.cancel()
        with pytest.raises(Cancelled):
            await task


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


@pytest.mark.parametrize("live", ["sse", "long-poll"])
@pytest.mark.parametrize("given", [False, True], ids=["own", "given"])
def test_closing_a_client_ends_its_waits(server: Hostile, live: str, given: bool) -> None:
    server.put("a")
    server.poll = 60
    http = httpx.Client() if given else None
    client = Client(server.url, http=http)
    reader = client.stream("a").follow(live=live)  # type: ignore[arg-type]
    next(reader)

    def close() -> None:
        server.wait_until(lambda: server.asked[-1].live == live)
        client.close()

    thread = threading.Thread(target=close)
    thread.start()
    with pytest.raises(ClientClosed):
        next(reader)
    thread.join()
    if http is not None:
        http.close()


@pytest.mark.parametrize("live", ["sse", "long-poll"])
async def test_closing_an_async_client_ends_its_waits(server: Hostile, live: str) -> None:
    server.put("a")
    server.poll = 60
    client = AsyncClient(server.url)
    reader = client.stream("a").follow(live=live)  # type: ignore[arg-type]
    await anext(reader)
    waiting = asyncio.create_task(reader.__anext__())  # type: ignore[arg-type]
    await asyncio.to_thread(server.wait_until, lambda: server.asked[-1].live == live)
    await client.aclose()
    with pytest.raises(ClientClosed):
        await waiting


def test_closing_a_client_ends_the_pause_before_a_repeat(server: Hostile) -> None:
    server.faults = lambda asked: refuse(503, Retry_After="60")
    paused = threading.Event()
    with Client(server.url, on_retry=lambda _: paused.set()) as client:

        def close() -> None:
            paused.wait(60)
            client.close()

        thread = threading.Thread(target=close)
        thread.start()
        with pytest.raises(ClientClosed):
            client.stream("a").head()
        thread.join()


def test_closing_a_client_ends_its_producers(server: Hostile) -> None:
    server.put("a", content_type=JSON)
    server.faults = lambda asked: Fault(stall=True) if asked.method == "POST" else None
    client = Client(server.url)
    producer = client.stream("a").producer(limits=ProducerLimits(linger=0))
    producer.append(1)
    server.wait_until(lambda: server.asked[-1].method == "POST")
    client.close()
    with pytest.raises(NotStored) as caught:
        producer.flush()
    assert isinstance(caught.value.cause, ClientClosed)
    assert caught.value.items == [b"1"]
    producer.close(flush=False)


def test_one_async_client_serves_one_loop_after_another(server: Hostile) -> None:
    server.put("a", content_type=JSON)
    client = AsyncClient(server.url)
    stream = client.stream("a")
    for n in range(3):
        asyncio.run(stream.append(n))
    assert [int(message) for message in server.streams["/a"].messages] == [0, 1, 2]
    server.wait_until(lambda: server.connections == 0)
    asyncio.run(client.aclose())


def test_one_async_client_serves_loops_in_several_threads(server: Hostile) -> None:
    server.put("a", content_type=JSON)
    client = AsyncClient(server.url)
    stream = client.stream("a", content_type=JSON)

    async def write(first: int) -> None:
        await asyncio.gather(*(stream.append(first + n) for n in range(20)))

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda first: asyncio.run(write(first)), range(0, 60, 20)))
    assert sorted(int(message) for message in server.streams["/a"].messages) == list(range(60))
    asyncio.run(client.aclose())


def test_a_producer_says_that_it_belongs_to_another_loop(server: Hostile) -> None:
    server.put("a", content_type=JSON)
    client = AsyncClient(server.url)
    slow = ProducerLimits(linger=60)

    async def make() -> AsyncProducer:
        producer = client.stream("a").producer(limits=slow)
        await producer.append(1)
        return producer

    async def use(producer: AsyncProducer) -> None:
        with pytest.raises((NotUsableHere, NotStored)):
            await producer.flush()
        await producer.aclose(flush=False)
        await client.aclose()

    asyncio.run(use(asyncio.run(make())))


@pytest.mark.parametrize("kind", sorted(all_errors(), key=lambda kind: kind.__name__))
def test_every_error_survives_a_process_pool(kind: type[ClientError]) -> None:
    if kind is NotStored:
        error: ClientError = NotStored(
            "x", items=[b"1"], uncertain=1, cause=ClientError("why", url="http://h/")
        )
    else:
        error = kind("x", url="http://h/a", status=400, advice="do")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert str(copy) == str(error)
    assert vars(copy).keys() == vars(error).keys()


def test_repeats_are_logged(server: Hostile, caplog: pytest.LogCaptureFixture) -> None:
    server.faults = lambda asked: refuse(503) if asked.count == 0 else None
    with (
        caplog.at_level(logging.WARNING, "durable_streams_client"),
        Client(server.url, retry=RetryPolicy(initial=0.001)) as client,
    ):
        client.stream(f"{server.url}a?token=secret").create()
    assert "trying again" in caplog.text
    assert "secret" not in caplog.text


def test_http2_says_what_to_install(server: Hostile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "h2", None)
    with Client(server.url, http2=True) as client, pytest.raises(ImportError, match="http2"):
        client.stream("a").create()
