"""Listings of streams and subscriptions: ``GET __ds/streams`` and ``GET __ds/subscriptions``."""

import asyncio
from collections import Counter
from typing import Any
from urllib.parse import quote

import pytest
from wire import Client

from durable_streams_server.http import listing
from durable_streams_server.http.listing import CHECKED_IN_ONE_TURN

Listed = dict[str, Any]


async def listed(client: Client, query: str = "") -> Listed:
    answer = await client.get("__ds/streams" + query)
    assert answer.status == 200
    assert answer["content-type"] == "application/json"
    assert answer["cache-control"] == "no-store"
    found: Listed = answer.json
    return found


async def test_a_listing_describes_each_stream(client: Client) -> None:
    await client.put("chats/1", "application/json", b"[1,2]", stream_ttl="60")
    await client.put("chats/2", body=b"x", stream_closed="true")
    await client.put("other")
    first, second = (await listed(client, "?prefix=chats/"))["streams"]
    assert first["path"] == "chats/1"
    assert first["contentType"] == "application/json"
    assert first["size"] == 6
    assert first["offset"].endswith("_0000000000000006")
    assert first["ttl"] == 60
    assert first["closed"] is False
    assert first["readers"] == 0
    assert first["createdAt"].endswith("Z")
    assert (second["path"], second["closed"]) == ("chats/2", True)


async def test_pages_follow_each_other_without_gap_or_repetition(client: Client) -> None:
    paths = [f"s/{n:03}" for n in range(25)]
    for path in paths:
        await client.put(path)
    seen: list[str] = []
    after = ""
    while True:
        page = await listed(client, f"?prefix=s/&limit=10&after={after}")
        seen += [stream["path"] for stream in page["streams"]]
        if page["next"] is None:
            break
        after = page["next"]
    assert seen == paths


async def test_a_listing_leaves_out_what_the_server_keeps_for_itself(client: Client) -> None:
    await client.put("a")
    await client.request(
        "PUT",
        "__ds/subscriptions/s",
        {"content-type": "application/json"},
        b'{"type":"webhook","pattern":"x/*","webhook":{"url":"https://hooks.example/x"}}',
    )
    assert [stream["path"] for stream in (await listed(client))["streams"]] == ["a"]


async def test_names_of_any_script_are_found_by_their_decoded_prefix(client: Client) -> None:
    await client.put("str%C3%B8m/a%20b")
    (stream,) = (await listed(client, "?prefix=str%C3%B8m/a+"))["streams"]
    assert stream["path"] == "strøm/a b"


@pytest.mark.parametrize(
    "query, status, code",
    [
        ("?prefix=%ff", 400, "invalid-query"),
        ("?prefix=__ds/", 400, "reserved-path"),
        ("?prefix=__ds", 400, "reserved-path"),
        ("?limit=0", 400, "invalid-limit"),
        ("?limit=1001", 400, "invalid-limit"),
        ("?limit=-1", 400, "invalid-limit"),
        ("?limit=ten", 400, "invalid-limit"),
        ("?limit=", 400, "invalid-limit"),
        ("?prefix=a&prefix=b", 400, "repeated-parameter"),
        ("?" + "&".join("a" for _ in range(200)), 400, "invalid-query"),
    ],
)
async def test_a_malformed_query_is_explained(
    client: Client, query: str, status: int, code: str
) -> None:
    answer = await client.get("__ds/streams" + query)
    assert (answer.status, answer.code) == (status, code)


async def test_a_prefix_that_nothing_begins_with_lists_nothing(client: Client) -> None:
    await client.put("a")
    for prefix in ("b", "a/", "%00", "..", "/", "*"):
        expected = ["a"] if prefix == "/" else []
        page = await listed(client, "?prefix=" + prefix)
        assert [stream["path"] for stream in page["streams"]] == expected
        assert page["next"] is None


@pytest.mark.parametrize("waits", [False, True], ids=["sync", "async"])
async def test_access_is_checked_for_each_path(serve: Any, waits: bool) -> None:
    def decide(action: str, path: str, _request: object) -> object:
        return action == "list" and path.startswith("mine/")

    async def decide_later(action: str, path: str, request: object) -> object:
        return decide(action, path, request)

    client = await serve(authorize=decide_later if waits else decide)
    for path in ("mine/a", "mine/b", "theirs/a"):
        await client.engine.create(path, content_type="text/plain")
    assert [s["path"] for s in (await listed(client))["streams"]] == ["mine/a", "mine/b"]
    assert (await listed(client, "?prefix=theirs/"))["streams"] == []


async def test_a_hook_may_ask_for_credentials(serve: Any) -> None:
    client = await serve(authorize=lambda _action, _path, _request: 401)
    await client.engine.create("a", content_type="text/plain")
    answer = await client.get("__ds/streams")
    assert (answer.status, answer.code) == (401, "not-authenticated")


async def test_listings_that_find_nothing_leave_the_event_loop_to_others(serve: Any) -> None:
    asked: Counter[int] = Counter()
    turn = 0

    def authorize(action: str, path: str, _request: object) -> bool:
        if action == "list":
            asked[turn] += 1
        return action != "list"

    async def count_turns() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    client = await serve(authorize=authorize)
    for number in range(120):
        await client.engine.create(f"s/{number}")
    counting = asyncio.create_task(count_turns())
    pages = await asyncio.gather(*(listed(client, "?limit=1000") for _ in range(10)))
    counting.cancel()
    assert all(page == {"streams": [], "next": None} for page in pages)
    assert asked.total() >= 10 * 120
    # In the turn in which they begin, each has the share of those that have begun by then.
    shares = sum(CHECKED_IN_ONE_TURN / running for running in range(1, 11))
    assert max(asked.values()) <= shares + 2 * 10


async def test_a_hook_that_fails_lists_nothing(
    serve: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_action: str, _path: str, _request: object) -> bool:
        raise RuntimeError("a fault of the application")

    client = await serve(authorize=fail)
    await client.engine.create("a", content_type="text/plain")
    assert (await listed(client))["streams"] == []
    assert "the authorize hook failed" in caplog.text


async def test_with_a_token_a_listing_needs_it(serve: Any) -> None:
    client = await serve(token="secret")
    for path in ("__ds/streams", "__ds/subscriptions"):
        assert (await client.get(path)).status == 401
        answer = await client.get(path, authorization="Bearer secret")
        assert answer.status == 200


async def test_subscriptions_are_listed_by_id(client: Client) -> None:
    for name in ("b", "a"):
        await client.request(
            "PUT",
            f"__ds/subscriptions/{name}",
            {"content-type": "application/json"},
            b'{"type":"webhook","pattern":"x/*","webhook":{"url":"https://hooks.example/x"}}',
        )
    first = (await client.get("__ds/subscriptions?limit=1")).json
    assert first == {
        "subscriptions": [{"id": "a", "type": "webhook", "status": "active"}],
        "next": "a",
    }
    rest = (await client.get("__ds/subscriptions?after=a")).json
    assert [row["id"] for row in rest["subscriptions"]] == ["b"]
    assert rest["next"] is None


async def pages(client: Client, kind: str = "streams", prefix: str = "") -> list[Listed]:
    """Every page of a listing."""
    found: list[Listed] = []
    after = ""
    while True:
        answer = await client.get(f"__ds/{kind}?limit=5&prefix={prefix}&after={quote(after)}")
        page: Listed = answer.json
        found.append(page)
        if page["next"] is None:
            return found
        # Clients refuse a listing that does not go on.
        assert page["next"] > after
        after = page["next"]


async def test_a_request_looks_at_a_bounded_number_of_streams_whose_names_it_does_not_tell(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "MAX_EXAMINED", 200)
    mine = ("Upper", "secret-0250", "secret-0250!", "secret-0777", "zebra")
    asked: list[str] = []

    def decide(action: str, path: str, _request: object) -> bool:
        asked.append(path)
        return path in mine

    client = await serve(authorize=decide)
    for path in (*(f"secret-{n:04}" for n in range(900)), *mine):
        if await client.engine.store.load(path, ()) is None:
            await client.engine.create(path, content_type="text/plain")
    found = await pages(client)
    assert [row["path"] for page in found for row in page["streams"]] == sorted(mine)
    assert 4 <= len(found) <= 8
    assert len(asked) <= 905 + 300
    for page in found[:-1]:
        assert "secret" not in page["next"].removeprefix("secret-0250").removeprefix("secret-0777")


async def test_a_listing_of_subscriptions_is_as_bounded(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "MAX_EXAMINED", 10)
    mine = [f"s{n:02}" for n in range(40)]
    client = await serve(
        authorize=lambda _action, path, _request: (
            path.rpartition("/")[2] in (*mine, "x", "*", "x/*")
        )
    )
    for n in range(40):
        await client.request(
            "PUT",
            f"__ds/subscriptions/s{n:02}",
            {"content-type": "application/json"},
            b'{"type":"webhook","pattern":"x/*","webhook":{"url":"https://hooks.example/x"}}',
        )
    mine[:] = "s07", "s35"
    found = await pages(client, "subscriptions", "s")
    assert [row["id"] for page in found for row in page["subscriptions"]] == ["s07", "s35"]
    assert len(found) >= 4


@pytest.mark.parametrize("after", ["a\0", "a\0" + "0" * 16 + "AAAA", "\0" + "0" * 16 + "é"])
async def test_a_position_that_no_page_gave_is_refused(client: Client, after: str) -> None:
    answer = await client.get(f"__ds/streams?after={quote(after)}")
    assert (answer.status, answer.code) == (400, "invalid-after")


async def test_a_listing_does_not_look_at_subscriptions_one_by_one(client: Client) -> None:
    for n in range(30):
        await client.request(
            "PUT",
            f"__ds/subscriptions/s{n}",
            {"content-type": "application/json"},
            b'{"type":"webhook","pattern":"x/*","webhook":{"url":"https://hooks.example/x"}}',
        )
    for path in ("A", "__dt", "a"):
        await client.put(path)
    store, calls = client.engine.store, 0
    listed_before = store.list

    async def counting(prefix: str, after: str, limit: int) -> Any:
        nonlocal calls
        calls += 1
        return await listed_before(prefix, after, limit)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "list", counting)
        found = await client.engine.list(limit=3)
    assert [info.path for info in found] == ["A", "__dt", "a"]
    assert calls <= 4
