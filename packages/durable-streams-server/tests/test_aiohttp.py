"""What only aiohttp shows: sub-apps, middlewares, signals, runners that are not ours."""

import asyncio
from typing import Any

import pytest
from aiohttp import web
from wire import Client, Connection, chunked

from durable_streams_server import Engine, Limits, MemoryStore, create_app
from durable_streams_server.frontends.aiohttp import MOUNT


class Running:
    """An application on a runner as somebody else would set it up."""

    def __init__(self, app: Any, **options: Any) -> None:
        self.runner = web.AppRunner(app, shutdown_timeout=60, **options)

    async def __aenter__(self) -> Any:
        await self.runner.setup()
        site = web.TCPSite(self.runner, "127.0.0.1", 0)
        await site.start()
        return self.runner.addresses[0][1]

    async def __aexit__(self, *_: object) -> None:
        await self.runner.cleanup()


async def test_an_app_owns_the_store_it_is_given(memory: MemoryStore) -> None:
    app = create_app(memory)
    async with Running(app) as port:
        client = Client(port, "/", app[MOUNT])
        assert (await client.put("a", body=b"x")).status == 201
        assert app[MOUNT].engine.started
    assert not app[MOUNT].engine.started


async def test_an_engine_stays_the_applications_own(memory: MemoryStore) -> None:
    async with Engine(memory) as engine:
        async with Running(create_app(engine)) as port:
            client = Client(port, "/", create_app(engine)[MOUNT])
            await client.put("a", body=b"x")
        assert engine.started
        assert (await engine.read("a")).data == b"x"


def test_limits_of_an_engine_are_its_own(memory: MemoryStore) -> None:
    with pytest.raises(TypeError, match="has its own limits"):
        create_app(Engine(memory), limits=Limits())


async def test_below_a_prefix_the_prefix_counts(memory: MemoryStore) -> None:
    """Location and Stream-Forked-From are URLs, so they have it."""
    outer = web.Application()
    inner = create_app(memory, root="/streams")
    outer.add_subapp("/api/v2", inner)
    async with Running(outer) as port:
        client = Client(port, "/api/v2/streams/", inner[MOUNT])
        created = await client.put("x/a", body=b"x")
        assert created["location"] == "http://test.example/api/v2/streams/x/a"
        for number, source in enumerate(("/api/v2/streams/x/a", "x/a")):
            fork = await client.request("PUT", f"f/{number}", {"stream-forked-from": source})
            assert fork.status == 201
        outside = await client.request("PUT", "g", {"stream-forked-from": "/streams/x/a"})
        assert outside.code == "source-not-found"
        assert (await client.get("x%2Fa")).code == "invalid-path"


@pytest.mark.parametrize("protocol", ["h2c", "websocket"])
async def test_an_offered_upgrade_is_ignored(memory: MemoryStore, protocol: str) -> None:
    app = create_app(memory)
    offer = {"connection": "Upgrade", "upgrade": protocol, "content-type": "text/plain"}
    async with Running(app) as port, await Connection.to(port) as connection:
        assert (await connection.request("PUT", "/a", offer, b"x")).status == 201
        pieces = {**offer, "transfer-encoding": "chunked"}
        assert (await connection.request("POST", "/a", pieces, chunked(b"y"))).status == 204
        assert (await connection.request("GET", "/a", offer)).body == b"xy"


async def test_a_parents_size_limit_does_not_apply(memory: MemoryStore) -> None:
    outer = web.Application(client_max_size=100)
    inner = create_app(memory)
    outer.add_subapp("/s", inner)
    async with Running(outer) as port:
        client = Client(port, "/s/", inner[MOUNT])
        await client.put("a")
        assert (await client.post("a", b"x" * 2_000_000)).status == 204


async def test_headers_of_an_outer_application_reach_every_answer(memory: MemoryStore) -> None:
    async def sign(_request: Any, response: Any) -> None:
        response.headers["x-signed"] = "yes"

    @web.middleware
    async def tag(request: Any, handler: Any) -> Any:
        response = await handler(request)
        response.headers["x-tagged"] = "yes"
        return response

    outer = web.Application(middlewares=[tag])
    outer.on_response_prepare.append(sign)
    inner = create_app(memory)
    outer.add_subapp("/s", inner)
    async with Running(outer) as port:
        client = Client(port, "/s/", inner[MOUNT])
        answers = [
            await client.put("a", body=b"x"),
            await client.get("a"),
            await client.head("a"),
            await client.get("missing"),
            await client.delete("missing"),
            (await client.sse("a?offset=-1&live=sse")).head,
        ]
        for answer in answers:
            assert (answer["x-signed"], answer["x-tagged"]) == ("yes", "yes")
        assert answers[1].body == b"x"
        assert answers[2]["content-type"] == "text/plain"
        await client.close()


async def test_a_disconnect_is_seen_at_the_next_write_on_any_runner(memory: MemoryStore) -> None:
    app = create_app(memory)
    async with Running(app) as port:
        client = Client(port, "/", app[MOUNT])
        await client.put("a")
        events = await client.sse("a?offset=-1&live=sse")
        await events.batch()
        events.connection.abort()
        while len(client.engine.fanout):
            await client.engine.append("a", "x")
            await asyncio.sleep(0.001)


async def test_an_app_that_stops_tells_its_live_readers(memory: MemoryStore) -> None:
    app = create_app(memory)
    async with Running(app) as port:
        client = Client(port, "/", app[MOUNT])
        await client.put("a")
        events = await client.sse("a?offset=-1&live=sse")
        await events.batch()
        _, answer = await client.waiting("a?offset=-1&live=long-poll", 2)
    assert await events.rest() == []
    assert (await answer).status == 204
    await client.close()


async def test_an_http_1_0_client_gets_a_live_answer_without_chunks(memory: MemoryStore) -> None:
    app = create_app(memory)
    async with Running(app) as port:
        client = Client(port, "/", app[MOUNT])
        await client.put("a", body=b"x", stream_closed="true")
        connection = await client.connect()
        await connection.send(b"GET /a?offset=-1&live=sse HTTP/1.0\r\nHost: x\r\n\r\n")
        answer = await connection.answer()
        assert "transfer-encoding" not in answer
        assert b"event: data\ndata:x\n\n" in answer.body
        await client.close()


async def test_an_engine_that_was_not_started_is_an_answer(memory: MemoryStore) -> None:
    app = create_app(Engine(memory))
    async with Running(app) as port:
        client = Client(port, "/", app[MOUNT])
        assert (await client.put("a")).code == "not-started"
