"""The same raw requests get the same answers from every front end."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from observing import Recorder
from remote import RemoteStore
from servers import SERVERS
from wire import Client, chunked, request_bytes

from durable_streams_core.offsets import BEGINNING
from durable_streams_server import Engine, MemoryStore
from durable_streams_server.frontends.mount import Mount
from durable_streams_server.http.options import Options

TEXT = {"content-type": "text/plain"}
JSON = {"content-type": "application/json"}
CHUNKED = {"transfer-encoding": "chunked"}
BROWSER = {
    "accept": "*/*",
    "accept-encoding": "gzip, deflate, br",
    "accept-language": "en",
    "origin": "https://second.example",
    "referer": "https://second.example/",
    "user-agent": "Mozilla/5.0",
}

# Each front end's server adds these itself, in its own way.
ITS_OWN = {"date", "server", "connection", "keep-alive", "content-length", "transfer-encoding"}

STORY: list[tuple[str, str, dict[str, str], bytes | None]] = [
    ("PUT", "a", TEXT, None),
    ("PUT", "a", TEXT, None),
    ("PUT", "a", JSON, None),
    ("PUT", "full", {**TEXT, "stream-ttl": "60"}, b"x" * 3000),
    ("PUT", "expiring", {**JSON, "stream-expires-at": "2040-01-01T00:00:00Z"}, b"[1,2]"),
    ("PUT", "caf%C3%A9/x%20y", {**TEXT, "host": "[::1]:4437"}, None),
    ("PUT", "fork", {"stream-forked-from": "/v1/stream/full"}, b"mine"),
    ("PUT", "fork2", {"stream-forked-from": "missing"}, None),
    ("POST", "a", {**TEXT, **BROWSER}, b"hello"),
    ("POST", "a", {**TEXT, **CHUNKED}, chunked(b"one ", b"append")),
    ("POST", "a", TEXT, b""),
    ("POST", "a", {}, b"x"),
    ("POST", "a", {**TEXT, "if-match": f'"{BEGINNING}"'}, b"x"),
    ("POST", "a", {**TEXT, "stream-seq": "1"}, b"x"),
    ("POST", "a", {**TEXT, "stream-seq": "1"}, b"x"),
    (
        "POST",
        "a",
        {**TEXT, "producer-id": "p", "producer-epoch": "0", "producer-seq": "0"},
        b"x",
    ),
    (
        "POST",
        "a",
        {**TEXT, "producer-id": "p", "producer-epoch": "0", "producer-seq": "7"},
        b"x",
    ),
    ("POST", "a", {**TEXT, "producer-id": "p"}, b"x"),
    ("POST", "expiring", JSON, b"{"),
    ("POST", "expiring", JSON, b"[" * 1000),
    ("POST", "a", {**TEXT, **CHUNKED}, chunked(*[b"x" * 1000] * 11)),
    ("POST", "a", {**TEXT, "content-encoding": "gzip"}, b"x"),
    ("GET", "a", {}, None),
    ("GET", "a?offset=-1", BROWSER, None),
    ("GET", "full", {"accept-encoding": "gzip"}, None),
    ("GET", "full", {"if-none-match": "*"}, None),
    ("GET", "fork", {}, None),
    ("GET", "expiring?offset=now", {}, None),
    ("GET", "a?offset=-1&live=long-poll", {}, None),
    ("GET", "a?offset=now&live=long-poll", {}, None),
    ("GET", "a?offset=-1&live=carrier-pigeon", {}, None),
    ("GET", "a?offset=%2D1", {}, None),
    ("GET", "a?offset=rubbish", {}, None),
    ("GET", "x%2Fa", {}, None),
    ("GET", "x/../a", {}, None),
    ("GET", "a%0A", {}, None),
    ("GET", "a%ff", {}, None),
    ("GET", "//a", {}, None),
    ("GET", "", {}, None),
    ("GET", "x" * 2000, {}, None),
    ("GET", "missing", {}, None),
    ("HEAD", "full", {}, None),
    ("HEAD", "missing", {}, None),
    ("OPTIONS", "a", BROWSER, None),
    ("PATCH", "a", {}, None),
    ("GET", "a", {"authorization": "Bearer x"}, None),
    ("DELETE", "full", {}, None),
    ("GET", "full", {}, None),
    ("POST", "a", {"stream-closed": "true"}, b""),
    ("POST", "a", TEXT, b"late"),
    ("GET", "a?offset=now&live=long-poll", {}, None),
    ("GET", "a?offset=-1&live=sse", {}, None),
    ("DELETE", "a", {}, None),
    ("DELETE", "a", {}, None),
]


@pytest.fixture
def recorders() -> dict[str, Recorder]:
    """What each front end has reported."""
    return {}


@pytest.fixture(params=["at-hand", "remote"])
async def clients(
    request: pytest.FixtureRequest, recorders: dict[str, Recorder]
) -> AsyncIterator[Any]:
    """One server per front end, each over a store of its own, all alike."""
    found: dict[str, Client] = {}
    async with AsyncExitStack() as stack:
        for name, serve in SERVERS.items():
            store = MemoryStore(clock=lambda: 1_800_000_000_000)
            if request.param == "remote":
                store = RemoteStore(store)
            engine = await stack.enter_async_context(Engine(store))
            origins = ("https://first.example", "https://second.example")
            options = Options(cors_origins=origins, max_body=10_000, long_poll_timeout=0.01)
            mount = Mount(engine, options, None)
            recorders[name] = Recorder()
            mount.handler.observe(recorders[name])
            port = await stack.enter_async_context(serve(mount, "/v1/stream/"))
            found[name] = Client(port, "/v1/stream/", mount)
            stack.push_async_callback(found[name].close)
        yield found


async def test_front_ends_agree_in_what_they_answer_and_in_what_they_report(
    clients: Any, recorders: dict[str, Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each draws its random values in the same order.
    counters = dict.fromkeys(clients, 0)
    current = ""

    def incarnation(_size: Any) -> Any:
        counters[current] += 1
        return f"{counters[current]:016x}"

    monkeypatch.setattr("secrets.token_hex", incarnation)
    for number, (method, path, fields, body) in enumerate(STORY):
        seen = {}
        for name, client in clients.items():
            current = name
            answer = await client.raw(
                request_bytes(method, client.root + path, fields, body), method
            )
            headers = sorted((n, v) for n, v in answer.fields if n not in ITS_OWN)
            await recorders[name].count(number + 1)
            report = recorders[name].reports[-1]
            assert len(recorders[name].reports) == number + 1, (name, method, path)
            assert report.status == answer.status
            assert report.target == client.root + path
            assert report.sent == len(answer.body)
            # Of a body that is refused, each front end has read as much as it happened to.
            received = report.received if report.status < 400 else 0
            seen[name] = (answer.status, headers, answer.body, report.kind, received)
        first = next(iter(seen.values()))
        for name, other in seen.items():
            assert other == first, f"{method} {path} on {name}"


async def test_every_front_end_says_where_an_answer_ends(clients: Any) -> None:
    for client in clients.values():
        await client.put("a", body=b"x")
        get = await client.get("a")
        assert get["content-length"] == "1"
        for answer in (await client.head("a"), await client.delete("a")):
            assert answer.get("content-length") in (None, "0")
            assert "transfer-encoding" not in answer


async def test_an_http_1_0_client_is_understood(clients: Any) -> None:
    for name, client in clients.items():
        await client.put("a", body=b"x")
        connection = await client.connect()
        await connection.send(b"GET /v1/stream/a HTTP/1.0\r\nHost: x\r\n\r\n")
        answer = await connection.answer()
        assert (answer.status, answer.body) == (200, b"x"), name
        assert await connection.reader.read() == b""
