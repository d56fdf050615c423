"""The event store for MCP: what a client missed is replayed, to it and to nobody else."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.streamable_http import EventMessage
from mcp.types import JSONRPCNotification, TextContent

from durable_streams_client import AsyncAsgiTransport, AsyncClient
from durable_streams_runs.adapters.mcp import EventStore
from durable_streams_server import Engine, MemoryStore, create_asgi


def note(text: str) -> JSONRPCNotification:
    return JSONRPCNotification(jsonrpc="2.0", method="note", params={"text": text})


class Received:
    """The events that a client gets in a replay."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.ids: list[str] = []

    async def __call__(self, event: EventMessage) -> None:
        message = event.message
        assert isinstance(message, JSONRPCNotification)
        assert message.params is not None
        self.texts.append(message.params["text"])
        assert event.event_id is not None
        self.ids.append(event.event_id)


def client_of(engine: Engine) -> AsyncClient:
    """A client that calls the engine in this process."""
    return AsyncClient(
        "http://app/", http=AsyncAsgiTransport(create_asgi(engine), loop=engine.loop)
    )


@asynccontextmanager
async def served(app: Any) -> AsyncIterator[str]:
    """The URL at which uvicorn serves the application."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(
            app, lifespan="on", log_level="warning", timeout_graceful_shutdown=1
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            # The socket listens already: a connection waits until the server accepts it.
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving


async def test_every_event_that_came_after_one_is_replayed_in_order(memory: Engine) -> None:
    events = EventStore(memory)
    with events.session("a"):
        ids = [await events.store_event("7", None)]
        ids += [await events.store_event("7", note(f"{n}")) for n in range(5)]
        for seen in range(len(ids)):
            received = Received()
            assert await events.replay_events_after(ids[seen], received) == "7"
            assert received.texts == [f"{n}" for n in range(seen, 5)]


async def test_a_replayed_event_keeps_its_id(memory: Engine) -> None:
    """So a client that loses its replay as well goes on from where that was."""
    events = EventStore(memory)
    with events.session("a"):
        ids = [await events.store_event("7", note(f"{n}")) for n in range(5)]
        received = Received()
        await events.replay_events_after(ids[0], received)
    assert received.ids == ids[1:]


async def test_events_stored_at_once_have_ids_of_their_own(memory: Engine) -> None:
    events = EventStore(memory)
    with events.session("a"):
        ids = await asyncio.gather(*(events.store_event("7", note(f"{n}")) for n in range(20)))
        received = Received()
        await events.replay_events_after(ids[0], received)
    assert received.ids == list(ids[1:])
    assert received.texts == [f"{n}" for n in range(1, 20)]


async def test_streams_and_sessions_are_replayed_apart(memory: Engine) -> None:
    """Request ids begin with 1 in every session."""
    events = EventStore(memory)
    with events.session("a"):
        mine = await events.store_event("1", note("for a"))
        await events.store_event("2", note("another request"))
        await events.store_event("1", note("for a too"))
    with events.session("b"):
        await events.store_event("1", note("for b"))
        received = Received()
        assert await events.replay_events_after(mine, received) is None
        assert received.texts == []
    with events.session("a"):
        await events.replay_events_after(mine, received)
    assert received.texts == ["for a too"]


@pytest.mark.parametrize(
    "event_id",
    [
        *("", "1", ".", "..", "a.b.c", "../../x.-1.0", "0" * 32 + ".-1.0", "0" * 32 + ".zz zz.1"),
        *("{stream}.1/2.1", "{stream}.-1/0.1", "{stream}.é.1", "{stream}.\ud800.1"),
    ],
)
@pytest.mark.parametrize("over", ["engine", "client"])
async def test_an_event_that_is_not_there_has_no_replay(
    memory: Engine, over: str, event_id: str
) -> None:
    async with client_of(memory) as client:
        events = EventStore(memory if over == "engine" else client)
        with events.session("a"):
            stream = (await events.store_event("1", note("x"))).partition(".")[0]
            event_id = event_id.format(stream=stream)
            assert await events.replay_events_after(event_id, Received()) is None


@pytest.mark.parametrize("over", ["engine", "client"])
async def test_a_message_after_the_stream_expired_is_stored_and_replayed(over: str) -> None:
    now = 1_800_000_000_000
    store = MemoryStore(clock=lambda: now)
    async with Engine(store) as engine, client_of(engine) as client:
        events = EventStore(engine if over == "engine" else client, ttl=60)
        with events.session("a"):
            first = await events.store_event("1", None)
            now += 120_000
            ids = [await events.store_event("1", note(f"{n}")) for n in range(2)]
            received = Received()
            assert await events.replay_events_after(first, received) == "1"
            assert received.texts == ["0", "1"]
            assert await events.replay_events_after(ids[0], received) == "1"
            assert received.texts == ["0", "1", "1"]


@pytest.mark.parametrize("stream_id", ["", "../..", "a/b", "é" * 1000, "\0", "_GET_stream"])
async def test_a_request_may_have_any_id(memory: Engine, stream_id: str) -> None:
    events = EventStore(memory)
    with events.session("a"):
        first = await events.store_event(stream_id, None)
        await events.store_event(stream_id, note("x"))
        received = Received()
        assert await events.replay_events_after(first, received) == stream_id
    assert received.texts == ["x"]


async def test_an_application_that_is_not_wrapped_is_told_to_be(memory: Engine) -> None:
    with pytest.raises(RuntimeError, match=r"events\.wrap\(app\)"):
        await EventStore(memory).store_event("1", None)


async def test_a_store_that_knows_nothing_yet_goes_on_with_what_is_stored(memory: Engine) -> None:
    with EventStore(memory).session("a"):
        ids = [await EventStore(memory).store_event("1", note(f"{n}")) for n in range(3)]
        received = Received()
        assert await EventStore(memory).replay_events_after(ids[0], received) == "1"
    assert received.ids == ids[1:]
    assert received.texts == ["1", "2"]


async def test_an_append_that_was_cancelled_takes_no_number_from_another(memory: Engine) -> None:
    events = EventStore(memory)
    with events.session("a"):
        first = await events.store_event("1", None)
        storing = asyncio.create_task(events.store_event("1", note("perhaps")))
        await asyncio.sleep(0)
        storing.cancel()
        await asyncio.wait([storing])
        last = await events.store_event("1", note("surely"))
        received = Received()
        await events.replay_events_after(first, received)
    assert received.texts in (["perhaps", "surely"], ["surely"])
    assert received.ids[-1] == last
    assert len({first, *received.ids}) == len(received.ids) + 1


def polling_server() -> MCPServer:
    """A server whose tool closes its response half way: the client has to resume."""
    server = MCPServer("polling")

    @server.tool()
    async def work(name: str, context: Context) -> str:
        await context.report_progress(0.5, total=1.0, message=f"{name} began")
        await context.close_sse_stream()
        await context.report_progress(1.0, total=1.0, message=f"{name} ended")
        return f"{name} is done"

    return server


@pytest.mark.parametrize("over", ["engine", "client"])
async def test_clients_of_the_sdk_resume_a_call_whose_connection_was_lost(
    memory: Engine, over: str
) -> None:
    async with served(create_asgi(memory)) as url, AsyncClient(url + "/") as client:
        events = EventStore(memory if over == "engine" else client)
        app = polling_server().streamable_http_app(event_store=events, retry_interval=0)
        async with served(events.wrap(app)) as mcp:

            async def call(name: str) -> list[str | None]:
                told: list[str | None] = []

                async def on_progress(_: float, __: float | None, message: str | None) -> None:
                    told.append(message)

                async with Client(streamable_http_client(f"{mcp}/mcp"), mode="legacy") as session:
                    result = await session.call_tool(
                        "work", {"name": name}, progress_callback=on_progress
                    )
                assert isinstance(result.content[0], TextContent)
                return [*told, result.content[0].text]

            async with asyncio.timeout(60):
                found = await asyncio.gather(*map(call, ("one", "two")))
    assert found == [[f"{n} began", f"{n} ended", f"{n} is done"] for n in ("one", "two")]
