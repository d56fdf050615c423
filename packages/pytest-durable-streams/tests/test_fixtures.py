"""The fixtures, in sync and async tests."""

import asyncio
import time

import httpx
import pytest

from durable_streams_client import AsyncClient, Client, NotFound, Subscriptions
from durable_streams_server import Engine
from pytest_durable_streams import StreamsClock, StreamsServer, serve

JSON = "application/json"


@pytest.mark.parametrize("time", ["first", "second"])
def test_every_test_has_streams_of_its_own(streams_client: Client, time: str) -> None:
    assert streams_client.stream("same/name").create().created


def test_the_server_is_a_real_one(streams_server: StreamsServer) -> None:
    url = streams_server.url + "a"
    assert httpx.put(url, headers={"Content-Type": JSON}, timeout=60).status_code == 201
    streams_server.run(streams_server.engine.append("a", {"n": 1}))
    assert httpx.get(url, timeout=60).json() == [{"n": 1}]


def test_a_sync_client_follows(streams_client: Client) -> None:
    stream = streams_client.stream("a")
    stream.create(content_type=JSON)
    with stream.producer() as out:
        out.append_many(range(100))
        out.close_stream()
    assert stream.follow().read_items() == list(range(100))


async def test_an_async_client_follows(
    async_streams_client: AsyncClient, streams_server: StreamsServer
) -> None:
    stream = async_streams_client.stream("a")
    await stream.create(content_type=JSON)
    items = stream.follow().items()
    for n in range(3):
        await stream.append(n)
        assert await anext(items) == n


async def test_an_engine_is_for_an_application_to_start(streams_engine: Engine) -> None:
    assert not streams_engine.started
    async with streams_engine:
        await streams_engine.create("a")


def test_a_stream_expires_when_the_clock_says_so(
    streams_client: Client, streams_clock: StreamsClock
) -> None:
    stream = streams_client.stream("a")
    stream.create(ttl=3600)
    streams_clock.advance(3500)
    assert stream.head().ttl == 3600
    streams_clock.advance(600)
    with pytest.raises(NotFound):
        stream.head()


async def test_a_waiting_reader_learns_that_its_stream_has_expired(
    async_streams_client: AsyncClient, streams_server: StreamsServer, streams_clock: StreamsClock
) -> None:
    stream = async_streams_client.stream("a")
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(streams_clock() / 1000 + 3600))
    await stream.create(expires_at=at)
    reading = asyncio.create_task(stream.follow().read_bytes())
    while not streams_server.engine.fanout.subscribers("a"):
        await asyncio.sleep(0.001)
    streams_clock.advance(3601)
    with pytest.raises(NotFound):
        await reading


async def test_the_clock_moves_an_engine_in_the_loop_of_the_test(
    streams_engine: Engine, streams_clock: StreamsClock
) -> None:
    happened = asyncio.Queue[str]()
    engine = Engine(streams_engine.store, hooks=[lambda what, _path: happened.put_nowait(what)])
    streams_clock.drive(engine)
    async with engine:
        await engine.create("a", ttl=60)
        assert await happened.get() == "created"
        streams_clock.advance(100)
        assert await happened.get() == "expired"


def test_a_lease_ends_when_the_clock_says_so(
    streams_client: Client, streams_clock: StreamsClock
) -> None:
    for name in "wakes", "work/1":
        streams_client.stream(name).create(content_type=JSON)
    subscriptions = Subscriptions(streams_client)
    subscriptions.create_pull("workers", "wakes", pattern="work/*", lease_seconds=30)
    streams_client.stream("work/1").append({"job": 1})
    next(streams_client.stream("wakes").follow().items())
    assert subscriptions.claim("workers", "one")
    assert subscriptions.claim("workers", "two") is None
    streams_clock.advance(31)
    assert subscriptions.claim("workers", "two")


def test_time_does_not_go_back(streams_clock: StreamsClock) -> None:
    with pytest.raises(ValueError, match="-1"):
        streams_clock.advance(-1)


def test_the_thread_of_the_server_is_refused_where_it_would_wait_for_itself(
    streams_server: StreamsServer,
) -> None:
    async def wait_for_itself() -> None:
        streams_server.run(streams_server.engine.create("a"))

    with pytest.raises(RuntimeError, match="await"):
        streams_server.run(wait_for_itself())


def test_a_server_may_last_for_a_session() -> None:
    with serve() as server, server.client() as client:
        client.stream("a").create()
        assert server.url in repr(server)


def test_a_server_leaves_no_reader_behind(streams_server: StreamsServer) -> None:
    """The test ends while a connection waits; the fixture ends it."""
    client = streams_server.client()
    client.stream("a").create()
    reader = client.stream("a").follow()
    assert next(reader).up_to_date
    client.close()
