"""Access goes first: whoever may not know of a stream is not told what is wrong with a request."""

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import pytest
from wire import Client, Fields

from durable_streams_core.errors import InvalidRequest
from durable_streams_server.http.messages import fold_headers

Serve = Callable[..., Awaitable[Client]]


class Faulty(NamedTuple):
    """A request that is refused for what it says, once access is permitted."""

    method: str
    path: str
    fields: Fields
    body: bytes | None
    status: int


FAULTY = [
    Faulty("PUT", "a", {"stream-ttl": "soon"}, None, 400),
    Faulty("PUT", "a", {"stream-ttl": "1", "stream-expires-at": "2040-01-01T00:00:00Z"}, None, 400),
    Faulty("PUT", "a", {"stream-expires-at": "tomorrow"}, None, 400),
    Faulty("PUT", "a", {"content-type": "nonsense"}, None, 400),
    Faulty("PUT", "a", {"stream-fork-offset": "now"}, None, 400),
    Faulty("PUT", "a", {"stream-forked-from": "/elsewhere"}, None, 404),
    Faulty("PUT", "a", {"content-length": "99999999999"}, None, 413),
    Faulty("POST", "a", {"content-encoding": "gzip"}, b"x", 415),
    Faulty("POST", "a", {"content-type": "text/plain", "producer-id": "p"}, b"x", 400),
    Faulty("POST", "a", {"content-type": "text/plain", "if-match": "x"}, b"x", 400),
    Faulty("POST", "a", {"content-type": "text/plain"}, b"", 400),
    Faulty("POST", "a", [("stream-seq", "1"), ("stream-seq", "2")], b"x", 400),
    Faulty("GET", "a?live=pigeon", {}, None, 400),
    Faulty("GET", "a?offset=rubbish", {}, None, 400),
    Faulty("GET", "a?offset=-1&offset=now", {}, None, 400),
    Faulty("PUT", "__ds/subscriptions/s", {"content-length": "99999999999"}, None, 413),
    Faulty("PUT", "__ds/subscriptions/s", {}, b"nonsense", 400),
    Faulty("PATCH", "__ds/subscriptions/s", {}, None, 405),
    Faulty("POST", "__ds/subscriptions/s/claim", {}, b"{}", 400),
]
# A hook has to be asked about a path and an action; a token does not.
WITHOUT_PATH = [
    Faulty("PUT", "a%ff", {}, None, 400),
    Faulty("PUT", "x%2Fa", {}, None, 400),
    Faulty("PUT", "a" * 2000, {}, None, 414),
    Faulty("GET", "", {}, None, 400),
    Faulty("PATCH", "a", {}, None, 405),
    Faulty("GET", "__ds/nonsense", {}, None, 404),
    Faulty("PUT", "__ds/subscriptions/a%ff", {}, None, 400),
]


@pytest.mark.parametrize(
    "faulty",
    FAULTY + WITHOUT_PATH,
    ids=lambda faulty: f"{faulty.method} {faulty.path[:30]} {faulty.status}",
)
async def test_a_faulty_request_without_the_token_is_not_authenticated(
    serve: Serve, faulty: Faulty
) -> None:
    method, path, fields, body, status = faulty
    client = await serve(token="s3cret")
    pairs = list(fields.items()) if isinstance(fields, dict) else list(fields)
    for credentials in ([], [("authorization", "Bearer wrong")]):
        assert (await client.request(method, path, [*pairs, *credentials], body)).status == 401
    permitted = [*pairs, ("authorization", "Bearer s3cret")]
    assert (await client.request(method, path, permitted, body)).status == status


@pytest.mark.parametrize(
    "faulty", FAULTY, ids=lambda faulty: f"{faulty.method} {faulty.path[:30]} {faulty.status}"
)
@pytest.mark.parametrize("waits", [False, True], ids=["sync", "async"])
async def test_a_faulty_request_that_the_hook_refuses_is_forbidden(
    serve: Serve, waits: bool, faulty: Faulty
) -> None:
    method, path, fields, body, status = faulty
    verdict = False

    async def later() -> bool:
        return verdict

    client = await serve(authorize=lambda *_: later() if waits else verdict)
    assert (await client.request(method, path, fields, body)).status == 403
    verdict = True
    assert (await client.request(method, path, fields, body)).status == status


async def test_the_source_of_a_fork_is_asked_about_once_the_fork_is_permitted(
    serve: Serve,
) -> None:
    asked: list[tuple[str, str]] = []

    def authorize(action: str, path: str, _request: object) -> bool:
        asked.append((action, path))
        return action == "create"

    client = await serve(authorize=authorize)
    fork = await client.request("PUT", "fork", {"stream-forked-from": "secret"})
    assert (fork.status, asked) == (403, [("create", "fork"), ("read", "secret")])


# Errors of one route have one format.


def control_code(answer: Any) -> str:
    assert answer["content-type"] == "application/json"
    error = answer.json["error"]
    assert error["message"]
    code: str = error["code"]
    return code


async def test_every_error_of_a_control_route_has_the_format_of_the_protocol(serve: Serve) -> None:
    client = await serve(token="s3cret", cors_origins=("https://app.example",))
    known = {"authorization": "Bearer s3cret"}
    answers = [
        ("NOT_AUTHENTICATED", await client.request("GET", "__ds/subscriptions/s")),
        ("NOT_AUTHENTICATED", await client.request("GET", "__ds/nonsense")),
        ("METHOD_NOT_ALLOWED", await client.request("PATCH", "__ds/subscriptions/s", known)),
        ("SUBSCRIPTION_NOT_FOUND", await client.request("GET", "__ds/subscriptions/s", known)),
        (
            "FOREIGN_ORIGIN",
            await client.request("PUT", "__ds/subscriptions/s", {**known, "origin": "https://b"}),
        ),
        (
            "REPEATED_HEADER",
            await client.request(
                "GET",
                "__ds/subscriptions/s",
                [*known.items(), ("stream-seq", "1"), ("stream-seq", "2")],
            ),
        ),
        (
            "BODY_TOO_LARGE",
            await client.request(
                "PUT", "__ds/subscriptions/s", {**known, "content-length": "9999999"}
            ),
        ),
    ]
    for code, answer in answers:
        assert control_code(answer) == code
    refusing = await serve(authorize=lambda *_: False)
    assert control_code(await refusing.request("GET", "__ds/subscriptions/s")) == "FORBIDDEN"


# Headers sent twice.


@pytest.mark.parametrize("name", ["Authorization", "Stream-TTL", "Origin"])
async def test_a_header_sent_twice_with_one_value_counts_once(serve: Serve, name: str) -> None:
    fields = {
        "Authorization": "Bearer s3cret",
        "Content-Type": "text/plain",
        "Stream-TTL": "60",
        "Origin": "https://app.example",
    }
    client = await serve(token="s3cret")
    twice = [*fields.items(), (name.lower(), fields[name])]
    assert (await client.request("PUT", "a", twice)).status == 201
    assert (await client.request("POST", "a", twice, b"x")).status == 204


async def test_a_last_event_id_sent_twice_with_one_value_counts_once(client: Client) -> None:
    tail = (await client.request("PUT", "a", {"stream-closed": "true"}))["stream-next-offset"]
    twice = [("Last-Event-ID", tail), ("last-event-id", tail)]
    assert (await client.request("GET", "a?offset=-1&live=sse", twice)).status == 204


def test_a_content_type_sent_twice_counts_once() -> None:
    """Not over aiohttp, whose own parser refuses a second one."""
    pairs = [(b"Content-Type", b"text/plain"), (b"content-type", b"text/plain")]
    assert fold_headers(pairs) == {b"content-type": b"text/plain"}


@pytest.mark.parametrize(
    "name, values", [(b"Host", (b"x", b"x")), (b"Content-Length", (b"1", b"2"))]
)
def test_a_second_host_or_length_is_refused_at_once(
    name: bytes, values: tuple[bytes, bytes]
) -> None:
    with pytest.raises(InvalidRequest, match="send it once"):
        fold_headers((name, value) for value in values)


async def test_a_last_event_id_sent_twice_with_two_values_is_refused(client: Client) -> None:
    tail = (await client.request("PUT", "a"))["stream-next-offset"]
    twice = [("Last-Event-ID", tail), ("Last-Event-ID", "-1")]
    answer = await client.request("GET", "a?offset=-1&live=sse", twice)
    assert answer.code == "repeated-header"


async def test_a_header_sent_twice_with_two_values_is_refused(client: Client) -> None:
    twice = [("Stream-TTL", "60"), ("Stream-TTL", "61")]
    assert (await client.request("PUT", "a", twice)).code == "repeated-header"
    assert (await client.request("PUT", "a")).status == 201


# Pages of other origins.


APP = "https://app.example"


@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE"])
@pytest.mark.parametrize("origin", ["https://evil.example", "null", "https://app.example.evil"])
async def test_a_page_of_another_origin_cannot_write_where_origins_are_listed(
    serve: Serve, method: str, origin: str
) -> None:
    client = await serve(cors_origins=(APP,))
    await client.engine.create("a", content_type="text/plain")
    fields = {"content-type": "text/plain", "origin": origin, "stream-closed": "true"}
    body = None if method == "DELETE" else b"x"
    for path in ("a", "new"):
        refused = await client.request(method, path, fields, body)
        assert (refused.status, refused.code) == (403, "foreign-origin")
    assert [(info.path, info.closed) for info in await client.engine.list()] == [("a", False)]
    assert (await client.get("a", origin=origin)).status == 200


async def test_no_page_writes_where_no_origin_is_listed(serve: Serve) -> None:
    client = await serve(cors_origins=())
    assert (await client.put("a", origin=APP)).code == "foreign-origin"
    assert (await client.put("a")).status == 201


@pytest.mark.parametrize(
    "origin, host",
    [
        (APP, "test.example"),
        ("http://streams.example", "streams.example"),
        ("https://streams.example", "streams.example:443"),
        ("https://streams.example:8443", "streams.example:8443"),
        ("https://public.example", "inside:4437"),
    ],
)
async def test_a_page_of_a_listed_or_the_servers_own_origin_writes(
    serve: Serve, origin: str, host: str
) -> None:
    client = await serve(cors_origins=(APP,), public_url="https://public.example/ds")
    assert (await client.put("a", origin=origin, host=host)).status == 201


async def test_any_page_writes_where_every_origin_is_welcome(client: Client) -> None:
    assert (await client.put("a", origin="https://anywhere.example")).status == 201
