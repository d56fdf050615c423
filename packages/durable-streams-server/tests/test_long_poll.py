"""Long-polls: one answer each, never past bytes that it does not hold (§5.7)."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from remote import Fate, RemoteStore
from servers import Serve
from tokens import position
from wire import Client

from durable_streams_server import Engine, MemoryStore

TAIL = "stream-next-offset"
POLL = "a?offset=-1&live=long-poll"


async def test_data_that_is_there_is_answered_at_once(client: Client) -> None:
    await client.put("a", body=b"x")
    answer = await client.get(POLL)
    assert (answer.status, answer.body, position(answer[TAIL])) == (200, b"x", 1)
    assert answer["stream-up-to-date"] == "true"
    assert answer["stream-cursor"].isdigit()
    assert answer["etag"]


async def test_an_append_answers_who_waits(client: Client) -> None:
    await client.put("a")
    _, answer = await client.waiting(POLL)
    await client.post("a", b"new")
    answer = await answer
    assert (answer.status, answer.body, position(answer[TAIL])) == (200, b"new", 3)
    assert answer["stream-cursor"]
    assert len(client.engine.fanout) == 0


async def test_now_waits_without_a_round_trip(client: Client) -> None:
    await client.put("a", body=b"old")
    _, answer = await client.waiting("a?offset=now&live=long-poll")
    await client.post("a", b"new")
    assert (await answer).body == b"new"


async def test_the_time_limit_answers_204(serve: Callable[..., Awaitable[Client]]) -> None:
    client = await serve(long_poll_timeout=0.02)
    await client.put("a", body=b"old")
    answer = await client.get("a?offset=now&live=long-poll")
    assert (answer.status, answer.body, position(answer[TAIL])) == (204, b"", 3)
    assert answer["stream-up-to-date"] == "true"
    assert answer["stream-cursor"]
    assert answer["cache-control"] == "no-store"


async def test_a_cursor_never_goes_back(serve: Callable[..., Awaitable[Client]]) -> None:
    client = await serve(long_poll_timeout=0.01)
    await client.put("a")
    cursor = (await client.get(POLL))["stream-cursor"]
    for _ in range(5):
        following = (await client.get(f"{POLL}&cursor={cursor}"))["stream-cursor"]
        assert int(following) > int(cursor)
        cursor = following
    assert (await client.get(f"{POLL}&cursor=rubbish"))["stream-cursor"].isdigit()


async def test_a_closed_stream_is_told_at_once(client: Client) -> None:
    await client.put("a", body=b"x", stream_closed="true")
    data = await client.get(POLL)
    assert (data.status, data["stream-closed"]) == (200, "true")
    end = await client.get(f"a?offset={data[TAIL]}&live=long-poll")
    assert (end.status, end["stream-closed"], end["stream-up-to-date"]) == (204, "true", "true")
    assert "stream-cursor" not in end
    now = await client.get("a?offset=now&live=long-poll")
    assert (now.status, now["stream-closed"]) == (204, "true")


@pytest.mark.parametrize("data", [b"", b"last words"])
async def test_a_close_answers_who_waits_with_the_last_data(client: Client, data: bytes) -> None:
    await client.put("a")
    _, answer = await client.waiting(POLL)
    await client.post("a", data, stream_closed="true")
    answer = await answer
    assert (answer.status, answer.body) == (200 if data else 204, data)
    assert (answer["stream-closed"], position(answer[TAIL])) == ("true", len(data))


async def test_a_deletion_answers_who_waits(client: Client) -> None:
    await client.put("a")
    _, answer = await client.waiting(POLL)
    await client.delete("a")
    assert ((await answer).status, (await answer).code) == (404, "not-found")


async def test_a_stream_made_anew_by_expiry_is_not_taken_for_the_old(
    serve: Callable[..., Awaitable[Client]], memory: MemoryStore, clock: Any
) -> None:
    """Where the new one is shorter, the waiting reader's own offset looked wrong: 400."""
    client = await serve(memory)
    await client.put("a", body=b"0123456789", stream_expires_at="2027-01-15T08:00:10Z")
    _, answer = await client.waiting("a?offset=now&live=long-poll")
    clock.advance(11)
    assert (await client.put("a")).status == 201
    response = await answer
    assert (response.status, response.code) == (410, "offset-gone")


async def test_many_readers_are_answered_by_one_commit_without_a_read_each(
    serve: Callable[..., Awaitable[Client]], remote: RemoteStore
) -> None:
    client = await serve(remote)
    await client.put("a")
    readers = [(await client.waiting(POLL, n + 1))[1] for n in range(50)]
    for _ in range(50):
        await asyncio.sleep(0)
    loads, reads = remote.loads, remote.reads
    await client.post("a", b"x")
    answers = await asyncio.gather(*readers)
    assert {answer.body for answer in answers} == {b"x"}
    assert remote.reads - reads <= 1
    assert remote.loads - loads <= 2


async def test_many_readers_share_the_read_of_what_was_too_large_to_ride_along(
    serve: Callable[..., Awaitable[Client]], remote: RemoteStore
) -> None:
    client = await serve(remote)
    await client.put("a")
    readers = [(await client.waiting(POLL, n + 1))[1] for n in range(20)]
    for _ in range(50):
        await asyncio.sleep(0)
    reads = remote.reads
    await client.post("a", b"x" * 100_000)
    answers = await asyncio.gather(*readers)
    assert {len(answer.body) for answer in answers} == {100_000}
    assert remote.reads - reads <= 2


async def test_an_append_at_the_very_deadline_is_not_skipped(memory: MemoryStore) -> None:
    """A time limit that answers the new tail without its bytes loses them for good."""
    from durable_streams_server.http.handler import Handler
    from durable_streams_server.http.messages import RequestHead

    remote = RemoteStore(memory)
    async with Engine(remote) as engine:
        handler = Handler(engine)
        await engine.create("a")
        head = RequestHead("GET", "a", "offset=-1&live=long-poll", {})
        pending = handler.begin(head).run(b"")
        while not len(handler.readers):
            await asyncio.sleep(0)
        remote.loading.shut()
        handler.close()
        await remote.loading.reached.wait()
        async with Engine(memory) as other:
            await other.append("a", "x")
            remote.loading.open()
            while pending.result is None:
                await asyncio.sleep(0)
        response = pending.result
        offset = dict(response.headers)[b"stream-next-offset"].decode()
        assert (response.body, position(offset)) in ((b"x", 1), (b"", 0))


async def test_readers_of_one_stream_are_bounded(serve: Callable[..., Awaitable[Client]]) -> None:
    client = await serve(max_waiting_readers=2)
    await client.put("a")
    waiting = [(await client.waiting(POLL, n + 1))[1] for n in range(2)]
    for mode in ("long-poll", "sse"):
        refused = await client.get(f"a?offset=-1&live={mode}")
        assert (refused.status, refused.code) == (429, "too-many-readers")
        assert refused["retry-after"]
    await client.post("a", b"x")
    assert {answer.status for answer in await asyncio.gather(*waiting)} == {200}
    assert (await client.get(POLL)).status == 200


async def test_a_client_that_goes_away_is_not_kept(client: Client) -> None:
    await client.put("a")
    connection, answer = await client.waiting(POLL)
    answer.cancel()
    connection.abort()
    await client.quiet()


@pytest.mark.parametrize("turns", range(8))
async def test_a_client_that_goes_away_at_once_is_not_kept_either(
    memory: MemoryStore, turns: Any
) -> None:
    """Cancelled before its first look had begun, a reader stayed at its topic for ever."""
    from durable_streams_server.http.handler import Handler
    from durable_streams_server.http.messages import RequestHead

    for mode in ("long-poll", "sse"):
        async with Engine(RemoteStore(memory)) as engine:
            await engine.create("a")
            handler = Handler(engine)
            head = RequestHead("GET", "a", f"offset=-1&live={mode}", {})
            pending = handler.begin(head).run(b"")
            for _ in range(turns):
                await asyncio.sleep(0)
            if pending.result is not None:
                pending.result.gone()
            pending.cancel()
            for _ in range(20):
                await asyncio.sleep(0)
            assert len(engine.fanout) == 0
            await engine.delete("a")


async def test_shutdown_answers_who_waits(front_end: Serve, memory: MemoryStore) -> None:
    from wire import Client

    from durable_streams_server.frontends.mount import Mount
    from durable_streams_server.http.options import Options

    async with Engine(memory) as engine:
        mount = Mount(engine, Options(), None)
        async with front_end(mount, "/v1/stream/") as port:
            client = Client(port, "/v1/stream/", mount)
            await client.put("a", body=b"old")
            _, answer = await client.waiting("a?offset=now&live=long-poll")
        answer = await answer
        assert (answer.status, position(answer[TAIL])) == (204, 3)
        await client.close()


async def test_a_store_that_fails_while_somebody_waits_is_an_answer(
    serve: Callable[..., Awaitable[Client]], remote: RemoteStore
) -> None:
    client = await serve(remote)
    await client.put("a")
    _, answer = await client.waiting(POLL)
    for _ in range(50):
        await asyncio.sleep(0)
    remote.load_error = OSError("the network is down")
    client.engine.fanout.publish(None)
    assert (await answer).status == 500
    remote.load_error = None


async def test_unknown_outcomes_are_told_over_http(
    serve: Callable[..., Awaitable[Client]], remote: RemoteStore
) -> None:
    client = await serve(remote, unknown_outcome=0.01)
    await client.put("a")
    remote.fate = lambda _: Fate.LOST
    answer = await client.post("a", b"x")
    assert (answer.status, answer.code) == (504, "outcome-unknown")
    assert "retry-after" not in answer
    remote.fate = lambda _: Fate.ARRIVES
