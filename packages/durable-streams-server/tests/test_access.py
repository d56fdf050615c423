"""Access: the hook, the token, browsers and their origins (§12)."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from remote import RemoteStore
from wire import Client, request_bytes

from durable_streams_server import create_app, create_asgi

EXPOSED = "access-control-allow-origin"


class Hook:
    """Refuses what it is told to, and remembers what it was asked."""

    def __init__(self, answer: Any, *, waits: Any) -> None:
        self.answer = answer
        self.waits = waits
        self.asked = []

    def __call__(self, action: Any, path: Any, request: Any) -> Any:
        self.asked.append((action, path))
        assert request is not None
        return self._later() if self.waits else self.answer

    async def _later(self) -> Any:
        return self.answer


@pytest.mark.parametrize("waits", [False, True], ids=["sync", "async"])
class TestHook:
    async def test_is_asked_for_each_action(
        self, serve: Callable[..., Awaitable[Client]], waits: Any
    ) -> None:
        hook = Hook(True, waits=waits)
        client = await serve(authorize=hook)
        await client.put("a", body=b"x")
        await client.post("a", b"y")
        assert (await client.get("a")).body == b"xy"
        await client.head("a")
        await client.request("PUT", "b", {"stream-forked-from": "a"})
        await client.delete("a")
        assert hook.asked == [
            ("create", "a"),
            ("append", "a"),
            ("read", "a"),
            ("head", "a"),
            ("create", "b"),
            ("read", "a"),
            ("delete", "a"),
        ]

    @pytest.mark.parametrize(
        "refusal, status, code",
        [
            (False, 403, "forbidden"),
            (None, 403, "forbidden"),
            (403, 403, "forbidden"),
            (401, 401, "not-authenticated"),
            ("yes", 403, "forbidden"),
        ],
    )
    async def test_refuses_without_telling_what_exists(
        self,
        serve: Callable[..., Awaitable[Client]],
        waits: Any,
        refusal: bool | int | str | None,
        status: int,
        code: str,
    ) -> None:
        client = await serve(authorize=Hook(refusal, waits=waits))
        await client.engine.create("there", content_type="text/plain", data="x")
        for method in ("GET", "HEAD", "POST", "PUT", "DELETE"):
            answers = [
                await client.request(
                    method,
                    path,
                    {"content-type": "text/plain"},
                    b"y" if method in ("POST", "PUT") else None,
                )
                for path in ("there", "missing")
            ]
            assert [answer.status for answer in answers] == [status, status]
            assert answers[0].body == answers[1].body
            if method != "HEAD":
                assert answers[0].code == code
            assert "stream-next-offset" not in answers[0]
            assert ("www-authenticate" in answers[0]) == (status == 401)
        assert (await client.engine.read("there")).data == b"x"
        assert [info.path for info in await client.engine.list()] == ["there"]

    async def test_may_refuse_the_source_of_a_fork(
        self, serve: Callable[..., Awaitable[Client]], waits: Any
    ) -> None:
        class NoReads(Hook):
            def __call__(self, action: Any, path: Any, request: Any) -> Any:
                self.answer = (action, path) != ("read", "secret")
                return super().__call__(action, path, request)

        client = await serve(authorize=NoReads(True, waits=waits))
        await client.put("secret", body=b"x")
        answers = [
            await client.request("PUT", "fork", {"stream-forked-from": source})
            for source in ("secret", "secret")
        ]
        assert {answer.status for answer in answers} == {403}
        assert not [info for info in await client.engine.list() if info.path == "fork"]

    async def test_a_refused_body_is_not_waited_for(
        self, serve: Callable[..., Awaitable[Client]], waits: Any
    ) -> None:
        client = await serve(authorize=Hook(False, waits=waits))
        connection = await client.connect()
        fields = {"content-type": "text/plain", "content-length": "100000"}
        await connection.send(request_bytes("POST", client.root + "a", fields))
        assert (await connection.answer("POST")).status == 403

    async def test_is_asked_once_for_a_client_that_waits_for_a_go_ahead(
        self, serve: Callable[..., Awaitable[Client]], waits: Any
    ) -> None:
        hook = Hook(True, waits=waits)
        client = await serve(authorize=hook)
        await client.put("a")
        hook.asked.clear()
        async with await client.connect() as connection:
            fields = {"content-type": "text/plain", "content-length": "1"}
            await connection.send(
                request_bytes("POST", client.root + "a", {**fields, "expect": "100-continue"})
            )
            assert (await connection.reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100")
            await connection.send(b"x")
            assert (await connection.answer("POST")).status == 204
        assert hook.asked == [("append", "a")]


async def test_a_hook_that_fails_refuses(
    serve: Callable[..., Awaitable[Client]], caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_action: Any, _path: Any, _request: Any) -> None:
        raise RuntimeError("a bug in the application")

    async def broken_later(_action: Any, _path: Any, _request: Any) -> None:
        raise RuntimeError("a bug in the application")

    for hook in (broken, broken_later):
        client = await serve(authorize=hook)
        assert (await client.put("a")).code == "forbidden"
    assert "the authorize hook failed" in caplog.text


async def test_a_hook_may_answer_now_or_later_as_it_likes(
    serve: Callable[..., Awaitable[Client]],
) -> None:
    async def later() -> Any:
        return True

    client = await serve(authorize=lambda action, _path, _request: action == "read" or later())
    await client.put("a", body=b"x")
    fork = await client.request("PUT", "b", {"stream-forked-from": "a"})
    assert fork.status == 201


async def test_a_token_lets_its_bearer_in_and_nobody_else(
    serve: Callable[..., Awaitable[Client]],
) -> None:
    client = await serve(token="s3cret", health=True)
    assert (await client.put("a", authorization="Bearer s3cret")).status == 201
    assert (await client.get("a", authorization="bearer s3cret")).status == 200
    for fields in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic s3cret"}):
        answer = await client.get("a", **fields)
        assert (answer.status, answer.code) == (401, "not-authenticated")
        assert answer["www-authenticate"] == "Bearer"
    assert (await client.request("OPTIONS", "a")).status == 204
    assert (await client.raw(request_bytes("GET", "/health"))).status == 200


@pytest.mark.parametrize("create", [create_app, create_asgi])
def test_an_empty_token_is_refused_for_it_would_let_in_all_who_send_none(create: Any) -> None:
    with pytest.raises(ValueError, match="keeps nobody out"):
        create("memory:", token="")


# Browsers.


async def test_every_answer_protects_browsers(client: Client) -> None:
    await client.put("a", body=b"x")
    answers = [
        await client.get("a"),
        await client.head("a"),
        await client.put("a"),
        await client.post("a", b"x"),
        await client.get("missing"),
        await client.get("a?offset=rubbish"),
        await client.request("PATCH", "a"),
        await client.request("OPTIONS", "a"),
        await client.raw(request_bytes("GET", "/elsewhere")),
        (await client.sse("a?offset=-1&live=sse")).head,
    ]
    for answer in answers:
        assert answer["x-content-type-options"] == "nosniff"
        assert answer["cross-origin-resource-policy"] == "cross-origin"


async def test_any_origin_may_use_an_open_server(client: Client) -> None:
    answer = await client.put("a", origin="https://app.example")
    assert answer[EXPOSED] == "*"
    exposed = answer["access-control-expose-headers"].replace(" ", "").split(",")
    assert {"stream-next-offset", "stream-cursor", "etag", "location"} <= set(exposed)


async def test_the_matching_origin_is_answered_and_never_the_first(
    serve: Callable[..., Awaitable[Client]],
) -> None:
    first, second = "https://first.example", "https://second.example"
    client = await serve(cors_origins=(first, second))
    for origin in (first, second):
        for answer in (
            await client.put("a", origin=origin),
            await client.get("missing", origin=origin),
            await client.request("OPTIONS", "a", {"origin": origin}),
        ):
            assert (answer[EXPOSED], answer["vary"]) == (origin, "origin")
    for fields in ({}, {"origin": "https://third.example"}, {"origin": "null"}):
        answer = await client.get("a", **fields)
        assert EXPOSED not in answer
        assert answer["vary"] == "origin"
    closed = await serve(cors_origins=())
    assert EXPOSED not in await closed.get("a", origin=first)


async def test_a_preflight_tells_what_may_be_sent(client: Client) -> None:
    answer = await client.request(
        "OPTIONS",
        "a",
        {"origin": "https://app.example", "access-control-request-method": "POST"},
    )
    assert (answer.status, answer.body) == (204, b"")
    assert answer["allow"] == answer["access-control-allow-methods"]
    allowed = answer["access-control-allow-headers"].replace(" ", "").split(",")
    assert {
        "content-type", "authorization", "if-match", "if-none-match", "stream-seq", "stream-ttl",
        "stream-closed", "stream-forked-from", "producer-id", "producer-epoch", "producer-seq",
    } <= set(allowed)  # fmt: skip
    assert int(answer["access-control-max-age"]) > 0


async def test_a_preflight_allows_tracing_and_the_headers_that_the_server_was_given(
    serve: Callable[..., Awaitable[Client]],
) -> None:
    client = await serve(cors_headers=("X-API-Key",))
    answer = await client.request("OPTIONS", "a", {"origin": "https://app.example"})
    allowed = answer["access-control-allow-headers"].split(", ")
    assert {"traceparent", "tracestate", "baggage", "sentry-trace", "x-api-key"} <= set(allowed)
    assert len(allowed) == len(set(allowed))


@pytest.mark.parametrize("name", ["", "a, b", "a:b", "x\r\ny"])
def test_a_name_that_no_header_has_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="must be names of headers"):
        create_asgi("memory:", cors_headers=(name,))


# Where streams are.


async def test_a_public_url_is_what_clients_are_told(
    serve: Callable[..., Awaitable[Client]],
) -> None:
    client = await serve(public_url="https://cdn.example/edge/")
    answer = await client.put("a")
    assert answer["location"] == "https://cdn.example/edge/v1/stream/a"
    for number, source in enumerate(("/edge/v1/stream/a", "/v1/stream/a")):
        fork = await client.request("PUT", f"f/{number}", {"stream-forked-from": source})
        assert fork.status == 201


@pytest.mark.parametrize("host", ["evil.example/x", "a b", "x@y", ""])
async def test_a_host_that_is_none_is_not_repeated(client: Client, host: str) -> None:
    answer = await client.request("PUT", "a", {"host": host})
    if answer.status == 201:
        assert answer["location"] == "/v1/stream/a"
    else:
        assert answer.status == 400


async def test_a_server_may_have_any_root(serve: Callable[..., Awaitable[Client]]) -> None:
    for root in ("/", "/deep/er/"):
        client = await serve(root=root)
        assert (await client.put("x/a"))["location"] == f"http://test.example{root}x/a"
        await client.delete("x/a")


async def test_health_is_answered_without_a_look_at_any_stream(
    serve: Callable[..., Awaitable[Client]], remote: RemoteStore
) -> None:
    client = await serve(remote, health=True)
    remote.load_error = OSError("the network is down")
    answer = await client.raw(request_bytes("GET", "/health"))
    assert (answer.status, answer.json) == (200, {"status": "ok"})
    assert answer["cache-control"] == "no-store"
    without = await serve()
    assert (await without.raw(request_bytes("GET", "/health"))).status == 404


@pytest.mark.parametrize("create", [create_app, create_asgi])
def test_an_application_cannot_permit_cookies_to_every_origin(
    create: Callable[..., object],
) -> None:
    with pytest.raises(ValueError, match="name the origins"):
        create("memory:", cors_credentials=True)
    create("memory:", cors_credentials=True, cors_origins=("https://a.example",), console=True)


@pytest.mark.parametrize("create", [create_app, create_asgi])
@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf")])
def test_an_application_says_how_soon_browsers_reconnect(
    create: Callable[..., object], seconds: float
) -> None:
    create("memory:", sse_retry=0.2)
    with pytest.raises(ValueError, match="reconnect"):
        create("memory:", sse_retry=seconds)
