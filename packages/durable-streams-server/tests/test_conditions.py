"""Conditional requests (RFC 9110 §13): no method does anything that its conditions rule out."""

from collections.abc import Awaitable, Callable

import pytest
from wire import Client

Serve = Callable[..., Awaitable[Client]]

TEXT = {"content-type": "text/plain"}
PULL = b'{"type": "pull-wake", "streams": ["a"], "wake_stream": "wakes"}'


async def change(client: Client, method: str, fields: dict[str, str]) -> int:
    body = b"y" if method == "POST" else None
    return (await client.request(method, "a", {**TEXT, **fields}, body)).status


@pytest.fixture
async def stale(client: Client) -> list[str]:
    """Tags that once named the stream `a`, or another stream there, and no longer do."""
    tags = [(await client.put("a", body=b"old"))["stream-next-offset"]]
    tags.append((await client.get("a"))["etag"].strip('"'))
    await client.delete("a")
    tags.append((await client.put("a", body=b"x"))["stream-next-offset"])
    tags.append((await client.get("a"))["etag"].strip('"'))
    await client.post("a", b"x")
    return [f'"{tag}"' for tag in (*tags, "made-up", "")]


# If-Match.


@pytest.mark.parametrize("method", ["DELETE", "PUT", "POST"])
async def test_a_stale_if_match_changes_nothing(
    client: Client, stale: list[str], method: str
) -> None:
    for wanted in (*stale, ", ".join(stale)):
        if method == "POST" and wanted == stale[0]:
            # The one form that appends had before: an offset of what is gone says so.
            assert await change(client, method, {"if-match": wanted}) == 410
        elif method == "POST" and ("," in wanted or wanted in stale[4:]):
            assert await change(client, method, {"if-match": wanted}) == 400
        else:
            assert await change(client, method, {"if-match": wanted}) == 412, wanted
    assert (await client.get("a")).body == b"xx"


@pytest.mark.parametrize("method, status", [("DELETE", 204), ("PUT", 200), ("POST", 204)])
@pytest.mark.parametrize("form", ["etag", "offset", "any"])
async def test_an_if_match_that_holds_is_no_hindrance(
    client: Client, method: str, status: int, form: str
) -> None:
    await client.put("a", body=b"x")
    page = await client.get("a")
    tags = {"etag": page["etag"], "offset": f'"{page["stream-next-offset"]}"', "any": "*"}
    assert await change(client, method, {"if-match": tags[form]}) == status


async def test_an_append_that_expects_a_tail_obeys_if_none_match_too(client: Client) -> None:
    tail = (await client.put("a", body=b"x"))["stream-next-offset"]
    fields = {"if-match": f'"{tail}"', "if-none-match": "*"}
    assert await change(client, "POST", fields) == 412
    assert await change(client, "POST", fields | {"if-none-match": '"other"'}) == 204
    assert (await client.get("a")).body == b"xy"


async def test_a_weak_tag_never_matches(client: Client) -> None:
    await client.put("a", body=b"x")
    weak = "W/" + (await client.get("a"))["etag"]
    assert await change(client, "DELETE", {"if-match": weak}) == 412
    assert (await client.get("a", if_match=weak)).status == 412


async def test_a_closed_stream_is_not_the_open_one(client: Client) -> None:
    await client.put("a", body=b"x")
    tag = (await client.get("a"))["etag"]
    await client.post("a", b"", stream_closed="true")
    assert await change(client, "DELETE", {"if-match": tag}) == 412
    closed = (await client.get("a"))["etag"]
    assert await change(client, "DELETE", {"if-match": f'"other", {closed}'}) == 204


async def test_the_tag_of_a_full_first_page_names_a_stream_that_is_the_same(serve: Serve) -> None:
    client = await serve(page_bytes=4)
    await client.put("a", body=b"fullrest")
    first = (await client.get("a"))["etag"]
    await client.delete("a")
    await client.put("a", body=b"fullrest")
    assert await change(client, "DELETE", {"if-match": first}) == 412
    same = (await client.get("a"))["etag"]
    assert await change(client, "PUT", {"if-none-match": same}) == 412
    assert await change(client, "POST", {"if-match": same}) == 204
    assert await change(client, "DELETE", {"if-match": same}) == 204


@pytest.mark.parametrize("wanted", ["*", '"made-up"'])
async def test_an_if_match_creates_nothing(client: Client, wanted: str) -> None:
    await client.put("source", body=b"x")
    for fields in ({}, {"stream-forked-from": "source"}):
        refused = await client.request("PUT", "a", {**TEXT, **fields, "if-match": wanted})
        assert (refused.status, refused.code) == (412, "precondition-failed")
    assert [info.path for info in await client.engine.list()] == ["source"]


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "DELETE"])
async def test_a_condition_says_nothing_of_a_stream_that_is_not_there(
    client: Client, method: str
) -> None:
    for name in ("if-match", "if-none-match"):
        assert await change(client, method, {name: "*"}) == 404


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_read_of_another_page_than_expected_is_refused(
    client: Client, stale: list[str], method: str
) -> None:
    assert await change(client, method, {"if-match": stale[3]}) == 412
    tag = (await client.get("a"))["etag"]
    for wanted in (tag, f"{stale[3]}, {tag}", "*"):
        assert await change(client, method, {"if-match": wanted}) == 200
        assert await change(client, method, {"if-match": wanted, "if-none-match": stale[3]}) == 200


async def test_a_long_poll_of_another_page_than_expected_is_refused(client: Client) -> None:
    await client.put("a", body=b"x")
    answer = await client.get("a?offset=-1&live=long-poll", if_match='"made-up"')
    assert (answer.status, answer.code) == (412, "precondition-failed")


# If-None-Match.


async def test_a_stream_is_created_only_where_none_is(client: Client) -> None:
    new = {**TEXT, "if-none-match": "*"}
    assert (await client.request("PUT", "a", new)).status == 201
    refused = await client.request("PUT", "a", new)
    assert (refused.status, refused.code) == (412, "precondition-failed")
    fork = {"stream-forked-from": "a", "if-none-match": "*"}
    assert (await client.request("PUT", "fork", fork)).status == 201
    assert (await client.request("PUT", "fork", fork)).status == 412
    assert (await client.request("PUT", "a", {**new, "content-type": "text/html"})).status == 409


@pytest.mark.parametrize("method", ["DELETE", "PUT", "POST"])
async def test_an_if_none_match_that_matches_changes_nothing(client: Client, method: str) -> None:
    await client.put("a", body=b"x")
    tag = (await client.get("a"))["etag"]
    for unwanted in ("*", tag, f"W/{tag}", f'"other", {tag}'):
        assert await change(client, method, {"if-none-match": unwanted}) == 412
    assert (await client.get("a")).body == b"x"
    assert await change(client, method, {"if-none-match": '"other"'}) in (200, 204)


async def test_head_is_not_modified_where_get_is_not(client: Client) -> None:
    await client.put("a", body=b"x")
    tag = (await client.get("a"))["etag"]
    assert await change(client, "HEAD", {"if-none-match": tag}) == 304
    await client.post("a", b"y")
    assert await change(client, "HEAD", {"if-none-match": tag}) == 200


# Subscriptions, which have no tags.


async def test_conditions_hold_for_subscriptions_too(client: Client) -> None:
    path = "__ds/subscriptions/s"
    assert (await client.request("PUT", path, {"if-match": "*"}, PULL)).status == 412
    assert (await client.request("PUT", path, {"if-none-match": "*"}, PULL)).status == 201
    assert (await client.request("PUT", path, {"if-none-match": "*"}, PULL)).status == 412
    for method, body in (("PUT", PULL), ("GET", None), ("DELETE", None)):
        refused = await client.request(method, path, {"if-match": '"stale"'}, body)
        assert (refused.status, refused.json["error"]["code"]) == (412, "PRECONDITION_FAILED")
    assert (await client.request("PUT", path, {"if-match": "*"}, PULL)).status == 200
    assert (await client.request("DELETE", path, {"if-match": "*"})).status == 204
