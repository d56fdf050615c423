"""Clients of an engine in the same process, without a socket."""

import asyncio
from typing import Any

import pytest

from durable_streams_client import AsyncClient, Client, NotFound, NotUsableHere, StreamClosed
from durable_streams_server import Engine, MemoryStore
from pytest_durable_streams import StreamsServer, async_client_for, client_for

JSON = "application/json"


@pytest.mark.parametrize("live", ["auto", "sse", "long-poll"])
async def test_an_async_client_reads_live_from_an_engine_in_its_loop(live: Any) -> None:
    async with Engine("memory:") as engine, async_client_for(engine) as client:
        await engine.create("a", content_type=JSON)
        items = client.stream("a").follow(live=live).items()
        for n in range(3):
            await engine.append("a", n)
            assert await anext(items) == n
        await engine.close_stream("a")
        assert [item async for item in items] == []


@pytest.mark.parametrize("live", ["auto", "sse", "long-poll"])
def test_a_sync_client_reads_live_from_an_engine_in_another_thread(
    streams_server: StreamsServer, live: Any
) -> None:
    engine = streams_server.engine
    streams_server.run(engine.create("a", content_type=JSON))
    with client_for(engine) as client:
        items = client.stream("a").follow(live=live).items()
        for n in range(3):
            streams_server.run(engine.append("a", n))
            assert next(items) == n
    assert engine.started


async def test_an_async_client_reads_from_an_engine_in_another_loop(
    streams_server: StreamsServer,
) -> None:
    async with async_client_for(streams_server.engine) as client:
        await write_and_read(client)


def check(client: Client) -> None:
    stream = client.stream("a")
    stream.create(content_type=JSON)
    with stream.producer() as out:
        out.append_many(range(100))
        out.close_stream()
    assert stream.follow().read_items() == list(range(100))


async def write_and_read(client: AsyncClient) -> None:
    stream = client.stream("a")
    await stream.create(content_type=JSON)
    async with stream.producer() as out:
        await out.append_many(range(100))
        await out.close_stream()
    assert await stream.follow().read_items() == list(range(100))


@pytest.mark.parametrize("made", [Engine, str, lambda _: MemoryStore()])
async def test_what_does_not_run_is_run_by_the_client_until_it_is_closed(made: Any) -> None:
    streams = made("memory:")
    with client_for(streams) as client:
        await asyncio.to_thread(check, client)
    async with async_client_for(made("memory:")) as client:
        await write_and_read(client)
    if isinstance(streams, Engine):
        assert not streams.started


def test_errors_are_those_of_http() -> None:
    with client_for("memory:") as client:
        with pytest.raises(NotFound) as missing:
            client.stream("nothing").head()
        assert missing.value.status == 404
        client.stream("a").create(closed=True)
        with pytest.raises(StreamClosed):
            client.stream("a").append("late")


async def test_a_sync_client_is_refused_where_it_would_stop_the_engine() -> None:
    async with Engine("memory:") as engine:
        with client_for(engine) as client, pytest.raises(NotUsableHere):
            client.stream("a").create()
