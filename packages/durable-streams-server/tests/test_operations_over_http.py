"""Every operation of the protocol over every front end (§5)."""

import asyncio
import gzip
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tokens import at, position
from wire import Client, chunked, request_bytes

from durable_streams_core.offsets import BEGINNING

JSON = "application/json"
TAIL = "stream-next-offset"


async def test_put_creates_a_stream(client: Client) -> None:
    answer = await client.put("a", stream_ttl="60")
    assert answer.status == 201
    assert answer["location"] == "http://test.example/v1/stream/a"
    assert answer["content-type"] == "text/plain"
    assert position(answer[TAIL]) == 0
    assert "stream-closed" not in answer
    assert answer.body == b""


async def test_put_again_finds_it_and_otherwise_conflicts(client: Client) -> None:
    created = await client.put("a")
    again = await client.put("a")
    assert (again.status, again[TAIL], again["content-type"]) == (200, created[TAIL], "text/plain")
    assert "location" not in again
    other = await client.put("a", JSON)
    assert (other.status, other.code) == (409, "configuration-mismatch")


async def test_put_takes_the_first_content(client: Client) -> None:
    answer = await client.put("a", JSON, b"[1, 2]")
    assert answer.status == 201
    assert (await client.get("a")).json == [1, 2]
    empty = await client.put("b", JSON, b"[]")
    assert (empty.status, position(empty[TAIL])) == (201, 0)


async def test_put_without_a_type_makes_a_stream_of_bytes(client: Client) -> None:
    answer = await client.request("PUT", "a")
    assert answer["content-type"] == "application/octet-stream"


async def test_put_closed_is_complete_at_once(client: Client) -> None:
    answer = await client.put("a", body=b"all", stream_closed="TRUE")
    assert (answer.status, answer["stream-closed"], position(answer[TAIL])) == (201, "true", 3)
    assert (await client.put("a", stream_closed="true")).status == 200
    assert (await client.put("a")).status == 409
    read = await client.get("a")
    assert (read.body, read["stream-closed"]) == (b"all", "true")


@pytest.mark.parametrize("value", ["false", "yes", "1", ""])
async def test_closed_counts_only_when_it_says_true(client: Client, value: str) -> None:
    assert "stream-closed" not in await client.put("a", stream_closed=value)
    assert (await client.post("a", b"x", stream_closed=value)).status == 204
    assert (await client.post("a", b"x")).status == 204


async def test_post_appends(client: Client) -> None:
    await client.put("a")
    first = await client.post("a", b"Hello, ")
    second = await client.post("a", b"world")
    assert (first.status, position(first[TAIL])) == (204, 7)
    assert position(second[TAIL]) == 12
    read = await client.get("a")
    assert read.status == 200
    assert read.body == b"Hello, world"
    assert read["content-type"] == "text/plain"
    assert (position(read[TAIL]), read["stream-up-to-date"]) == (12, "true")


async def test_post_flattens_one_level_of_json(client: Client) -> None:
    await client.put("a", JSON)
    await client.post("a", b'{"n": 1}', JSON)
    await client.post("a", b"[[1,2],[3]]", JSON)
    await client.post("a", b"[[[4]]]", JSON)
    assert (await client.get("a")).json == [{"n": 1}, [1, 2], [3], [[4]]]


@pytest.mark.parametrize("pieces", [(b"one atomic append",), (b"one ", b"atomic", b" append")])
async def test_an_append_in_chunks_is_one_atomic_append(client: Client, pieces: Any) -> None:
    await client.put("a")
    fields = {"content-type": "text/plain", "transfer-encoding": "chunked", "producer-id": "p",
              "producer-epoch": "0", "producer-seq": "0"}  # fmt: skip
    answer = await client.request("POST", "a", fields, chunked(*pieces))
    assert (answer.status, position(answer[TAIL])) == (200, 17)
    assert (await client.get("a")).body == b"one atomic append"


async def test_json_in_chunks_may_be_cut_inside_a_message(client: Client) -> None:
    await client.put("a", JSON)
    fields = {"content-type": JSON, "transfer-encoding": "chunked"}
    answer = await client.request("POST", "a", fields, chunked(b'[{"n"', b":1}", b",2]"))
    assert answer.status == 204
    assert (await client.get("a")).json == [{"n": 1}, 2]


@pytest.mark.parametrize(
    "fields, part",
    [
        ({"content-length": "10"}, b"five!"),
        ({"transfer-encoding": "chunked"}, b"5\r\nfive!\r\n"),
        ({"transfer-encoding": "chunked"}, b"5\r\nfive!\r\n6\r\nfiv"),
    ],
)
async def test_a_body_that_ends_early_stores_nothing(
    client: Client, fields: Any, part: bytes
) -> None:
    await client.put("a")
    connection = await client.connect()
    request = request_bytes("POST", client.root + "a", {**fields, "content-type": "text/plain"})
    await connection.send(request + part)
    connection.writer.write_eof()
    await connection.reader.read()
    assert (await client.get("a")).body == b""


@pytest.mark.parametrize("chunk", [b"zz\r\nxx\r\n0\r\n\r\n", b"2\r\nxxx\r\n0\r\n\r\n"])
async def test_a_broken_chunk_is_refused_and_stores_nothing(client: Client, chunk: bytes) -> None:
    await client.put("a")
    fields = {"content-type": "text/plain", "transfer-encoding": "chunked"}
    answer = await client.request("POST", "a", fields, chunk)
    assert answer.status == 400
    assert (await client.get("a")).body == b""


async def test_post_closes(client: Client) -> None:
    await client.put("a")
    closed = await client.post("a", b"end", stream_closed="true")
    assert (closed.status, closed["stream-closed"], position(closed[TAIL])) == (204, "true", 3)
    again = await client.request("POST", "a", {"stream-closed": "true"})
    assert (again.status, again["stream-closed"]) == (204, "true")
    for fields in ({}, {"stream_closed": "true"}):
        late = await client.post("a", b"more", **fields)
        assert (late.status, late.code) == (409, "stream-closed")
        assert (late["stream-closed"], position(late[TAIL])) == ("true", 3)


async def test_a_close_without_data_ignores_the_content_type(client: Client) -> None:
    await client.put("a", JSON)
    answer = await client.post("a", b"", "text/plain", stream_closed="true")
    assert (answer.status, answer["stream-closed"]) == (204, "true")


async def test_closed_comes_before_a_wrong_type_and_that_before_a_sequence(client: Client) -> None:
    await client.put("a")
    await client.post("a", b"x", stream_seq="5")
    wrong = await client.post("a", b"1", JSON, stream_seq="1")
    assert wrong.code == "content-type-mismatch"
    regression = await client.post("a", b"1", stream_seq="10")
    assert (regression.status, regression.code) == (409, "sequence-regression")
    await client.post("a", b"", stream_closed="true")
    closed = await client.post("a", b"1", JSON, stream_seq="1")
    assert closed.code == "stream-closed"


async def test_producers_over_http(client: Client) -> None:
    await client.put("a")

    async def send(epoch: Any, seq: Any) -> Any:
        return await client.post(
            "a", b"x", producer_id="p", producer_epoch=str(epoch), producer_seq=str(seq)
        )

    first = await send(0, 0)
    assert (first.status, first["producer-epoch"], first["producer-seq"]) == (200, "0", "0")
    assert (await send(0, 1)).status == 200
    again = await send(0, 0)
    assert (again.status, again["producer-seq"]) == (204, "1")
    gap = await send(0, 5)
    assert (gap.status, gap.code) == (409, "producer-sequence-gap")
    assert (gap["producer-expected-seq"], gap["producer-received-seq"]) == ("2", "5")
    assert (await send(1, 0)).status == 200
    fenced = await send(0, 2)
    assert (fenced.status, fenced.code, fenced["producer-epoch"]) == (403, "producer-fenced", "1")
    assert (await send(2, 1)).code == "epoch-starts-at-zero"
    closing = await client.request(
        "POST",
        "a",
        {"stream-closed": "true", "producer-id": "p", "producer-epoch": "1", "producer-seq": "1"},
    )
    assert (closing.status, closing["stream-closed"]) == (204, "true")
    duplicate = await send(1, 1)
    assert (duplicate.status, duplicate["stream-closed"]) == (204, "true")
    assert (await client.get("a")).body == b"xxx"


async def test_an_append_may_be_conditional_on_the_tail(client: Client) -> None:
    """The extension ``If-Match``."""
    await client.put("a")
    first = await client.post("a", b"1", if_match=f'"{BEGINNING}"')
    assert first.status == 204
    moved = await client.post("a", b"x", if_match=f'"{BEGINNING}"')
    assert (moved.status, moved.code, moved[TAIL]) == (412, "tail-moved", first[TAIL])
    assert (await client.post("a", b"2", if_match="*")).status == 204
    wrong = await client.post("a", b"x", if_match='"rubbish"')
    assert (wrong.status, wrong.code) == (400, "invalid-if-match")
    assert (await client.get("a")).body == b"12"


async def test_get_goes_page_by_page(serve: Callable[..., Awaitable[Client]]) -> None:
    client = await serve(page_bytes=4)
    await client.put("a", body=b"abcdefgh", stream_closed="true")
    first = await client.get("a?offset=-1")
    assert (first.body, position(first[TAIL])) == (b"abcd", 4)
    assert "stream-up-to-date" not in first
    assert "stream-closed" not in first
    last = await client.get(f"a?offset={first[TAIL]}")
    assert (last.body, last["stream-up-to-date"], last["stream-closed"]) == (
        b"efgh",
        "true",
        "true",
    )
    end = await client.get(f"a?offset={last[TAIL]}")
    assert (end.status, end.body, end[TAIL]) == (200, b"", last[TAIL])
    assert (end["stream-up-to-date"], end["stream-closed"]) == ("true", "true")


async def test_get_of_nothing_new_is_empty(client: Client) -> None:
    await client.put("a")
    await client.put("j", JSON)
    for path, body in (("a", b""), ("j", b"[]")):
        answer = await client.get(path)
        assert (answer.status, answer.body) == (200, body)
        assert (position(answer[TAIL]), answer["stream-up-to-date"]) == (0, "true")
        assert "stream-closed" not in answer


async def test_get_now_tells_the_tail_and_no_data(client: Client) -> None:
    await client.put("a", JSON, b"[1,2]")
    answer = await client.get("a?offset=now")
    assert (answer.status, answer.body, answer["stream-up-to-date"]) == (200, b"[]", "true")
    assert answer[TAIL] == (await client.head("a"))[TAIL]
    assert answer["cache-control"] == "no-store"
    assert "etag" not in answer
    await client.post("a", b"", stream_closed="true")
    assert (await client.get("a?offset=now"))["stream-closed"] == "true"


async def test_head_describes(client: Client) -> None:
    await client.put("a", JSON, b"[1]", stream_ttl="60")
    await client.put("b", stream_expires_at="2040-01-01T00:00:00Z", stream_closed="true")
    a, b = await client.head("a"), await client.head("b")
    assert (a.status, a["content-type"], a["stream-ttl"]) == (200, JSON, "60")
    assert position(a[TAIL]) == 3
    assert a["cache-control"] == b["cache-control"] == "no-store"
    assert (b["stream-expires-at"], b["stream-closed"]) == ("2040-01-01T00:00:00.000Z", "true")
    assert "stream-closed" not in a
    assert (await client.head("c")).status == 404


async def test_head_takes_no_body_off_the_connection(client: Client) -> None:
    await client.put("a", body=b"x" * 100)
    async with await client.connect() as connection:
        for path in ("a", "missing"):
            head = await connection.request("HEAD", client.root + path)
            assert head.status in (200, 404)
        assert (await connection.request("GET", client.root + "a")).body == b"x" * 100


async def test_delete_ends_a_stream(client: Client) -> None:
    await client.put("a", body=b"old")
    assert (await client.delete("a")).status == 204
    for answer in (
        await client.get("a"),
        await client.post("a", b"x"),
        await client.delete("a"),
    ):
        assert (answer.status, answer.code) == (404, "not-found")
    assert (await client.put("a", JSON)).status == 201
    assert (await client.get("a")).json == []


async def test_forks_over_http(client: Client) -> None:
    source = await client.put("source", body=b"0123456789")
    fork = await client.request(
        "PUT",
        "fork",
        {
            "stream-forked-from": "/v1/stream/source",
            "stream-fork-offset": at(source[TAIL], 4),
            "stream-fork-sub-offset": "2",
        },
    )
    assert (fork.status, fork["content-type"], position(fork[TAIL])) == (201, "text/plain", 6)
    assert fork["location"].endswith("/v1/stream/fork")
    await client.post("fork", b"!")
    assert (await client.get("fork")).body == b"012345!"
    assert (await client.delete("source")).status == 204
    for answer in (await client.get("source"), await client.delete("source")):
        assert (answer.status, answer.code) == (410, "gone")
    assert (await client.head("source")).status == 410
    taken = await client.put("source")
    assert (taken.status, taken.code) == (409, "soft-deleted")
    assert (await client.get("fork")).body == b"012345!"
    await client.delete("fork")
    assert (await client.get("source")).status == 404


async def test_a_source_may_be_named_without_the_root(client: Client) -> None:
    await client.put("chats/source", body=b"x")
    for number, source in enumerate(("chats/source", "/v1/stream/chats/source")):
        fork = await client.request("PUT", f"f/{number}", {"stream-forked-from": source})
        assert fork.status == 201
    missing = await client.request("PUT", "g", {"stream-forked-from": "/elsewhere/chats/source"})
    assert (missing.status, missing.code) == (404, "source-not-found")


async def test_paths_are_percent_decoded_utf8(client: Client) -> None:
    answer = await client.put("caf%C3%A9/a%20b%3F")
    assert answer.status == 201
    assert [info.path for info in await client.engine.list()] == ["café/a b?"]
    assert answer["location"] == "http://test.example/v1/stream/caf%C3%A9/a%20b%3F"
    assert (await client.head("caf%c3%a9/a%20b%3f")).status == 200


async def test_an_absolute_target_is_understood(client: Client) -> None:
    await client.put("a", body=b"x")
    answer = await client.raw(request_bytes("GET", "http://test.example/v1/stream/a"))
    assert (answer.status, answer.body) == (200, b"x")


async def test_requests_follow_each_other_on_one_connection(client: Client) -> None:
    async with await client.connect() as connection:
        target = client.root + "a"
        put = await connection.request("PUT", target, {"content-type": "text/plain"})
        assert put.status == 201
        for n in range(5):
            posted = await connection.request(
                "POST", target, {"content-type": "text/plain"}, str(n).encode()
            )
            assert posted.status == 204
        assert (await connection.request("GET", target + "?offset=rubbish")).status == 400
        assert (await connection.request("GET", target)).body == b"01234"


async def test_pipelined_requests_are_answered_in_order(client: Client) -> None:
    async with await client.connect() as connection:
        target = client.root + "a"
        text = {"content-type": "text/plain"}
        requests = [request_bytes("PUT", target, text)]
        requests += [request_bytes("POST", target, text, str(n).encode()) for n in range(20)]
        await connection.send(b"".join(requests) + request_bytes("GET", target))
        assert (await connection.answer("PUT")).status == 201
        for n in range(20):
            assert position((await connection.answer("POST"))[TAIL]) >= n + 1
        assert (await connection.answer("GET")).body == b"".join(b"%d" % n for n in range(20))


async def test_expect_continue_is_answered_before_the_body_is_sent(client: Client) -> None:
    await client.put("a")
    fields = {"content-type": "text/plain", "content-length": "1", "expect": "100-continue"}
    async with await client.connect() as connection:
        await connection.send(request_bytes("POST", client.root + "a", fields))
        interim = await connection.reader.readuntil(b"\r\n\r\n")
        assert interim.startswith(b"HTTP/1.1 100")
        await connection.send(b"x")
        assert (await connection.answer("POST")).status == 204


async def test_large_bodies_go_both_ways(serve: Callable[..., Awaitable[Client]]) -> None:
    client = await serve(page_bytes=8 * 1024 * 1024)
    data = bytes(range(256)) * 16 * 1024
    await client.put("a", "application/octet-stream", data)
    assert (await client.get("a")).body == data
    text = b"text " * 300_000
    await client.put("t", "text/plain", text)
    answer = await client.get("t", accept_encoding="gzip")
    assert answer["content-encoding"] == "gzip"
    assert gzip.decompress(answer.body) == text


async def test_two_hundred_writers_lose_nothing_and_double_nothing(client: Client) -> None:
    await client.put("a", JSON)
    events = await client.sse("a?offset=-1&live=sse")

    async def write(number: Any) -> Any:
        answer = await client.post("a", b"%d" % number, JSON)
        assert answer.status == 204
        return answer[TAIL]

    offsets = await asyncio.gather(*(write(number) for number in range(200)))
    await client.post("a", b"", JSON, stream_closed="true")
    batches = await events.rest()
    seen = [number for data, _ in batches if data for number in json.loads(data)]
    assert len(set(offsets)) == 200
    assert seen == sorted(range(200), key=lambda number: offsets[number])
    tails = [control["streamNextOffset"] for _, control in batches]
    assert tails == sorted(tails)
    assert (await client.get("a")).json == seen
