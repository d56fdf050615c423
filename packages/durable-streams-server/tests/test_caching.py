"""Caching and compression: what may be kept, and how it is told apart (§10)."""

import gzip
from collections.abc import Awaitable, Callable

import pytest
from wire import Client

from durable_streams_server.engine.engine import Engine
from durable_streams_server.engine.limits import Limits
from durable_streams_server.http.exchange import Exchange
from durable_streams_server.http.handler import Handler
from durable_streams_server.http.messages import RequestHead, Response
from durable_streams_server.http.options import Options

Serve = Callable[..., Awaitable[Client]]

PAGE = "max-age=60, stale-while-revalidate=300"


async def test_a_page_with_more_behind_it_is_kept_for_a_minute(serve: Serve) -> None:
    for public, scope in ((False, "private"), (True, "public")):
        client = await serve(public=public, page_bytes=4)
        await client.put("a", body=b"fullrest")
        page = await client.get("a")
        assert (page.body, page["cache-control"]) == (b"full", f"{scope}, {PAGE}")
        assert "stream-up-to-date" not in page
        await client.delete("a")


@pytest.mark.parametrize("public", [False, True])
async def test_a_page_that_reaches_the_tail_is_checked_each_time(
    serve: Serve, public: bool
) -> None:
    client = await serve(public=public, page_bytes=4)
    await client.put("a")
    targets = ["a", "a?offset=-1", "a?offset=-1&live=long-poll"]
    assert (await client.get("a"))["cache-control"] == "no-cache"
    for body in (b"x", b"y", b"zz"):
        await client.post("a", body)
        for target in targets:
            page = await client.get(target)
            assert page["cache-control"] == "no-cache"
            assert page["stream-up-to-date"] == "true"
            assert (await client.get(target, if_none_match=page["etag"])).status == 304
    await client.post("a", b"", stream_closed="true")
    for target in targets:
        closed = await client.get(target)
        assert (closed["cache-control"], closed["stream-closed"]) == ("no-cache", "true")


async def test_an_etag_changes_once_there_is_more_behind_a_full_page(serve: Serve) -> None:
    """A cache that got 304 would go on saying that the page reaches the tail."""
    client = await serve(page_bytes=4)
    await client.put("a", body=b"full")
    last = await client.get("a")
    await client.post("a", b"rest")
    page = await client.get("a", if_none_match=last["etag"])
    assert (page.status, page.body) == (200, b"full")
    assert "stream-up-to-date" not in page
    assert (await client.get("a", if_none_match=page["etag"])).status == 304


async def test_an_etag_answers_304_for_the_same_page(client: Client) -> None:
    await client.put("a", body=b"x")
    first = await client.get("a")
    again = await client.get("a", if_none_match=first["etag"])
    assert (again.status, again.body, again["etag"]) == (304, b"", first["etag"])
    assert again["stream-next-offset"] == first["stream-next-offset"]
    for tags in (f'"other", {first["etag"]}', f"W/{first['etag']}", "*"):
        assert (await client.get("a", if_none_match=tags)).status == 304
    assert (await client.get("a", if_none_match='"other"')).status == 200


async def test_an_etag_changes_with_data_and_with_closure(client: Client) -> None:
    await client.put("a", body=b"x")
    tags = [(await client.get("a"))["etag"]]
    await client.post("a", b"y")
    tags.append((await client.get("a"))["etag"])
    await client.post("a", b"", stream_closed="true")
    closed = await client.get("a", if_none_match=tags[-1])
    assert (closed.status, closed["stream-closed"]) == (200, "true")
    tags.append(closed["etag"])
    assert len(set(tags)) == 3


async def test_a_path_made_anew_never_answers_304_for_the_old(client: Client) -> None:
    await client.put("a", body=b"x")
    old = await client.get("a")
    await client.delete("a")
    await client.put("a", body=b"x")
    assert (await client.get("a", if_none_match=old["etag"])).status == 200


async def test_a_compressed_page_is_another_representation(client: Client) -> None:
    text = b"the same again and again " * 100
    await client.put("a", body=text)
    plain = await client.get("a")
    packed = await client.get("a", accept_encoding="br, gzip;q=0.8")
    assert plain["vary"] == packed["vary"] == "accept-encoding"
    assert packed["content-encoding"] == "gzip"
    assert gzip.decompress(packed.body) == text
    assert packed["etag"].removesuffix('-gzip"') == plain["etag"].removesuffix('"')
    same = await client.get("a", accept_encoding="gzip", if_none_match=packed["etag"])
    assert same.status == 304
    other = await client.get("a", if_none_match=packed["etag"])
    assert (other.status, other.body) == (200, text)


@pytest.mark.parametrize("accepted", ["identity", "gzip;q=0", "br", "x-gzip-not"])
async def test_a_page_is_not_compressed_for_who_cannot_read_it(
    client: Client, accepted: str
) -> None:
    await client.put("a", body=b"x" * 5000)
    answer = await client.get("a", accept_encoding=accepted)
    assert "content-encoding" not in answer
    assert answer.body == b"x" * 5000


async def test_what_does_not_gain_is_not_compressed(
    serve: Callable[..., Awaitable[Client]],
) -> None:
    client = await serve()
    await client.put("small", body=b"x" * 100)
    await client.put("image", "image/png", b"x" * 5000)
    for path in ("small", "image"):
        assert "content-encoding" not in await client.get(path, accept_encoding="gzip")
    never = await serve(compress=False)
    await never.put("large", body=b"x" * 5000)
    assert "content-encoding" not in await never.get("large", accept_encoding="gzip")


async def test_a_large_page_is_compressed_off_the_loop_for_a_long_poll_too(client: Client) -> None:
    text = b"0123456789" * 20_000
    await client.put("a")
    connection, answer = await client.waiting("a?offset=-1&live=long-poll")
    await connection.close()
    answer.cancel()
    await client.post("a", text)
    packed = await client.get("a?offset=-1&live=long-poll", accept_encoding="gzip")
    assert gzip.decompress(packed.body) == text
    assert packed["stream-cursor"]


async def test_front_ends_of_one_engine_share_pages_and_no_responses() -> None:
    async with Engine("memory:", limits=Limits(page_bytes=4)) as engine:
        await engine.create("a", data=b"fullrest")
        handlers = {
            scope: Handler(engine, Options(public=scope == "public", cors_origins=()))
            for scope in ("private", "public")
        }
        for scope in ("private", "public") * 2:
            exchange = handlers[scope].begin(RequestHead("GET", "a", "", {}))
            assert isinstance(exchange, Exchange)
            page = exchange.run(b"")
            assert isinstance(page, Response)
            assert (b"cache-control", f"{scope}, {PAGE}".encode()) in page.headers
