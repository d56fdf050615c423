"""The same promises on every way to a server."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from hostile import Fault, Hostile
from relay import Relay

from durable_streams_client import (
    AsyncClient,
    Cancelled,
    InvalidArgument,
    NoFreeConnection,
    NotStored,
    ProducerLimits,
    RetryPolicy,
    TimedOut,
    Timeouts,
)

JSON = "application/json"
NOWHERE = "http://127.0.0.1:9"
VARIABLES = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"]


@dataclass
class Route:
    """A way to the server: the URL of its streams, and the options of a client that takes it."""

    url: str
    options: dict[str, Any] = field(default_factory=dict)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture(params=["direct", "proxied", "exempt", "given client", "given transport"])
def route(
    request: pytest.FixtureRequest, server: Hostile, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Route]:
    everyone = httpx.Limits(max_connections=None)
    with Relay(server.port) as relay:
        if request.param == "proxied":
            monkeypatch.setenv("ALL_PROXY", relay.url)
            yield Route("http://streams.example/")
        elif request.param == "exempt":
            monkeypatch.setenv("HTTP_PROXY", NOWHERE)
            monkeypatch.setenv("NO_PROXY", "127.0.0.1")
            yield Route(server.url)
        elif request.param == "given client":
            yield Route(server.url, {"http": httpx.AsyncClient(limits=everyone)})
        elif request.param == "given transport":
            yield Route(server.url, {"http": httpx.AsyncHTTPTransport(limits=everyone)})
        else:
            yield Route(server.url)


async def close(route: Route) -> None:
    """Close an HTTP client that was handed in."""
    given = route.options.get("http")
    if isinstance(given, httpx.AsyncClient):
        await given.aclose()


@pytest.mark.parametrize("live", ["sse", "long-poll"])
async def test_a_waiting_reader_is_cancelled_at_once(
    server: Hostile, route: Route, live: str
) -> None:
    server.put("a")
    server.poll = 60

    async with AsyncClient(route.url, **route.options) as client:
        reader = client.stream("a").follow(live=live)  # type: ignore[arg-type]
        await anext(reader)

        def cancel() -> None:
            server.wait_until(lambda: server.asked[-1].live == live)
            reader.cancel()

        thread = threading.Thread(target=cancel)
        thread.start()
        with pytest.raises(Cancelled):
            await anext(reader)
        thread.join()
        await client.stream("a").head()
    await close(route)


async def test_the_total_time_limit_is_kept(server: Hostile, route: Route) -> None:
    server.put("a")
    server.faults = lambda asked: Fault(stall=True)
    limits = Timeouts(total=0.2)
    async with AsyncClient(route.url, timeouts=limits, **route.options) as client:
        with pytest.raises(TimedOut):
            await client.stream("a").head()
    await close(route)


async def test_a_response_that_drips_is_ended_by_the_total_time_limit(
    server: Hostile, route: Route
) -> None:
    server.put("a", b"x" * 1000)
    server.faults = lambda asked: Fault(pieces=1, pause=0.05)
    limits = Timeouts(total=0.4)
    async with AsyncClient(route.url, timeouts=limits, **route.options) as client:
        with pytest.raises(TimedOut):
            await client.stream("a").read().read_bytes()
    await close(route)


async def test_a_producer_keeps_the_total_time_limit(server: Hostile, route: Route) -> None:
    server.put("a", content_type=JSON)
    server.faults = lambda asked: Fault(stall=True) if asked.method == "POST" else None
    limits = Timeouts(total=0.2)
    async with AsyncClient(route.url, timeouts=limits, **route.options) as client:
        producer = client.stream("a", content_type=JSON).producer(limits=ProducerLimits(linger=0))
        await producer.append(1)
        with pytest.raises(NotStored) as caught:
            await producer.flush()
        assert isinstance(caught.value.cause, TimedOut)
        assert caught.value.items == [b"1"]
        await producer.aclose(flush=False)
    await close(route)


async def test_an_http_client_with_too_few_connections_is_refused(server: Hostile) -> None:
    """A reader that no connection is left for says so, and does not wait for ever."""
    server.put("a")
    server.poll = 60
    http = httpx.AsyncClient(limits=httpx.Limits(max_connections=1))
    limits = Timeouts(connect=0.2)
    async with AsyncClient(server.url, http=http, timeouts=limits) as client:
        async with client.stream("a").follow(live="sse") as first:
            await anext(first)
            server.write("a", b"x")
            await anext(first)
            with pytest.raises(NoFreeConnection, match="max_connections"):
                await anext(client.stream("a").follow())
    await http.aclose()


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
async def test_a_proxy_of_the_environment_is_used(
    server: Hostile, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    server.put("a")
    with Relay(server.port) as relay:
        monkeypatch.setenv(name, relay.url)
        async with AsyncClient("http://streams.example/") as client:
            assert await client.stream("a").exists()
            assert await client.stream("a").exists()
        assert relay.connections == 1


@pytest.mark.parametrize("exempt", ["127.0.0.1", "127.0.0.0/8", "*", "x.example, 127.0.0.1"])
async def test_a_server_that_no_proxy_names_is_reached_directly(
    server: Hostile, monkeypatch: pytest.MonkeyPatch, exempt: str
) -> None:
    server.put("a")
    monkeypatch.setenv("ALL_PROXY", NOWHERE)
    monkeypatch.setenv("NO_PROXY", exempt)
    async with AsyncClient(server.url, retry=RetryPolicy(attempts=1)) as client:
        assert await client.stream("a").exists()


async def test_a_proxy_that_cannot_be_meant_is_refused(
    server: Hostile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", "ftp://proxy.example")
    async with AsyncClient(server.url) as client:
        with pytest.raises(InvalidArgument, match="ALL_PROXY"):
            await client.stream("a").head()


async def test_connections_are_used_again_beside_live_readers(server: Hostile) -> None:
    """However many readers wait, calls neither wait for them nor open connections of their own."""
    server.put("a", b"1", content_type=JSON)
    server.put("b")
    async with AsyncClient(server.url) as client:
        readers = [client.stream("a").follow(live="sse") for _ in range(120)]
        for reader in readers:
            await anext(reader)
        server.write("a", b"2")
        for reader in readers:
            assert list(await anext(reader)) == [2]
        assert server.live == 120
        peers = set()
        for _ in range(20):
            await client.stream("b").head()
            peers.add(server.asked[-1].peer)
        assert len(peers) == 1
        for reader in readers:
            await reader.aclose()
