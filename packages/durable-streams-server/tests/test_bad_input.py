"""Everything a hostile or mistaken client sends has a status and a code of its own."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tokens import NOT_REACHED, at
from wire import Client, chunked, request_bytes

JSON = "application/json"
TEXT = {"content-type": "text/plain"}


@pytest.fixture
async def client(client: Client) -> Any:
    await client.put("a", body=b"abc")
    await client.put("j", JSON, b'[{"n":1}]')
    return client


@pytest.mark.parametrize("mode", ["", "&live=long-poll", "&live=sse"])
async def test_an_offset_inside_a_message_is_refused(client: Client, mode: str) -> None:
    await client.put("j", JSON, b'[{"n":1}]')
    inside = at((await client.head("j"))["stream-next-offset"], 1)
    answer = await client.get(f"j?offset={inside}{mode}")
    assert (answer.status, answer.code) == (400, "offset-inside-message")


@pytest.mark.parametrize(
    "path, status, code",
    [
        ("a?offset=rubbish", 400, "invalid-offset"),
        ("a?offset=", 400, "invalid-offset"),
        ("a?offset=3", 400, "invalid-offset"),
        ("a?offset=-2", 400, "invalid-offset"),
        (f"a?offset={NOT_REACHED}x", 400, "invalid-offset"),
        (f"a?offset={NOT_REACHED}", 400, "offset-past-tail"),
        ("a?offset=-1&offset=now", 400, "repeated-parameter"),
        ("a?live=long-poll", 400, "missing-offset"),
        ("a?live=sse", 400, "missing-offset"),
        ("a?offset=-1&live=websocket", 400, "invalid-live-mode"),
        ("a?offset=-1&live=", 400, "invalid-live-mode"),
        ("missing?offset=-1&live=sse", 404, "not-found"),
        ("missing?offset=-1&live=long-poll", 404, "not-found"),
        ("../a", 400, "invalid-path"),
        ("x/%2e%2e/a", 400, "invalid-path"),
        ("x//a", 400, "invalid-path"),
        ("x%2Fa", 400, "invalid-path"),
        ("x%5Ca", 400, "invalid-path"),
        ("a%00", 400, "invalid-path"),
        ("a%0d%0aset-cookie:x", 400, "invalid-path"),
        ("a%7f", 400, "invalid-path"),
        ("a%zz", 400, "invalid-path"),
        ("a%ff", 400, "invalid-path"),
        ("", 400, "invalid-path"),
        ("x" * 1025, 414, "path-too-long"),
        ("%C3%A9" * 600, 414, "path-too-long"),
    ],
)
async def test_a_bad_read_is_refused(client: Client, path: str, status: int, code: str) -> None:
    answer = await client.get(path)
    assert (answer.status, answer.code) == (status, code)
    assert answer["cache-control"] == "no-store"


@pytest.mark.parametrize("path", ["../a", "x%2Fa", "a%00", "x" * 1025])
@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE"])
async def test_a_bad_path_is_refused_to_every_method(
    client: Client, method: str, path: str
) -> None:
    answer = await client.request(method, path, TEXT, b"x" if method == "POST" else None)
    assert answer.status in (400, 414)
    assert answer.code in ("invalid-path", "path-too-long")


@pytest.mark.parametrize(
    "fields, status, code",
    [
        ({"stream-ttl": "+1"}, 400, "invalid-ttl"),
        ({"stream-ttl": "01"}, 400, "invalid-ttl"),
        ({"stream-ttl": "1.5"}, 400, "invalid-ttl"),
        ({"stream-ttl": "1e3"}, 400, "invalid-ttl"),
        ({"stream-ttl": "-1"}, 400, "invalid-ttl"),
        ({"stream-ttl": ""}, 400, "invalid-ttl"),
        ({"stream-ttl": "99999999999"}, 400, "invalid-ttl"),
        ({"stream-expires-at": "tomorrow"}, 400, "invalid-expires-at"),
        ({"stream-expires-at": "2030-02-30T00:00:00Z"}, 400, "invalid-expires-at"),
        (
            {"stream-ttl": "1", "stream-expires-at": "2040-01-01T00:00:00Z"},
            400,
            "ttl-and-expires-at",
        ),
        ({"content-type": "nonsense"}, 400, "invalid-content-type"),
        ({"content-type": "text/plain\xe9"}, 400, "invalid-content-type"),
        ({"stream-fork-offset": "-1"}, 400, "fork-without-source"),
        ({"stream-fork-sub-offset": "1"}, 400, "fork-without-source"),
        ({"stream-forked-from": "../a"}, 400, "invalid-path"),
        ({"stream-forked-from": "x%2Fa"}, 400, "invalid-path"),
        ({"stream-forked-from": "missing"}, 404, "source-not-found"),
        ({"stream-forked-from": "a", "stream-fork-offset": "rubbish"}, 400, "invalid-offset"),
        (
            {"stream-forked-from": "a", "stream-fork-offset": NOT_REACHED},
            400,
            "offset-past-tail",
        ),
        ({"stream-forked-from": "a", "stream-fork-sub-offset": "-1"}, 400, "invalid-number"),
        ({"stream-forked-from": "a", "stream-fork-sub-offset": "01"}, 400, "invalid-number"),
        ({"stream-forked-from": "a", "stream-fork-sub-offset": "9"}, 400, "sub-offset-past-data"),
        ({"stream-forked-from": "a", "content-type": JSON}, 409, "content-type-mismatch"),
        ({"content-encoding": "gzip"}, 415, "content-encoding"),
    ],
)
async def test_a_bad_creation_is_refused(
    client: Client, fields: Any, status: int, code: str
) -> None:
    answer = await client.request("PUT", "new", fields)
    assert (answer.status, answer.code) == (status, code)
    assert (await client.head("new")).status == 404


@pytest.mark.parametrize("method", ["GET", "PUT", "POST", "DELETE"])
@pytest.mark.parametrize("path", ["__ds", "__ds/x", "%5F_ds/x", "__ds/subscriptions/"])
async def test_what_is_reserved_is_no_stream(client: Client, method: str, path: str) -> None:
    answer = await client.request(method, path, TEXT, b"x" if method == "POST" else None)
    assert 400 <= answer.status < 500
    assert [info.path for info in await client.engine.list()] == ["a", "j"]


PRODUCER = {"producer-id": "p", "producer-epoch": "0", "producer-seq": "0"}


@pytest.mark.parametrize(
    "fields, body, status, code",
    [
        ({}, b"x", 400, "missing-content-type"),
        ({"content-type": "nonsense"}, b"x", 400, "invalid-content-type"),
        ({"content-type": JSON}, b"1", 409, "content-type-mismatch"),
        (TEXT, b"", 400, "empty-body"),
        ({**TEXT, "stream-closed": "yes"}, b"", 400, "empty-body"),
        ({**TEXT, "producer-id": "p"}, b"x", 400, "incomplete-producer"),
        (
            {**TEXT, "producer-epoch": "0", "producer-seq": "0"},
            b"x",
            400,
            "incomplete-producer",
        ),
        ({**TEXT, **PRODUCER, "producer-id": ""}, b"x", 400, "invalid-producer-id"),
        ({**TEXT, **PRODUCER, "producer-id": "p" * 257}, b"x", 400, "invalid-producer-id"),
        ({**TEXT, **PRODUCER, "producer-seq": "1e3"}, b"x", 400, "invalid-number"),
        ({**TEXT, **PRODUCER, "producer-seq": "1abc"}, b"x", 400, "invalid-number"),
        ({**TEXT, **PRODUCER, "producer-seq": "-1"}, b"x", 400, "invalid-number"),
        ({**TEXT, **PRODUCER, "producer-seq": "+1"}, b"x", 400, "invalid-number"),
        ({**TEXT, **PRODUCER, "producer-seq": ""}, b"x", 400, "invalid-number"),
        ({**TEXT, **PRODUCER, "producer-epoch": "0.0"}, b"x", 400, "invalid-number"),
        ({**TEXT, **PRODUCER, "producer-epoch": "9007199254740992"}, b"x", 400, "invalid-number"),
        ({**TEXT, "stream-seq": "s" * 257}, b"x", 400, "invalid-stream-seq"),
        ({**TEXT, "if-match": "unquoted"}, b"x", 400, "invalid-if-match"),
        ({**TEXT, "content-encoding": "gzip"}, b"x", 415, "content-encoding"),
    ],
)
async def test_a_bad_append_is_refused(
    client: Client, fields: Any, body: bytes, status: int, code: str
) -> None:
    answer = await client.request("POST", "a", fields, body)
    assert (answer.status, answer.code) == (status, code)
    assert (await client.get("a")).body == b"abc"


@pytest.mark.parametrize(
    "body, code",
    [
        (b"{", "invalid-json"),
        (b"[1,]", "invalid-json"),
        (b"1 2", "invalid-json"),
        (b"NaN", "invalid-json"),
        (b"'x'", "invalid-json"),
        (b"   ", "invalid-json"),
        (b'"\x01"', "invalid-json"),
        (b'"\xff"', "invalid-utf8"),
        (b'"\xed\xa0\x80"', "invalid-utf8"),
        (b"[]", "empty-array"),
        (b"[" * 2000 + b"]" * 2000, "json-too-deep"),
        (b"[" * 200_000, "json-too-deep"),
        (b'{"a":' * 300 + b"1" + b"}" * 300, "json-too-deep"),
    ],
)
async def test_bad_json_is_refused(client: Client, body: bytes, code: str) -> None:
    answer = await client.post("j", body, JSON)
    assert answer.status == 400
    assert answer.code in (code, "invalid-json")
    assert (await client.get("j")).json == [{"n": 1}]


@pytest.mark.parametrize(
    "name",
    ["content-type", "producer-id", "stream-seq", "if-match", "stream-closed"],
)
async def test_a_header_that_stands_alone_may_not_come_twice(client: Client, name: str) -> None:
    pairs = [*TEXT.items(), (name, "x"), (name, "y"), ("content-length", "1")]
    answer = await client.request("POST", "a", pairs, b"x")
    assert answer.status == 400
    if answer["content-type"] == "application/problem+json":  # aiohttp refuses some by itself
        assert answer.code == "repeated-header"
    assert (await client.get("a")).body == b"abc"


async def test_a_query_beyond_all_measure_is_refused(client: Client) -> None:
    answer = await client.get("a?" + "x=1&" * 2500)
    assert answer.status in (400, 414)


@pytest.mark.parametrize("method", ["PATCH", "TRACE", "PROPFIND"])
async def test_another_method_is_told_which_there_are(client: Client, method: str) -> None:
    answer = await client.request(method, "a")
    assert (answer.status, answer.code) == (405, "method-not-allowed")
    assert answer["allow"] == "GET, HEAD, POST, PUT, DELETE, OPTIONS"


async def test_outside_of_the_root_there_is_nothing(client: Client) -> None:
    for target in ("/", "/v1", "/v1/streams/a", "/v1/stream"):
        answer = await client.raw(request_bytes("GET", target))
        assert (answer.status, answer.code) == (404, "not-a-stream")


class TestTooLarge:
    @pytest.fixture
    async def client(self, serve: Callable[..., Awaitable[Client]]) -> Any:
        client = await serve(max_body=1000)
        await client.put("a")
        return client

    async def test_a_declared_length_is_refused_before_the_body_comes(self, client: Client) -> None:
        connection = await client.connect()
        fields = {**TEXT, "content-length": "1000000"}
        await connection.send(request_bytes("POST", client.root + "a", fields))
        answer = await connection.answer("POST")
        assert (answer.status, answer.code) == (413, "body-too-large")
        assert answer["connection"] == "close"

    async def test_a_client_that_waits_for_a_go_ahead_gets_none(self, client: Client) -> None:
        connection = await client.connect()
        fields = {**TEXT, "content-length": "1001", "expect": "100-continue"}
        await connection.send(request_bytes("POST", client.root + "a", fields))
        first = await connection.reader.readuntil(b"\r\n")
        assert b" 413 " in first

    @pytest.mark.parametrize("method", ["POST", "PUT"])
    async def test_chunks_are_counted_and_nothing_is_stored(
        self, client: Client, method: str
    ) -> None:
        path = "a" if method == "POST" else "new"
        fields = {**TEXT, "transfer-encoding": "chunked"}
        answer = await client.request(method, path, fields, chunked(b"x" * 600, b"x" * 600))
        assert (answer.status, answer.code) == (413, "body-too-large")
        assert (await client.get("a")).body == b""
        assert (await client.head("new")).status == 404

    @pytest.mark.parametrize("method", ["POST", "PUT"])
    async def test_a_body_in_a_coding_that_nobody_undoes_is_not_stored(
        self, client: Client, method: str
    ) -> None:
        """Some servers let `gzip, chunked` through and take off the chunks alone."""
        path = "a" if method == "POST" else "new"
        fields = {**TEXT, "transfer-encoding": "gzip, chunked"}
        answer = await client.request(method, path, fields, chunked(b"x" * 60))
        assert (answer.status, answer.code) == (501, "transfer-encoding")
        assert (await client.get("a")).body == b""
        assert (await client.head("new")).status == 404

    async def test_the_answer_arrives_though_the_client_goes_on_sending(
        self, client: Client
    ) -> None:
        """Closed the hard way, the answer would be lost with what the client still sends."""
        connection = await client.connect()
        fields = {**TEXT, "content-length": str(3_000_000)}
        await connection.send(request_bytes("POST", client.root + "a", fields))
        connection.writer.write(b"x" * 3_000_000)
        answer = await connection.answer("POST")
        assert (answer.status, answer.code) == (413, "body-too-large")
        assert (await client.get("a")).body == b""

    async def test_the_limit_itself_is_within_it(self, client: Client) -> None:
        assert (await client.post("a", b"x" * 1000)).status == 204
        assert (await client.post("a", b"x" * 1001)).status == 413
