"""Bearer tokens with names and rights, through every front end."""

from collections.abc import Awaitable, Callable
from hashlib import sha256
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire import Client

from durable_streams_server import Engine, MemoryStore
from durable_streams_server.access.access import Access
from durable_streams_server.access.rights import Rights
from durable_streams_server.access.tokens import Token
from durable_streams_server.http.exchange import Exchange
from durable_streams_server.http.handler import Handler
from durable_streams_server.http.messages import RequestHead
from durable_streams_server.http.options import Options

Serving = Callable[..., Awaitable[Client]]

READER, WRITER, WORKER = "reader-secret-123", "writer-secret-123", "worker-secret-123"


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


def access() -> Access:
    return Access(
        tokens=[
            Token("reader", Rights(read=["chats/*"]), secret=READER),
            Token("writer", Rights(write=["chats/*", "wakes"]), secret=WRITER),
            Token(
                "worker",
                Rights(
                    read=["jobs/**"],
                    subscribe=["jobs/**"],
                    write=["wakes"],
                    subscriptions=["job-*"],
                ),
                sha256=sha256(WORKER.encode()).hexdigest(),
            ),
        ],
        anonymous=Rights(read=["public/**"]),
    )


async def test_a_token_may_do_what_its_rights_say_and_nothing_else(serve: Serving) -> None:
    client = await serve(authorize=access())
    assert (await client.put("chats/1", body=b"x", **bearer(WRITER))).status == 201
    assert (await client.post("chats/1", b"y", **bearer(WRITER))).status == 204
    assert (await client.get("chats/1", **bearer(READER))).body == b"xy"
    assert (await client.head("chats/1", **bearer(READER))).status == 200
    for refused in (
        await client.get("chats/1", **bearer(WRITER)),
        await client.post("chats/1", b"z", **bearer(READER)),
        await client.put("chats/2", **bearer(READER)),
        await client.put("other/2", **bearer(WRITER)),
        await client.delete("chats/1", **bearer(WRITER)),
        await client.get("chats", **bearer(READER)),
        await client.get("chats/1/2", **bearer(READER)),
    ):
        assert (refused.status, refused.code) == (403, "forbidden")
    assert [info.path for info in await client.engine.list()] == ["chats/1"]


async def test_a_fork_needs_the_right_to_read_its_source(serve: Serving) -> None:
    client = await serve(authorize=access())
    await client.engine.create("secrets/1", data=b"x")
    fork = {"stream-forked-from": "secrets/1", **bearer(WRITER)}
    assert (await client.request("PUT", "chats/fork", fork)).status == 403
    assert not [info for info in await client.engine.list() if info.path == "chats/fork"]


async def test_a_listing_shows_what_may_be_read_and_names_nothing_else(serve: Serving) -> None:
    client = await serve(authorize=access())
    for number in range(3):
        await client.engine.create(f"chats/{number}")
        await client.engine.create(f"a-secret/{number}")
        await client.engine.create(f"z-secret/{number}")
    answer = await client.get("__ds/streams?limit=1", **bearer(READER))
    assert [row["path"] for row in answer.json["streams"]] == ["chats/0"]
    assert answer.json["next"] == "chats/0"
    answer = await client.get("__ds/streams?after=chats/2&limit=1", **bearer(READER))
    assert answer.json == {"streams": [], "next": None}


@pytest.mark.parametrize("listing", ["streams", "subscriptions"])
@pytest.mark.parametrize("fields", [{}, {"authorization": "Bearer wrong"}])
async def test_a_listing_tells_those_without_credentials_nothing_of_what_there_is(
    serve: Serving, listing: str, fields: dict[str, str]
) -> None:
    client = await serve(authorize=access())
    await client.engine.create("payroll/ceo")
    for prefix in ("", "payroll/c", "payroll/d"):
        answer = await client.get(f"__ds/{listing}?prefix={prefix}", **fields)
        assert answer.status == 401


async def test_an_anonymous_listing_of_a_public_prefix_is_silent_about_its_neighbours(
    serve: Serving,
) -> None:
    client = await serve(authorize=Access(anonymous=Rights(read=["public/**"])))
    await client.engine.create("public/1")
    await client.engine.create("public-secret/1")
    answer = await client.get("__ds/streams?prefix=public")
    assert [row["path"] for row in answer.json["streams"]] == ["public/1"]
    for prefix in ("public-", "public-s", "public-t"):
        assert (await client.get(f"__ds/streams?prefix={prefix}")).status == 401


@pytest.mark.parametrize("path", ["chats/1", "__ds/streams"])
async def test_bytes_in_a_token_that_are_no_text_are_a_token_that_is_not_valid(
    serve: Serving, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = await serve(authorize=access())
    answer = await client.request("GET", path, [("authorization", "Bearer \xff\xfe")])
    assert answer.status == 401
    assert "failed" not in caplog.text


async def test_subscriptions_follow_only_what_their_maker_may_follow(serve: Serving) -> None:
    client = await serve(authorize=access())

    async def subscribe(name: str, pattern: str, secret: str = WORKER) -> int:
        body = f'{{"type":"pull-wake","pattern":"{pattern}","wake_stream":"wakes"}}'.encode()
        fields = {"content-type": "application/json", **bearer(secret)}
        path = f"__ds/subscriptions/{name}"
        return (await client.request("PUT", path, fields, body)).status

    assert await subscribe("job-1", "jobs/*") == 201
    assert await subscribe("job-2", "jobs/**") == 201
    assert await subscribe("job-3", "**") == 403
    assert await subscribe("job-3", "*/x") == 403
    assert await subscribe("chat-1", "jobs/*") == 403
    assert await subscribe("job-1", "jobs/*", WRITER) == 403
    claim = await client.request(
        "POST", "__ds/subscriptions/job-1/claim", bearer(WRITER), b'{"worker":"w"}'
    )
    assert claim.status == 403
    claim = await client.request(
        "POST", "__ds/subscriptions/job-1/claim", bearer(WORKER), b'{"worker":"w"}'
    )
    assert claim.status == 409
    listed = await client.get("__ds/subscriptions", **bearer(WORKER))
    assert [row["id"] for row in listed.json["subscriptions"]] == ["job-1", "job-2"]
    assert (await client.get("__ds/subscriptions", **bearer(READER))).json["subscriptions"] == []


async def test_no_credentials_do_what_anonymous_may(serve: Serving) -> None:
    client = await serve(authorize=access())
    await client.engine.create("public/1", data=b"x")
    assert (await client.get("public/1")).status == 200
    refused = await client.put("public/1")
    assert (refused.status, refused.code) == (401, "not-authenticated")
    assert refused["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "sent", ["Bearer wrong", "Bearer", "Bearer ", "Basic eDp5", "x", "Bearer " + "a" * 7000]
)
async def test_credentials_that_are_not_valid_are_refused_even_where_none_are_needed(
    serve: Serving, sent: str
) -> None:
    client = await serve(authorize=access())
    await client.engine.create("public/1")
    refused = await client.get("public/1", authorization=sent)
    assert (refused.status, refused.code) == (401, "token-invalid")
    assert 'error="invalid_token"' in refused["www-authenticate"]


PIECES = st.sampled_from(
    ["chats", "CHATS", "Chats", "a", "", ".", "..", "%2e%2e", "%2E", "%2f", "%5c", "\\", "__ds",
     "%5F_ds", "streams", "secret", "*", "**", "%2A", "%00", "é", "%C3%A9", "%", "%zz", ";", "chats%"]
)  # fmt: skip


@given(
    st.lists(PIECES, min_size=1, max_size=5).map("/".join),
    st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE"]),
)
def test_no_spelling_of_a_path_reaches_what_no_pattern_permits(target: str, method: str) -> None:
    """Whatever is permitted lies under the pattern by its decoded segments."""
    rights = Rights(all=["chats/*"])
    options = Options(authorize=Access(tokens=[Token("t", rights, secret=READER)]))
    handler = Handler(Engine(MemoryStore()), options)
    head = RequestHead(method, target, "", {b"authorization": b"Bearer " + READER.encode()})
    begun = handler.begin(head)
    refusal = begun.verdict if isinstance(begun, Exchange) else begun
    if refusal is not None:
        assert refusal.status >= 400
        return
    assert isinstance(begun, Exchange)
    if target.startswith("__ds/streams"):
        return
    segments = [unquote(segment) for segment in target.split("/")]
    assert segments[0] == "chats"
    assert len(segments) == 2
    assert segments[1] not in ("", ".", "..")
    assert begun.path == "/".join(segments)
    assert quote(segments[1])


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda: Token("a b", Rights(all=["**"]), secret=READER), "name"),
        (lambda: Token("a", Rights(all=["**"]), secret="short"), "at least 16"),
        (lambda: Token("a", Rights(all=["**"]), secret="with a space in the middle"), "no spaces"),
        (lambda: Token("a", Rights(all=["**"]), sha256="abc"), "64 hexadecimal"),
        (lambda: Token("a", Rights(all=["**"])), "secret or sha256"),
        (lambda: Token("a", Rights(all=["**"]), secret=READER, sha256="0" * 64), "not both"),
        (lambda: Token("a", Rights(all=["{sub}"], names=True), secret=READER), "braces"),
        (Rights, "no rights"),
        (lambda: Rights(read=[]), "no rights"),
        (lambda: Rights(claim=["a/b"]), "one segment"),
    ],
)
def test_what_is_not_a_token_or_a_right_is_refused(make: Callable[[], object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make()


def test_two_tokens_have_two_names_and_two_secrets() -> None:
    def token(name: str, secret: str) -> Token:
        return Token(name, Rights(all=["**"]), secret=secret)

    with pytest.raises(ValueError, match="own name"):
        Access(tokens=[token("a", READER), token("a", WRITER)])
    with pytest.raises(ValueError, match="same secret"):
        Access(tokens=[token("a", READER), token("b", READER)])


def test_a_single_text_is_not_a_list_of_patterns() -> None:
    with pytest.raises(TypeError, match="list"):
        Rights(read="chats/*")
