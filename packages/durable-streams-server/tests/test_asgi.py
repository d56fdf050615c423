"""What only the ASGI interface shows: lifespan, lazy start, mounts, disconnects."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from remote import RemoteStore
from servers import on_uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.routing import Mount
from wire import Client, request_bytes

from durable_streams_core.errors import StoreError
from durable_streams_server import Engine, MemoryStore, create_asgi
from durable_streams_server.frontends.asgi import AsgiApp


class Caller:
    """An ASGI server's side of one request."""

    def __init__(
        self,
        app: Any,
        method: Any = "GET",
        path: Any = "/a",
        query: Any = "",
        headers: Any = (),
        **scope: Any,
    ) -> None:
        self.scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "headers": list(headers),
            "scheme": "http",
            **scope,
        }
        self.incoming: asyncio.Queue = asyncio.Queue()
        self.sent: list = []
        self.came = asyncio.Event()
        self.writable = asyncio.Event()
        self.writable.set()
        self.task = asyncio.create_task(app(self.scope, self.incoming.get, self.send))

    async def send(self, message: Any) -> None:
        await self.writable.wait()
        self.sent.append(message)
        self.came.set()

    def body(self, data: Any = b"", *, more: Any = False) -> Any:
        self.incoming.put_nowait({"type": "http.request", "body": data, "more_body": more})
        return self

    def disconnect(self) -> None:
        self.incoming.put_nowait({"type": "http.disconnect"})

    async def answer(self) -> Any:
        await self.task
        start = self.sent[0]
        return start["status"], dict(start["headers"]), b"".join(m["body"] for m in self.sent[1:])


TEXT = (b"content-type", b"text/plain")


async def call(
    app: Any,
    method: Any = "GET",
    path: Any = "/a",
    body: Any = b"",
    headers: Any = (TEXT,),
    **scope: Any,
) -> Any:
    return await Caller(app, method, path, headers=headers, **scope).body(body).answer()


@pytest.fixture
async def app(memory: MemoryStore) -> AsyncIterator[Any]:
    app = create_asgi(memory)
    yield app
    await app.close()


async def test_an_owned_engine_starts_with_the_first_request(app: Any) -> None:
    status, headers, _ = await call(app, "PUT", headers=[TEXT, (b"host", b"test.example")])
    assert status == 201
    assert headers[b"location"] == b"http://test.example/a"


async def test_an_engine_of_the_applications_own_must_have_been_started(
    memory: MemoryStore,
) -> None:
    engine = Engine(memory)
    app = create_asgi(engine)
    status, _headers, body = await call(app, "PUT")
    assert status == 503
    assert b"not-started" in body
    async with engine:
        assert (await call(app, "PUT"))[0] == 201
        await app.close()
        assert engine.started


async def test_a_store_that_cannot_be_opened_is_an_answer(memory: MemoryStore) -> None:
    remote = RemoteStore(memory)

    async def refuse() -> None:
        raise StoreError("The directory is in use by another server.")

    remote.open = refuse  # type: ignore[method-assign]
    app = create_asgi(remote)
    status, _, body = await call(app, "PUT")
    assert status == 503
    assert b"in use by another server" in body


class Lifespan:
    def __init__(self, app: Any) -> None:
        self.incoming: asyncio.Queue = asyncio.Queue()
        self.sent: asyncio.Queue = asyncio.Queue()
        self.task = asyncio.create_task(app({"type": "lifespan"}, self.incoming.get, self.sent.put))

    async def say(self, kind: Any) -> Any:
        await self.incoming.put({"type": kind})
        return (await self.sent.get())["type"]


async def test_a_lifespan_starts_and_stops_an_owned_engine(memory: MemoryStore) -> None:
    remote = RemoteStore(memory)
    lifespan = Lifespan(create_asgi(remote))
    assert await lifespan.say("lifespan.startup") == "lifespan.startup.complete"
    assert remote.opened
    assert await lifespan.say("lifespan.shutdown") == "lifespan.shutdown.complete"
    assert not remote.opened
    await lifespan.task


async def test_a_lifespan_tells_what_kept_it_from_starting(memory: MemoryStore) -> None:
    remote = RemoteStore(memory)

    async def refuse() -> None:
        raise StoreError("The directory is in use by another server.")

    remote.open = refuse  # type: ignore[method-assign]
    lifespan = Lifespan(create_asgi(remote))
    assert await lifespan.say("lifespan.startup") == "lifespan.startup.failed"
    await lifespan.task


async def test_a_lifespan_leaves_the_applications_own_engine_alone(memory: MemoryStore) -> None:
    async with Engine(memory) as engine:
        lifespan = Lifespan(create_asgi(engine))
        assert await lifespan.say("lifespan.startup") == "lifespan.startup.complete"
        assert await lifespan.say("lifespan.shutdown") == "lifespan.shutdown.complete"
        assert engine.started


async def test_an_engine_is_a_lifespan_for_frameworks(memory: MemoryStore) -> None:
    engine = Engine(memory)
    async with engine.lifespan(object()):
        assert engine.started
    assert not engine.started


@pytest.mark.parametrize(
    "path, raw",
    [("/streams/a", b"/streams/a"), ("/a", b"/a"), ("/a", None), ("/streams/a", b"/streams/a?x=1")],
)
async def test_below_a_mount_the_prefix_counts_whatever_the_server_makes_of_it(
    app: Any, path: str, raw: bytes | None
) -> None:
    headers = [TEXT, (b"host", b"h")]
    status, fields, _ = await call(
        app, "PUT", path, headers=headers, raw_path=raw, root_path="/streams"
    )
    assert (status, fields[b"location"]) == (201, b"http://h/streams/a")
    status, _, _ = await call(
        app,
        "PUT",
        "/streams/b",
        headers=[(b"stream-forked-from", b"/streams/a")],
        root_path="/streams",
    )
    assert status == 201


async def test_a_target_that_is_no_path_is_refused(app: Any) -> None:
    assert (await call(app, "GET", "*"))[0] == 400


async def test_a_websocket_is_turned_away(app: Any) -> None:
    sent = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await app({"type": "websocket"}, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1003}]


async def test_a_body_comes_in_pieces(app: Any) -> None:
    await call(app, "PUT")
    caller = Caller(app, "POST", headers=[TEXT])
    caller.body(b"one ", more=True).body(b"", more=True).body(b"append")
    assert (await caller.answer())[0] == 204
    assert (await call(app))[2] == b"one append"


async def test_what_middleware_adds_to_a_response_is_not_in_the_next_one(app: Any) -> None:
    await call(app, "PUT", headers=[TEXT], body=b"x")
    for _ in range(2):
        caller = Caller(app)
        await caller.answer()
        headers = caller.sent[0]["headers"]
        assert (b"x-added", b"1") not in headers
        headers.append((b"x-added", b"1"))


async def test_a_read_is_answered_before_its_server_says_that_it_has_no_body(app: Any) -> None:
    await call(app, "PUT", headers=[TEXT], body=b"x")
    status, _, body = await Caller(app).answer()
    assert (status, body) == (200, b"x")


async def test_a_client_that_leaves_in_the_middle_of_its_body_stored_nothing(app: Any) -> None:
    await call(app, "PUT")
    caller = Caller(app, "POST", headers=[TEXT]).body(b"half", more=True)
    caller.disconnect()
    assert (await caller.answer())[0] == 499
    assert (await call(app))[2] == b""


@pytest.mark.parametrize("method", ["PUT", "POST"])
@pytest.mark.parametrize(
    "declared, body",
    [
        pytest.param([(b"content-length", b"13")], b"", id="none of it"),
        pytest.param([(b"content-length", b"13")], b"half", id="a part of it"),
        pytest.param([(b"content-length", b"2")], b"more", id="more than that"),
        pytest.param(
            [(b"transfer-encoding", b"chunked"), (b"upgrade", b"h2c")],
            b"",
            id="no chunks beside an upgrade offer",
        ),
    ],
)
async def test_a_body_that_did_not_arrive_as_declared_does_nothing(
    memory: MemoryStore, method: str, declared: list[tuple[bytes, bytes]], body: bytes
) -> None:
    async with Engine(memory) as engine:
        app = create_asgi(engine)
        await engine.create("there", content_type="text/plain")
        path = "/there" if method == "POST" else "/new"
        headers = [TEXT, (b"stream-closed", b"true"), *declared]
        status, _, answered = await call(app, method, path, body, headers)
        assert status == 400
        assert b"incomplete-body" in answered
        assert [(info.path, info.closed) for info in await engine.list()] == [("there", False)]


async def test_an_offered_upgrade_is_ignored(app: AsgiApp) -> None:
    offer = [(b"connection", b"Upgrade, HTTP2-Settings"), (b"upgrade", b"h2c")]
    chunked = (b"transfer-encoding", b"chunked")
    assert (await call(app, "PUT", headers=[TEXT, *offer]))[0] == 201
    for headers in ([(b"content-length", b"1")], [chunked]):
        assert (await call(app, "POST", body=b"x", headers=[TEXT, *offer, *headers]))[0] == 204
    assert (await call(app, headers=offer))[2] == b"xx"


async def test_an_empty_body_in_chunks_is_one_where_no_upgrade_is_offered(app: AsgiApp) -> None:
    assert (await call(app, "PUT", headers=[TEXT, (b"transfer-encoding", b"chunked")]))[0] == 201


async def test_a_middleware_never_misses_the_response_of_a_client_that_left(
    memory: MemoryStore,
) -> None:
    """Starlette's BaseHTTPMiddleware raises for an application that returns without one."""
    failures: list[Exception] = []

    async def measure(request: Request, call_next: RequestResponseEndpoint) -> Any:
        return await call_next(request)

    async with Engine(memory) as engine:
        permitted = asyncio.Event()

        async def authorize(_action: str, path: str, _request: object) -> bool:
            if path == "slow":
                asked.set()
                await permitted.wait()
            return True

        asked = asyncio.Event()
        app = create_asgi(engine, authorize=authorize)
        outer = Starlette(
            routes=[Mount("/streams", app)],
            middleware=[Middleware(BaseHTTPMiddleware, dispatch=measure)],
        )

        async def watched(scope: Any, receive: Any, send: Any) -> None:
            try:
                await outer(scope, receive, send)
            except Exception as error:
                failures.append(error)
                raise

        async with on_uvicorn(watched, app.mount.handler.close) as port:
            client = Client(port, "/streams/", app.mount)
            await client.put("a")
            poll, answer = await client.waiting("a?offset=-1&live=long-poll")
            poll.abort()
            events = await client.sse("a?offset=-1&live=sse")
            await events.batch()
            events.connection.abort()
            asking = await client.connect()
            await asking.send(request_bytes("PUT", "/streams/slow", {}, b"x"))
            await asked.wait()
            asking.abort()
            half = await client.connect()
            await half.send(request_bytes("POST", "/streams/a", {"content-length": "2"}) + b"x")
            half.abort()
            with pytest.raises(asyncio.IncompleteReadError):
                await answer
            await client.quiet()
            permitted.set()
            assert (await client.put("b")).status == 201
            await client.close()
    assert failures == []


async def test_a_long_poll_is_left_at_once_when_its_client_is(memory: MemoryStore) -> None:
    async with Engine(memory) as engine:
        app = create_asgi(engine)
        await engine.create("a")
        caller = Caller(app, query="offset=-1&live=long-poll").body()
        while not len(engine.fanout):
            await asyncio.sleep(0)
        caller.disconnect()
        assert (await caller.answer())[0] == 499
        assert len(engine.fanout) == 0


async def test_an_append_whose_client_left_is_stored_all_the_same(memory: MemoryStore) -> None:
    remote = RemoteStore(memory)
    async with Engine(remote) as engine:
        app = create_asgi(engine)
        await engine.create("a", content_type="text/plain")
        remote.committing.shut()
        caller = Caller(app, "POST", headers=[TEXT]).body(b"x")
        await remote.committing.reached.wait()
        caller.disconnect()
        await caller.task
        remote.committing.open()
        await engine.append("a", "y")
        assert (await engine.read("a")).data == b"xy"


async def test_a_live_reader_is_left_at_once_when_its_client_is(memory: MemoryStore) -> None:
    async with Engine(memory) as engine:
        app = create_asgi(engine)
        await engine.create("a")
        caller = Caller(app, query="offset=-1&live=sse").body()
        while len(caller.sent) < 2:
            await asyncio.sleep(0)
        assert len(engine.fanout) == 1
        caller.disconnect()
        await caller.task
        assert len(engine.fanout) == 0


async def test_a_server_that_takes_nothing_makes_its_reader_fall_behind(
    memory: MemoryStore,
) -> None:
    async with Engine(memory) as engine:
        app = create_asgi(engine)
        await engine.create("a", content_type="text/plain")
        caller = Caller(app, query="offset=-1&live=sse").body()
        while len(caller.sent) < 2:
            await asyncio.sleep(0)
        caller.writable.clear()
        for _ in range(100):
            await engine.append("a", "x" * 10_000)
            await asyncio.sleep(0)
        caller.writable.set()
        await engine.close_stream("a")
        await caller.task
        sizes = [len(message["body"]) for message in caller.sent[1:]]
        assert sum(sizes) > 1_000_000
        assert max(sizes) < 600_000
        assert len(engine.fanout) == 0


async def test_a_server_that_fails_to_send_leaves_no_reader_behind(memory: MemoryStore) -> None:
    async with Engine(memory) as engine:
        app = create_asgi(engine)
        await engine.create("a")

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body":
                raise OSError("gone")

        caller = Caller(app, query="offset=-1&live=sse")
        caller.task.cancel()
        incoming: asyncio.Queue = asyncio.Queue()
        incoming.put_nowait({"type": "http.request", "body": b""})
        with pytest.raises(OSError, match="gone"):
            await app(caller.scope, incoming.get, send)
        assert len(engine.fanout) == 0


async def test_closing_the_app_tells_its_live_readers(memory: MemoryStore) -> None:
    app = create_asgi(memory)
    await call(app, "PUT")
    caller = Caller(app, query="offset=-1&live=sse").body()
    while len(caller.sent) < 2:
        await asyncio.sleep(0)
    await app.close()
    await caller.task
    assert caller.sent[-1] == {"type": "http.response.body", "body": b""}


async def test_it_works_mounted_in_a_framework_that_gives_it_no_lifespan() -> None:
    app = create_asgi(MemoryStore())
    outer = Starlette(routes=[Mount("/streams", app)])

    class Served:
        engine = app.mount.engine
        handler = app.mount.handler

    async with on_uvicorn(outer, app.mount.handler.close) as port:
        client = Client(port, "/streams/", Served)  # type: ignore[arg-type]
        created = await client.put("x/a", body=b"x")
        assert created["location"] == "http://test.example/streams/x/a"
        assert (await client.get("x/a")).body == b"x"
        fork = await client.request("PUT", "b", {"stream-forked-from": "/streams/x/a"})
        assert fork.status == 201
        assert (await client.get("x%2Fa")).code == "invalid-path"
        events = await client.sse("b?offset=-1&live=sse")
        assert (await events.batch())[0] == "x"
        await client.close()
    await app.close()
