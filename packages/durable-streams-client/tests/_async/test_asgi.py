"""The transport to an ASGI application in this process."""

from collections.abc import AsyncIterator

import httpx
import pytest
from asgi_apps import CALLER, SECONDS, Recorder, that_does_not_start, with_no_lifespan

from durable_streams_client import (
    AsyncAsgiTransport,
    AsyncClient,
    Cancelled,
    ClientClosed,
    ConnectionLost,
    InvalidArgument,
    RetryPolicy,
    Unavailable,
    asgi_application,
)
from durable_streams_client._async.runtime import Worker, blocking
from durable_streams_client.asgi_exchange import HIGH_WATER


def client_of(app: Recorder) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=AsyncAsgiTransport(app), base_url="http://app")


async def test_a_request_arrives_as_it_was_sent() -> None:
    app = Recorder()
    async with client_of(app) as http:
        answer = await http.put("/echo/a%20b?q=%C3%A9", content=b"body", headers={"X-Key": "k"})
    assert (answer.status_code, answer.content, answer.headers["x-method"]) == (200, b"body", "PUT")
    scope = app.scopes[1]
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == (
        "/echo/a b",
        b"/echo/a%20b",
        b"q=%C3%A9",
    )
    assert (b"x-key", b"k") in scope["headers"]
    assert (scope["scheme"], scope["server"]) == ("http", ("app", 80))


async def test_the_lifespan_does_not_run_in_the_context_of_the_first_request() -> None:
    app = Recorder()
    async with client_of(app) as http:
        for caller in ("first", "second"):
            token = CALLER.set(caller)
            await http.get("/echo")
            CALLER.reset(token)
    assert app.callers == [("lifespan", ""), ("http", "first"), ("http", "second")]


async def test_a_response_is_handed_on_as_it_is_sent() -> None:
    app = Recorder()
    async with client_of(app) as http:
        async with http.stream("GET", "/ticks") as response:
            assert response.headers["transfer-encoding"] == "chunked"
            assert await anext(response.aiter_raw()) == b"tick"
            assert not app.left.is_set()
        assert await blocking(app.left.wait, SECONDS)


async def test_an_application_that_is_ahead_of_its_reader_waits() -> None:
    app = Recorder()
    async with client_of(app) as http:
        async with http.stream("GET", "/flood") as response:
            pieces = response.aiter_raw()
            got = 0
            while got < 20 * HIGH_WATER:
                got += len(await anext(pieces))
                assert app.sent - got <= HIGH_WATER + 20_000
        assert await blocking(app.left.wait, SECONDS)


async def test_a_request_that_is_ahead_of_its_application_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(asgi_application, "GRACE_SECONDS", 0.01)
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += 10_000
            yield b"x" * 10_000

    async with client_of(Recorder()) as http:
        with pytest.raises(httpx.WriteTimeout):
            await http.post("/deaf", content=endless(), timeout=0.05)
        assert taken <= 2 * HIGH_WATER


async def test_a_large_body_arrives_whole() -> None:
    async with client_of(Recorder()) as http:
        body = b"x" * 5_000_000
        answer = await http.post("/echo", content=body)
    assert answer.content == body


async def test_what_an_application_does_wrong_looks_as_it_does_behind_a_server() -> None:
    async with client_of(Recorder()) as http:
        assert (await http.get("/fail")).status_code == 500
        assert (await http.post("/refuse", content=b"x" * HIGH_WATER)).status_code == 413
        for path in "/halfway", "/short":
            with pytest.raises(httpx.RemoteProtocolError):
                await http.get(path)
        answer = await http.head("/echo")
        assert (answer.headers["content-length"], answer.content) == ("0", b"")


async def test_a_silent_application_meets_the_time_limit() -> None:
    app = Recorder()
    async with client_of(app) as http:
        with pytest.raises(httpx.ReadTimeout):
            await http.get("/silence", timeout=0.02)
        assert await blocking(app.left.wait, SECONDS)


async def test_the_lifespan_lasts_from_the_first_request_until_the_end() -> None:
    app = Recorder()
    async with client_of(app) as http:
        assert app.lifespan == []
        await http.get("/echo")
        await http.get("/echo")
        assert app.lifespan == ["lifespan.startup"]
    assert app.lifespan == ["lifespan.startup", "lifespan.shutdown"]
    assert [scope.get("state") for scope in app.scopes] == [{"pool": "open"}] * 3


async def test_an_application_without_a_lifespan_answers() -> None:
    transport = AsyncAsgiTransport(with_no_lifespan)
    async with httpx.AsyncClient(transport=transport) as http:
        assert (await http.get("http://app/")).content == b"fine"


async def test_an_application_that_does_not_start_says_why_at_once() -> None:
    async with AsyncClient("http://app/", http=AsyncAsgiTransport(that_does_not_start)) as client:
        with pytest.raises(InvalidArgument, match="no database"):
            await client.stream("a").head()


async def test_the_end_of_the_transport_ends_requests_and_lifespan() -> None:
    app = Recorder()
    transport = AsyncAsgiTransport(app)
    http = httpx.AsyncClient(transport=transport, base_url="http://app", timeout=None)
    async with http.stream("GET", "/ticks") as response:
        pieces = response.aiter_raw()
        assert await anext(pieces) == b"tick"
        await transport.aclose()
        assert app.left.is_set()
        with pytest.raises(httpx.RemoteProtocolError):
            await anext(pieces)
    assert app.lifespan[-1] == "lifespan.shutdown"


@pytest.mark.parametrize("given", ["transport", "client"])
async def test_a_waiting_reader_is_cancelled_and_the_application_learns_it(given: str) -> None:
    app = Recorder()
    transport = AsyncAsgiTransport(app)
    http = httpx.AsyncClient(transport=transport) if given == "client" else transport
    async with AsyncClient("http://app/", http=http) as client:
        reader = client.stream("silence").follow(live="sse")

        async def cancel() -> None:
            await blocking(app.asked.wait, SECONDS)
            reader.cancel()

        worker = Worker(cancel, "cancel", set())
        with pytest.raises(Cancelled):
            await anext(reader)
        await worker.join()
    await transport.aclose()
    assert app.left.is_set()


async def test_closing_the_client_ends_its_waits() -> None:
    app = Recorder()
    client = AsyncClient("http://app/", http=AsyncAsgiTransport(app))

    async def close() -> None:
        await blocking(app.asked.wait, SECONDS)
        await client.aclose()

    worker = Worker(close, "close", set())
    with pytest.raises(ClientClosed):
        await client.stream("silence").head()
    await worker.join()
    assert app.left.is_set()


async def test_errors_are_those_of_http() -> None:
    once = RetryPolicy(attempts=1)
    http = AsyncAsgiTransport(Recorder())
    async with AsyncClient("http://app/", http=http, retry=once) as client:
        with pytest.raises(Unavailable) as refused:
            await client.stream("fail").head()
        assert refused.value.status == 500
        with pytest.raises(ConnectionLost):
            await client.stream("halfway", content_type="text/plain").append("a")
