"""Mounts: a stream has one path, however servers, routers and proxies describe the request."""

from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from aiohttp import web
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from servers import on_uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount as Route
from wire import Client

from durable_streams_server import Engine, create_app, create_asgi
from durable_streams_server.frontends.aiohttp import MOUNT
from durable_streams_server.frontends.asgi import AsgiApp
from durable_streams_server.frontends.asgi_scope import locate

Seen = list[str]


@pytest.fixture
async def engine(memory: Any) -> AsyncIterator[Engine]:
    async with Engine(memory) as engine:
        yield engine


def remembering(engine: Engine, seen: Seen, **options: Any) -> AsgiApp:
    """An app whose access hook notes the paths that it is asked about."""

    def authorize(_action: str, path: str, _request: object) -> bool:
        seen.append(path)
        return True

    return create_asgi(engine, authorize=authorize, **options)


@asynccontextmanager
async def calling(app: Any, **scope: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an app, with a scope that a server changed."""

    async def changed(seen: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        await app({**seen, **scope}, receive, send)

    transport = httpx.ASGITransport(changed)
    async with httpx.AsyncClient(transport=transport, base_url="http://h") as client:
        yield client


# What servers and routers put into the scope of a request for the stream `a b`. The first ones
# were recorded from uvicorn 0.54, Hypercorn 0.18, Granian 2.8 and Daphne 4.2.
@pytest.mark.parametrize(
    "scope, mount",
    [
        pytest.param(
            {"path": "/p/a b", "raw_path": b"/p/a%20b", "root_path": "/p"},
            "/p",
            id="uvicorn --root-path",
        ),
        pytest.param(
            {"path": "/a b", "raw_path": b"/a%20b", "root_path": "/p"},
            "/p",
            id="hypercorn --root-path behind a proxy that strips it",
        ),
        pytest.param(
            {"path": "/p/a b", "raw_path": b"/p/a%20b", "root_path": "/p"},
            "/p",
            id="granian --url-path-prefix",
        ),
        pytest.param(
            {"path": "/a b", "raw_path": b"/a%20b", "root_path": "/p/"},
            "/p",
            id="a root path with a slash behind it",
        ),
        pytest.param(
            {
                "path": "/s/a b",
                "raw_path": b"/%73/a%20b",
                "root_path": "/p/s",
                "app_root_path": "/p",
            },
            "/p/s",
            id="a Starlette mount behind a proxy that strips the prefix",
        ),
        pytest.param(
            {
                "path": "/p/s/a b",
                "raw_path": b"/p/s/a%20b",
                "root_path": "/p/s",
                "app_root_path": "/p",
            },
            "/p/s",
            id="a Starlette mount behind a proxy that keeps the prefix",
        ),
        pytest.param(
            {"path": "/u/ada@x/a b", "raw_path": b"/u/ada%40x/a%20b", "root_path": "/u/ada@x"},
            "/u/ada@x",
            id="a mount that the request spells in another way",
        ),
        pytest.param(
            {"path": "/a b", "raw_path": b"/s/a%20b", "root_path": ""},
            "/s",
            id="a router that makes the path relative, as Litestar does",
        ),
        pytest.param(
            {"path": "/a b", "raw_path": b"/s/a%20b", "root_path": "/p"},
            "/p/s",
            id="such a router behind a proxy",
        ),
        pytest.param(
            {"path": "/a b", "raw_path": b"/p/s/a%20b", "root_path": "/p/s"},
            "/p/s",
            id="a router that makes the path relative and says so, as Starlette once did",
        ),
        pytest.param(
            {"path": "/str\xf8m/a b", "root_path": "/str\xf8m"},
            "/str%C3%B8m",
            id="no raw path",
        ),
        pytest.param(
            {"path": "/p q/a b", "raw_path": b"/p%20q/a%20b?x", "root_path": "/p q"},
            "/p%20q",
            id="a raw path with its query",
        ),
        pytest.param(
            {"path": "/p%20q/a b", "raw_path": b"/p%20q/a%20b", "root_path": "/p%20q"},
            "/p%20q",
            id="an encoded root path",
        ),
        pytest.param(
            {"path": "/s/a b", "raw_path": b"/old/a", "root_path": "/s"},
            "/s",
            id="a middleware that rewrote the path only",
        ),
    ],
)
def test_a_request_is_located_whatever_its_scope_looks_like(
    scope: dict[str, Any], mount: str
) -> None:
    assert locate(scope) == ("/a%20b", mount)


segments = st.lists(st.text("ab.~-_", min_size=1, max_size=2), max_size=3)


@given(segments, segments, segments, st.booleans())
def test_a_plain_path_is_located_like_one_that_is_taken_apart(
    prefix: list[str], mount: list[str], below: list[str], relative: bool
) -> None:
    root = "".join(f"/{segment}" for segment in prefix + mount)
    tail = "/" + "/".join(below)
    path = tail if relative else "".join(f"/{segment}" for segment in mount) + tail
    scope = {
        "path": path,
        "root_path": root,
        "app_root_path": "".join(f"/{segment}" for segment in prefix),
    }
    plain = locate({**scope, "raw_path": path.encode()})
    # A query in the raw path, which some servers leave there, has it read segment by segment.
    assert plain == locate({**scope, "raw_path": path.encode() + b"?"})


def test_a_stream_may_be_called_like_the_mount() -> None:
    assert locate({"path": "/s/a", "raw_path": b"/x/s/a", "root_path": "/s"}) == ("/s/a", "/s/x")


async def test_an_encoded_slash_is_refused_wherever_it_is(engine: Engine) -> None:
    seen: Seen = []
    app = Starlette(routes=[Route("/s/{user:path}", remembering(engine, seen))])
    async with calling(app) as client:
        for target in ("/s/ada/x%2Fy", "/s%2Fada/x", "/s/a%2Fb/x"):
            assert (await client.put(target)).status_code in (400, 404)
    assert seen == []


@pytest.mark.parametrize(
    "target",
    ["/streams/chat", "/%73treams/chat", "/u/ada@example.com/chat", "/u/ada%40example.com/%63hat"],
)
async def test_a_hook_is_shown_the_path_however_the_mount_was_spelled(
    engine: Engine, target: str
) -> None:
    seen: Seen = []
    app = remembering(engine, seen)
    routes = [Route("/streams", app=app), Route("/u/{user}", app=app)]
    async with calling(Starlette(routes=routes)) as client:
        assert (await client.put(target)).status_code == 201
    assert seen == ["chat"]
    assert [info.path for info in await engine.list()] == ["chat"]


@pytest.mark.filterwarnings("ignore:The `root_path` parameter is deprecated")
@pytest.mark.parametrize("prefix", ["", "/api"], ids=["stripped", "kept"])
async def test_fastapi_behind_a_proxy_says_where_clients_find_a_stream(
    engine: Engine, prefix: str
) -> None:
    seen: Seen = []
    app = FastAPI(root_path="/api")
    app.mount("/streams", remembering(engine, seen))
    async with calling(app) as client:
        created = await client.put(f"{prefix}/streams/x/a", content="x")
        assert created.headers["location"] == "http://h/api/streams/x/a"
        fork = await client.put(
            f"{prefix}/streams/f", headers={"stream-forked-from": "/api/streams/x/a"}
        )
        assert fork.status_code == 201
        assert (await client.get(f"{prefix}/streams/f")).text == "x"
    assert seen == ["x/a", "f", "x/a", "f"]


async def test_a_root_of_any_letters_is_served(serve: Any) -> None:
    for root in ("/str%C3%B8m/", "/my%20streams/"):
        client = await serve(root=root)
        created = await client.put("a")
        assert created["location"] == f"http://test.example{root}a"
        client.root = root.replace("m", "%6d")
        assert (await client.get("a")).status == 200
        fork = await client.request("PUT", "b", {"stream-forked-from": f"{root}a"})
        assert fork.status == 201
        await client.delete("b")
        await client.delete("a")


async def test_a_fork_is_made_of_a_source_named_by_its_public_path(serve: Any) -> None:
    client = await serve(root="/", public_url="https://h.example/ds")
    created = await client.put("src", body=b"x")
    assert created["location"] == "https://h.example/ds/src"
    fork = await client.request("PUT", "fork", {"stream-forked-from": "/ds/src"})
    assert fork.status == 201
    assert (await client.get("fork")).body == b"x"


async def test_a_public_url_is_told_encoded(serve: Any) -> None:
    client = await serve(public_url="https://h.example/str\xf8m/")
    assert (await client.put("a"))["location"] == "https://h.example/str%C3%B8m/v1/stream/a"


async def test_a_percent_encoded_query_is_read(client: Client) -> None:
    await client.put("a", body=b"x")
    assert (await client.get("a?%6fffset=now")).body == b""


# aiohttp.


@asynccontextmanager
async def running(app: web.Application) -> AsyncIterator[int]:
    runner = web.AppRunner(app, shutdown_timeout=60)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def test_aiohttp_finds_a_stream_however_the_mount_was_spelled(memory: Any) -> None:
    seen: Seen = []

    def authorize(_action: str, path: str, _request: object) -> bool:
        seen.append(path)
        return True

    inner = create_app(memory, root="/my streams", authorize=authorize)
    middle, outer = web.Application(), web.Application()
    middle.add_subapp("/u@x", inner)
    outer.add_subapp("/api", middle)
    async with running(outer) as port:
        client = Client(port, "/%61pi/u%40x/my%20streams/", inner[MOUNT])
        created = await client.put("a")
        assert created["location"] == "http://test.example/api/u@x/my%20streams/a"
        await client.close()
    assert seen == ["a"]


def test_aiohttp_says_so_when_its_router_cannot_find_a_mount(memory: Any) -> None:
    """Its own router answers 404 to everything there, whatever the sub-application is."""
    for prefix in ("/a b", "/str\xf8m", "/a%20b"):
        with pytest.raises(ValueError, match="mount the streams at another path"):
            web.Application().add_subapp(prefix, create_app(memory))


async def test_a_starlette_mount_is_found_on_a_real_server(engine: Engine) -> None:
    seen: Seen = []
    app = remembering(engine, seen)
    outer = Starlette(routes=[Route("/my streams", app)])
    async with on_uvicorn(outer, app.mount.handler.close) as port:
        client = Client(port, "/my%20streams/", app.mount)
        assert (await client.put("a"))["location"] == "http://test.example/my%20streams/a"
        await client.close()
    assert seen == ["a"]
