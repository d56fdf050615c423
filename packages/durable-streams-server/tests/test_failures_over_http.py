"""When the store or the server itself fails: an answer, a line in the log, and nothing lost."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from remote import Fate, RemoteStore
from tokens import position
from wire import Client

from durable_streams_core.entities import Refused
from durable_streams_core.errors import NotFound
from durable_streams_server.http.exchange import Submitted
from durable_streams_server.http.live import SharedLook
from durable_streams_server.http.messages import Pending, Response, awaited, problem

JSON = "application/json"
POLL = "a?offset=-1&live=long-poll"
SSE = "a?offset=-1&live=sse"


@pytest.fixture
async def client(serve: Callable[..., Awaitable[Client]], remote: RemoteStore) -> Any:
    client = await serve(remote, unknown_outcome=0.02)
    await client.put("a", body=b"x")
    return client


async def test_a_full_store_is_507_and_the_server_goes_on(
    client: Client, remote: RemoteStore
) -> None:
    remote.fate = lambda _: Refused("storage-full", "No space is left on the device.")
    answer = await client.post("a", b"y")
    assert (answer.status, answer.code) == (507, "storage-full")
    assert "retry-after" not in answer
    assert (await client.get("a")).body == b"x"
    remote.fate = lambda _: Fate.ARRIVES
    assert position((await client.post("a", b"y"))["stream-next-offset"]) == 2


async def test_a_store_that_is_away_is_503_with_a_time_to_come_again(
    client: Client, remote: RemoteStore
) -> None:
    remote.fate = lambda _: Refused("unavailable", "The store restarts.")
    answer = await client.post("a", b"y")
    assert (answer.status, answer.code) == (503, "unavailable")
    assert int(answer["retry-after"]) > 0
    assert (await client.get("a")).body == b"x"


async def test_an_outcome_that_stays_unknown_is_504_without_one(
    client: Client, remote: RemoteStore
) -> None:
    remote.fate = lambda _: Fate.LOST
    answer = await client.post("a", b"y")
    assert (answer.status, answer.code) == (504, "outcome-unknown")
    assert "retry-after" not in answer
    remote.fate = lambda _: Fate.ARRIVES


@pytest.mark.parametrize("method, path", [("GET", "a"), ("HEAD", "a"), ("GET", POLL), ("GET", SSE)])
async def test_a_read_that_fails_is_an_answer_and_a_line_in_the_log(
    client: Client, remote: RemoteStore, method: str, path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    remote.load_error = OSError("the network is down")
    answer = await client.request(method, path)
    assert answer.status in (500, 503)
    assert "the network is down" in caplog.text
    assert b"network" not in answer.body
    remote.load_error = None
    assert (await client.get("a")).body == b"x"
    assert len(client.engine.fanout) == 0


async def test_a_live_reader_whose_store_fails_ends_where_it_was(
    client: Client, remote: RemoteStore, caplog: pytest.LogCaptureFixture
) -> None:
    events = await client.sse(SSE)
    _, control = await events.batch()
    remote.load_error = OSError("the network is down")
    client.engine.fanout.publish(None)
    assert await events.rest() == []
    remote.load_error = None
    events = await client.sse(f"a?offset={control['streamNextOffset']}&live=sse")
    await events.batch()
    await client.post("a", b"y")
    assert (await events.batch())[0] == "y"


async def test_a_live_reader_that_may_have_missed_something_looks(
    client: Client, remote: RemoteStore
) -> None:
    events = await client.sse(SSE)
    await events.batch()
    await client.listening("a")
    client.engine.fanout.publish(None)
    await client.post("a", b"y")
    assert (await events.batch())[0] == "y"


async def test_a_bug_is_an_answer(
    client: Client, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(client.engine, "page_nowait", broken)
    answer = await client.get("a")
    assert (answer.status, answer.code) == (500, "internal-error")
    assert b"a bug" not in answer.body
    assert "a bug" in caplog.text


async def test_a_page_costs_a_page_however_long_the_stream(
    serve: Callable[..., Awaitable[Client]], remote: RemoteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the whole stream for every read."""
    client = await serve(remote, page_bytes=1000)
    await client.put("long", body=b"x" * 100_000)
    asked = []
    read = remote.read

    async def counted(path: Any, incarnation: Any, start: Any, limit: Any) -> Any:
        asked.append(limit)
        return await read(path, incarnation, start, limit)

    monkeypatch.setattr(remote, "read", counted)
    assert len((await client.get("long")).body) == 1000
    assert asked == [1000]


async def test_large_json_is_checked_on_its_way_in(client: Client) -> None:
    large = b"[" + b",".join(b'"%d"' % n + b" " * 100 for n in range(2000)) + b"]"
    assert (await client.put("j", JSON, large)).status == 201
    assert (await client.post("j", large, JSON)).status == 204
    assert len((await client.get("j")).json) == 4000
    for answer in (
        await client.post("j", large + b"]", JSON),
        await client.put("k", JSON, large[1:]),
    ):
        assert (answer.status, answer.code) == (400, "invalid-json")
    assert (await client.head("k")).status == 404


async def test_forks_and_followers_over_a_store_that_has_to_be_waited_for(client: Client) -> None:
    fork = await client.request("PUT", "fork", {"stream-forked-from": "a"}, b"y")
    assert fork.status == 201
    again = await client.request("PUT", "fork", {"stream-forked-from": "a"}, b"y")
    assert again.status == 200
    events = await client.sse("fork?offset=-1&live=sse")
    assert (await events.batch())[0] == "xy"
    assert (await client.delete("a")).status == 204
    assert (await client.get("a")).status == 410
    await client.post("fork", b"z", stream_closed="true")
    assert [data for data, _ in await events.rest()] == ["z"]
    assert (await client.delete("fork")).status == 204


class Left:
    """A live answer that knows whether it was let go."""

    head = Response(200)
    left = False

    def attach(self, sink: Any) -> None:
        raise AssertionError("nobody attaches to it")

    def drained(self) -> None:
        raise AssertionError("nobody attached to it")

    def gone(self) -> None:
        self.left = True


async def test_a_live_answer_that_comes_as_its_waiter_is_cancelled_is_let_go() -> None:
    """It stayed among the readers of its stream for ever."""
    pending, live = Pending(), Left()
    waiting = asyncio.create_task(awaited(pending))
    await asyncio.sleep(0)
    pending.resolve(live)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert waiting.cancelled()
    assert live.left


def test_a_reader_that_fails_on_a_shared_look_keeps_no_other_from_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The others waited for ever for a page that was there."""
    seen = []

    def fail(_page: Any) -> None:
        raise ValueError("a bug")

    look = SharedLook(fail)
    look.join(seen.append)
    look.complete(NotFound("gone"))
    assert [type(page) for page in seen] == [NotFound]
    assert "a live reader failed" in caplog.text


def test_a_bug_in_making_an_answer_is_an_answer(caplog: pytest.LogCaptureFixture) -> None:
    """The request waited for ever."""

    def fail(_outcome: Any) -> None:
        raise ValueError("a bug")

    pending = Submitted(fail, lambda error: problem(error, []))
    pending.complete(object())
    assert isinstance(pending.result, Response)
    assert pending.result.status == 500
    assert "a bug" in caplog.text
