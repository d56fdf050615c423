"""The control routes (§6, §7) over HTTP, on every front end: bodies, codes, access."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest
from servers import Serve
from wire import Client, chunked

from durable_streams_server import Engine, MemoryStore
from durable_streams_server.frontends.mount import Mount
from durable_streams_server.http.options import Options

HOOK = {"url": "https://worker.example/hooks"}
WEBHOOK = {"type": "webhook", "pattern": "events/*", "webhook": HOOK}
PULL = {"type": "pull-wake", "pattern": "events/*", "wake_stream": "wake/pool"}


async def ask(
    client: Any, method: Any, route: Any, body: Any = None, token: Any = None, **fields: Any
) -> Any:
    raw = body if isinstance(body, bytes) or body is None else msgspec.json.encode(body)
    if token is not None:
        fields["Authorization"] = f"Bearer {token}"
    return await client.request(method, "__ds/" + route, fields, raw)


def code(answer: Any) -> Any:
    assert answer["content-type"] == "application/json"
    error = answer.json["error"]
    assert error["message"]
    return answer.status, error["code"]


@pytest.fixture
async def claimed(client: Client) -> Any:
    """A subscription with one stream, claimed."""
    await client.put("wake/pool", "application/json", b"[]")
    assert (await ask(client, "PUT", "subscriptions/s", PULL)).status == 201
    await client.put("events/a", "application/json", b"[1,2]")
    answer = await ask(client, "POST", "subscriptions/s/claim", {"worker": "w"})
    assert answer.status == 200
    return answer.json


async def test_a_subscription_is_described(client: Client) -> None:
    created = await ask(client, "PUT", "subscriptions/a%20b", {**WEBHOOK, "description": "d"})
    assert created.status == 201
    body = created.json
    assert body.pop("created_at").endswith("Z")
    kid = body["webhook"]["signing"].pop("kid")
    assert kid.startswith("ds_")
    assert body == {
        "id": "a b", "subscription_id": "a b", "type": "webhook", "pattern": "events/*",
        "streams": [], "wake_stream": None, "lease_ttl_ms": 30000, "status": "active",
        "description": "d", "lease": {"phase": "idle", "generation": 0},
        "webhook": {
            "url": HOOK["url"],
            "signing": {
                "alg": "ed25519", "jwks_url": "http://test.example/v1/stream/__ds/jwks.json",
            },
        },
    }  # fmt: skip
    again = await ask(client, "PUT", "subscriptions/a%20b", {**WEBHOOK, "description": "d"})
    assert again.status == 200
    assert again.json == created.json == (await ask(client, "GET", "subscriptions/a%20b")).json
    jwks = await ask(client, "GET", "jwks.json")
    assert jwks["content-type"] == "application/jwk-set+json"
    assert jwks["cache-control"] == "public, max-age=300"
    assert [key["kid"] for key in jwks.json["keys"]] == [kid]
    assert (await ask(client, "DELETE", "subscriptions/a%20b")).status == 204
    assert code(await ask(client, "GET", "subscriptions/a%20b")) == (
        404, "SUBSCRIPTION_NOT_FOUND",
    )  # fmt: skip
    assert (await ask(client, "DELETE", "subscriptions/a%20b")).status == 204


@pytest.mark.parametrize(
    "wish, status, expected",
    [
        ({**WEBHOOK, "type": "email"}, 400, "INVALID_REQUEST"),
        ({"type": "webhook", "webhook": HOOK}, 400, "INVALID_REQUEST"),
        ({**WEBHOOK, "lease_ttl_ms": 999}, 400, "INVALID_REQUEST"),
        ({**WEBHOOK, "lease_ttl_ms": 600001}, 400, "INVALID_REQUEST"),
        ({**WEBHOOK, "webhook": {"url": "http://10.0.0.1/"}}, 400, "WEBHOOK_URL_REJECTED"),
        ({**WEBHOOK, "webhook": {"url": "https://2130706433/"}}, 400, "WEBHOOK_URL_REJECTED"),
        ({**PULL, "wake_stream": None}, 400, "INVALID_REQUEST"),
        ({**PULL, "lease_ttl_ms": 1000}, 409, "SUBSCRIPTION_ALREADY_EXISTS"),
        (b"", 400, "INVALID_REQUEST"),
        (b"{", 400, "INVALID_REQUEST"),
        (b"\xff", 400, "INVALID_REQUEST"),
        (b"[" * 100_000, 400, "INVALID_REQUEST"),
        (b"[]", 400, "INVALID_REQUEST"),
        (b"null", 400, "INVALID_REQUEST"),
    ],
)
async def test_wishes_that_cannot_be(
    client: Client, claimed: Any, wish: Any, status: int, expected: str
) -> None:
    assert code(await ask(client, "PUT", "subscriptions/s", wish)) == (status, expected)


@pytest.mark.parametrize(
    "method, route, status, expected",
    [
        ("GET", "", 404, "SUBSCRIPTION_NOT_FOUND"),
        ("GET", "subscriptions/", 400, "INVALID_REQUEST"),
        ("GET", "subscriptions/%2F", 400, "INVALID_REQUEST"),
        ("GET", "subscriptions/%zz", 400, "INVALID_REQUEST"),
        ("GET", "subscriptions/%ff", 400, "INVALID_REQUEST"),
        ("GET", "subscriptions/s/other", 404, "SUBSCRIPTION_NOT_FOUND"),
        ("GET", "keys", 404, "SUBSCRIPTION_NOT_FOUND"),
        ("GET", "members/x", 404, "SUBSCRIPTION_NOT_FOUND"),
        ("POST", "jwks.json", 405, "METHOD_NOT_ALLOWED"),
        ("POST", "subscriptions/s", 405, "METHOD_NOT_ALLOWED"),
        ("GET", "subscriptions/s/claim", 405, "METHOD_NOT_ALLOWED"),
        ("POST", "subscriptions/none/claim", 400, "INVALID_REQUEST"),
        ("POST", "subscriptions/none/ack", 401, "TOKEN_INVALID"),
        ("POST", "subscriptions/none/release", 401, "TOKEN_INVALID"),
        ("POST", "subscriptions/none/callback", 401, "TOKEN_INVALID"),
        ("DELETE", "subscriptions/none/streams/a", 404, "SUBSCRIPTION_NOT_FOUND"),
    ],
)
async def test_routes_that_are_none(
    client: Client, method: str, route: str, status: int, expected: str
) -> None:
    body = b"{}" if method in ("POST", "PUT") else None
    answer = await ask(client, method, route, body)
    assert code(answer) == (status, expected)
    assert ("allow" in answer) == (status == 405)


async def test_the_reserved_prefix_is_no_stream(client: Client) -> None:
    for method in ("GET", "PUT", "POST", "DELETE"):
        answer = await client.request(method, "__ds/keys", {"Content-Type": "text/plain"}, b"x")
        assert code(answer)[0] == 404
    assert (await client.request("GET", "%5f%5fds/keys")).status == 400
    assert (await client.put("__dsx", "text/plain", b"an ordinary stream")).status == 201


async def test_membership_over_http(client: Client, claimed: Any) -> None:
    assert (
        await ask(client, "POST", "subscriptions/s/streams", {"streams": ["x/y"]})
    ).status == 204
    links = (await ask(client, "GET", "subscriptions/s")).json["streams"]
    assert {(s["path"], s["link_type"]) for s in links} == {
        ("events/a", "glob"), ("x/y", "explicit"),
    }  # fmt: skip
    for path in ("x%2Fy", "x/y"):
        answer = await ask(client, "DELETE", f"subscriptions/s/streams/{path}")
        assert answer.status == 204
    links = (await ask(client, "GET", "subscriptions/s")).json["streams"]
    assert [s["path"] for s in links] == ["events/a"]
    for bad in ({}, {"streams": []}, {"streams": [1]}, {"streams": ["__ds/x"]}):
        answer = await ask(client, "POST", "subscriptions/s/streams", bad)
        assert code(answer) == (400, "INVALID_REQUEST")


async def test_what_workers_send_is_fenced_by_token_generation_and_wake(
    client: Client, claimed: Any
) -> None:
    token = claimed["token"]
    wake = {"wake_id": claimed["wake_id"], "generation": claimed["generation"]}
    route = "subscriptions/s/ack"
    tail = claimed["streams"][0]["tail_offset"]
    for body, given, expected in [
        (wake, None, (401, "TOKEN_INVALID")),
        (wake, "nonsense", (401, "TOKEN_INVALID")),
        (wake, token + "x", (401, "TOKEN_INVALID")),
        ({**wake, "generation": 99}, token, (409, "FENCED")),
        ({**wake, "wake_id": "w_other"}, token, (409, "FENCED")),
        ({}, token, (400, "INVALID_REQUEST")),
        ({**wake, "generation": "1"}, token, (400, "INVALID_REQUEST")),
        ({**wake, "done": 1}, token, (400, "INVALID_REQUEST")),
        ({**wake, "acks": [{"stream": "events/none", "offset": tail}]}, token,
         (409, "INVALID_OFFSET")),
        ({**wake, "acks": [{"stream": "events/a", "offset": tail[:-1] + "9"}]}, token,
         (409, "INVALID_OFFSET")),
        ({**wake, "acks": [{"stream": "events/a", "offset": tail[:-1] + "1"}]}, token,
         (409, "INVALID_OFFSET")),
    ]:  # fmt: skip
        assert code(await ask(client, "POST", route, body, given)) == expected, body
    busy = await ask(client, "POST", "subscriptions/s/claim", {"worker": "other"})
    assert code(busy) == (409, "ALREADY_CLAIMED")
    assert busy.json["error"]["current_holder"] == "w"
    assert busy.json["error"]["generation"] == 1
    wrong = await ask(client, "POST", "subscriptions/s/callback", wake, token)
    assert code(wrong) == (400, "INVALID_REQUEST")
    for worker in ("", None, 5, "w" * 300):
        answer = await ask(client, "POST", "subscriptions/s/claim", {"worker": worker})
        assert code(answer) == (400, "INVALID_REQUEST")
    acks = [{"stream": "events/a", "offset": tail}]
    done = await ask(client, "POST", route, {**wake, "acks": acks, "done": True}, token)
    assert (done.status, done.json) == (200, {"ok": True, "next_wake": False})
    assert code(await ask(client, "POST", route, wake, token)) == (409, "FENCED")
    answer = await ask(client, "POST", "subscriptions/s/claim", {"worker": "w"})
    assert code(answer) == (409, "NO_PENDING_WORK")
    await ask(client, "DELETE", "subscriptions/s")
    assert code(await ask(client, "POST", route, wake, token)) == (404, "SUBSCRIPTION_NOT_FOUND")


async def test_a_release_says_nothing(client: Client, claimed: Any) -> None:
    wake = {"wake_id": claimed["wake_id"], "generation": claimed["generation"]}
    answer = await ask(client, "POST", "subscriptions/s/release", wake, claimed["token"])
    assert (answer.status, answer.body) == (204, b"")


@pytest.mark.parametrize("method, route", [("PUT", "s"), ("POST", "s/claim"), ("POST", "s/ack")])
@pytest.mark.parametrize("framing", ["declared", "chunked"])
async def test_bodies_have_a_bound(client: Client, method: str, route: str, framing: str) -> None:
    """It is told as every error of these routes is, by whatever the size was found out."""
    fields, body = {}, b"x" * (1024 * 1024 + 1)
    if framing == "chunked":
        fields = {"Transfer-Encoding": "chunked"}
        body = chunked(body[:600_000], body[600_000:])
    answer = await ask(client, method, f"subscriptions/{route}", body, **fields)
    assert code(answer) == (413, "BODY_TOO_LARGE")
    assert str(1024 * 1024) in answer.json["error"]["message"]
    assert answer["cache-control"] == "no-store"


async def test_a_server_that_does_not_know_where_it_is_takes_no_webhooks(client: Client) -> None:
    answer = await ask(client, "PUT", "subscriptions/s", WEBHOOK, Host="not a host!")
    assert answer.status == 400


async def test_a_configured_url_goes_before_the_hosts(
    serve: Callable[..., Awaitable[Client]],
) -> None:
    client = await serve(public_url="https://public.example/base/")
    created = await ask(client, "PUT", "subscriptions/s", WEBHOOK)
    url = created.json["webhook"]["signing"]["jwks_url"]
    assert url == "https://public.example/base/v1/stream/__ds/jwks.json"


async def test_each_mount_of_an_engine_keeps_its_own_public_url(
    front_end: Serve, serving: AsyncExitStack, memory: MemoryStore
) -> None:
    engine = await serving.enter_async_context(Engine(memory))
    mounts = {
        name: Mount(engine, Options(public_url=f"https://{name}.example"), None)
        for name in ("first", "second")
    }
    for name, mount in mounts.items():
        port = await serving.enter_async_context(front_end(mount, "/v1/stream/"))
        client = Client(port, "/v1/stream/", mount)
        serving.push_async_callback(client.close)
        created = await ask(client, "PUT", f"subscriptions/{name}", WEBHOOK)
        url = created.json["webhook"]["signing"]["jwks_url"]
        assert url == f"https://{name}.example/v1/stream/__ds/jwks.json"
    for name in mounts:
        described = await engine.subscriptions.describe(name)
        url = described["webhook"]["signing"]["jwks_url"]
        assert url == f"https://{name}.example/v1/stream/__ds/jwks.json"


async def test_workers_need_no_token_of_the_server_and_managers_do(
    serve: Callable[..., Awaitable[Client]],
) -> None:
    client = await serve(token="secret")
    assert (await ask(client, "PUT", "subscriptions/s", PULL)).status == 401
    assert (await ask(client, "POST", "subscriptions/s/claim", {"worker": "w"})).status == 401
    assert (await ask(client, "PUT", "subscriptions/s", PULL, "secret")).status == 201
    assert (await ask(client, "GET", "jwks.json")).status == 200
    assert code(await ask(client, "POST", "subscriptions/s/ack", {}, "nonsense")) == (
        401, "TOKEN_INVALID",
    )  # fmt: skip


@pytest.mark.parametrize("later", [False, True])
async def test_the_access_hook_is_asked_about_everything_that_a_subscription_touches(
    serve: Callable[..., Awaitable[Client]], later: bool
) -> None:
    asked = []

    def authorize(action: Any, path: Any, _request: Any) -> Any:
        asked.append((action, path))
        return (action, path) not in denied

    async def authorize_later(action: Any, path: Any, request: Any) -> Any:
        return authorize(action, path, request)

    denied = set()
    client = await serve(authorize=authorize_later if later else authorize)
    wish = {**PULL, "streams": ["x"]}
    assert (await ask(client, "PUT", "subscriptions/s", wish)).status == 201
    assert asked == [
        ("subscribe", "__ds/subscriptions/s"),
        ("subscribe", "x"),
        ("subscribe", "events/*"),
        ("append", "wake/pool"),
    ]
    for question in asked.copy():
        denied = {question}
        assert (await ask(client, "PUT", "subscriptions/s", wish)).status == 403
    denied = {("claim", "__ds/subscriptions/s"), ("subscribe", "y")}
    assert (await ask(client, "POST", "subscriptions/s/claim", {"worker": "w"})).status == 403
    answer = await ask(client, "POST", "subscriptions/s/streams", {"streams": ["y"]})
    assert answer.status == 403


async def test_a_hook_that_fails_refuses(serve: Callable[..., Awaitable[Client]]) -> None:
    def authorize(action: Any, path: Any, _request: Any) -> Any:
        if action == "append":
            raise RuntimeError("broken")
        return True

    client = await serve(authorize=authorize)
    assert (await ask(client, "PUT", "subscriptions/s", PULL)).status == 403
