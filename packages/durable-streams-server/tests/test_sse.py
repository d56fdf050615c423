"""SSE: every data event with its control event, nothing forged, nothing lost (§5.8)."""

import asyncio
import base64
import json
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from remote import RemoteStore
from servers import Serve
from tokens import position
from wire import Client

from durable_streams_server import Engine, MemoryStore
from durable_streams_server.http.handler import Handler
from durable_streams_server.http.messages import RequestHead

JSON = "application/json"
SSE = "a?offset=-1&live=sse"


async def test_data_comes_in_pairs_with_where_it_ends(client: Client) -> None:
    await client.put("a", body=b"old")
    events = await client.sse(SSE)
    assert events.head["content-type"] == "text/event-stream"
    assert events.head["cache-control"] == "no-cache"
    assert events.head["x-accel-buffering"] == "no"
    assert "stream-sse-data-encoding" not in events.head
    data, control = await events.batch()
    assert data == "old"
    assert position(control["streamNextOffset"]) == 3
    assert control["upToDate"] is True
    assert control["streamCursor"].isdigit()
    assert "streamClosed" not in control
    await client.post("a", b"new")
    data, control = await events.batch()
    assert (data, position(control["streamNextOffset"])) == ("new", 6)


async def test_an_empty_stream_says_where_it_is_at_once(client: Client) -> None:
    created = await client.put("a")
    data, control = await (await client.sse(SSE)).batch()
    assert (data, control["streamNextOffset"], control["upToDate"]) == (
        None,
        created["stream-next-offset"],
        True,
    )


async def test_now_begins_at_the_tail(client: Client) -> None:
    await client.put("a", body=b"old")
    events = await client.sse("a?offset=now&live=sse")
    assert position((await events.batch())[1]["streamNextOffset"]) == 3
    await client.post("a", b"new")
    assert (await events.batch())[0] == "new"


async def test_json_comes_as_arrays(client: Client) -> None:
    await client.put("a", JSON, b'[{"n": 1}, [2]]')
    events = await client.sse(SSE)
    assert (await events.batch())[0].replace("\n", "") == '[{"n": 1},[2]]'
    await client.post("a", b'{\r\n"n":\n 3}', JSON)
    assert (await events.batch())[0].replace("\n", "") == '[{  "n":  3}]'


async def test_binary_comes_as_base64(client: Client) -> None:
    await client.put("a", "application/octet-stream", b"\x00\xff\r\n")
    events = await client.sse(SSE)
    assert events.head["stream-sse-data-encoding"] == "base64"
    assert base64.b64decode((await events.batch())[0]) == b"\x00\xff\r\n"
    await client.post("a", b"\x01", "application/octet-stream")
    assert base64.b64decode((await events.batch())[0]) == b"\x01"


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n"])
async def test_line_ends_in_the_data_forge_no_event(client: Client, end: str) -> None:
    """A payload that looks like an event stays the payload of one."""
    forged = f"x{end}{end}event: control{end}data: {{}}{end}{end}: y"
    await client.put("a", body=forged.encode())
    events = await client.sse(SSE)
    data, control = await events.batch()
    assert data.split("\n") == ["x", "", "event: control", "data: {}", "", ": y"]
    assert position(control["streamNextOffset"]) == len(forged)
    await client.post("a", forged.encode())
    assert (await events.batch())[0] == data


async def test_leading_spaces_survive(client: Client) -> None:
    await client.put("a", body=b"  two\n  spaces")
    assert (await (await client.sse(SSE)).batch())[0] == "  two\n  spaces"


async def test_a_character_split_over_two_appends_is_sent_whole(client: Client) -> None:
    await client.put("a")
    events = await client.sse(SSE)
    await events.batch()
    euro = "€".encode()
    await client.post("a", b"5 " + euro[:1])
    data, control = await events.batch()
    assert (data, position(control["streamNextOffset"])) == ("5 ", 2)
    await client.post("a", euro[1:] + b"!")
    data, control = await events.batch()
    assert (data, position(control["streamNextOffset"])) == ("€!", 6)


async def test_a_character_that_is_never_completed_is_not_lost(client: Client) -> None:
    """The response ends before it, and the next one carries it as base64."""
    await client.put("a")
    events = await client.sse(SSE)
    await events.batch()
    await client.post("a", b"x\xe2\x82")
    _, control = await events.batch()
    await client.post("a", b"", stream_closed="true")
    assert await events.rest() == []
    events = await client.sse(f"a?offset={control['streamNextOffset']}&live=sse")
    assert events.head["stream-sse-data-encoding"] == "base64"
    ((data, control),) = await events.rest()
    assert base64.b64decode(data) == b"\xe2\x82"
    assert control["streamClosed"] is True


async def test_text_that_is_none_comes_as_base64(client: Client) -> None:
    await client.put("a", body=b"caf\xe9!")
    events = await client.sse(SSE)
    assert events.head["stream-sse-data-encoding"] == "base64"
    assert base64.b64decode((await events.batch())[0]) == b"caf\xe9!"


async def test_text_that_turns_out_to_be_none_ends_the_response_for_a_base64_one(
    client: Client,
) -> None:
    await client.put("a", body=b"fine")
    events = await client.sse(SSE)
    _, control = await events.batch()
    await client.post("a", b"caf\xe9!")
    assert await events.rest() == []
    events = await client.sse(f"a?offset={control['streamNextOffset']}&live=sse")
    assert base64.b64decode((await events.batch())[0]) == b"caf\xe9!"


@pytest.mark.parametrize("data", [b"", b"last words"])
async def test_a_close_brings_the_last_data_and_ends_the_response(
    client: Client, data: bytes
) -> None:
    await client.put("a")
    events = await client.sse(SSE)
    await events.batch()
    await client.post("a", data, stream_closed="true")
    ((last, control),) = await events.rest()
    assert last == (data.decode() or None)
    assert position(control["streamNextOffset"]) == len(data)
    assert control["streamClosed"] is True
    assert "streamCursor" not in control


async def test_a_closed_stream_is_told_at_once(client: Client) -> None:
    await client.put("a", body=b"x", stream_closed="true")
    ((data, control),) = await (await client.sse(SSE)).rest()
    assert (data, control["streamClosed"]) == ("x", True)
    ((data, control),) = await (await client.sse("a?offset=now&live=sse")).rest()
    assert (data, control["streamClosed"], control["upToDate"]) == (None, True, True)


async def test_a_deletion_ends_the_response(client: Client) -> None:
    await client.put("a")
    events = await client.sse(SSE)
    await events.batch()
    await client.delete("a")
    assert await events.rest() == []
    await client.quiet()


async def test_a_long_stream_is_caught_up_in_pages_and_none_is_missed(
    serve: Callable[..., Awaitable[Client]],
) -> None:
    client = await serve(page_bytes=1000)
    await client.put("a", JSON)
    for n in range(30):
        await client.post("a", b'"' + b"%d" % n * 100 + b'"', JSON)
    events = await client.sse(SSE)
    seen = []
    while True:
        data, control = await events.batch()
        seen += json.loads(data)
        if control.get("upToDate"):
            break
    assert seen == [str(n) * 100 for n in range(30)]


async def test_a_client_cursor_is_passed(client: Client) -> None:
    await client.put("a")
    _, control = await (await client.sse(SSE)).batch()
    cursor = control["streamCursor"]
    events = await client.sse(f"{SSE}&cursor={cursor}")
    following = (await events.batch())[1]["streamCursor"]
    assert int(following) > int(cursor)
    await client.post("a", b"x")
    assert int((await events.batch())[1]["streamCursor"]) > int(cursor)


async def test_responses_rotate_at_a_page_boundary(
    serve: Callable[..., Awaitable[Client]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durable_streams_server.http.live.TICK_SECONDS", 0.005)
    client = await serve(sse_rotation=0.02)
    await client.put("a", body=b"x")
    events = await client.sse(SSE)
    ((data, control),) = await events.rest()
    assert (data, position(control["streamNextOffset"])) == ("x", 1)
    await client.quiet()


async def test_a_quiet_response_is_kept_alive_by_comments(
    serve: Callable[..., Awaitable[Client]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durable_streams_server.http.live.TICK_SECONDS", 0.005)
    client = await serve(sse_keep_alive=0.01)
    await client.put("a")
    events = await client.sse(SSE)
    await events.batch()
    await events.comment()
    await events.comment()


async def test_a_live_reader_keeps_its_stream_alive(
    serve: Callable[..., Awaitable[Client]],
    memory: MemoryStore,
    clock: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("durable_streams_server.http.live.TICK_SECONDS", 0.005)
    client = await serve(memory)
    await client.put("a", stream_ttl="1")
    events = await client.sse(SSE)
    await events.batch()
    for _ in range(3):
        before = memory.peek("a").head.deadline
        clock.advance(0.9)
        while memory.peek("a").head.deadline == before:
            await asyncio.sleep(0.001)
    assert (await client.head("a")).status == 200


async def test_a_client_that_goes_away_is_let_go_at_once(client: Client) -> None:
    await client.put("a")
    events = await client.sse(SSE)
    await events.batch()
    assert len(client.mount.handler.readers) == 1
    events.connection.abort()
    await client.quiet()
    assert len(client.mount.handler.readers) == 0


async def test_a_thousand_events_reach_fifty_readers_in_order(client: Client) -> None:
    await client.put("a", JSON)
    readers = [await client.sse(SSE) for _ in range(50)]
    for number in range(100):
        await client.engine.append("a", number)
    await client.engine.close_stream("a")

    async def numbers(events: Any) -> Any:
        return [n for data, _ in await events.rest() if data for n in json.loads(data)]

    for seen in await asyncio.gather(*(numbers(events) for events in readers)):
        assert seen == list(range(100))


async def test_a_slow_reader_is_bounded_and_holds_nobody_back(
    serve: Callable[..., Awaitable[Client]],
) -> None:
    """Data that one client does not take is read again from the store, not kept for it."""
    client = await serve()
    await client.put("a", "application/octet-stream")
    slow = await client.connect()
    slow.writer.transport.pause_reading()
    await slow.send(b"GET /v1/stream/a?offset=-1&live=sse HTTP/1.1\r\nHost: x\r\n\r\n")
    await client.listening("a")
    fast = await client.sse(SSE)
    await client.listening("a", 2)
    await fast.batch()
    piece = b"x" * 60_000
    for number in range(200):
        await client.engine.append("a", piece)
        received = 0
        while received < len(piece):
            data, _ = await fast.batch()
            received += len(base64.b64decode(data))
        assert received == len(piece), number
    positions = sorted(r.position for r in client.mount.handler.readers)
    assert positions[1] == 200 * len(piece)
    assert positions[0] < 170 * len(piece)
    # Once it takes data again, it gets all of it.
    slow.writer.transport.resume_reading()
    await client.engine.close_stream("a")
    from wire import Events

    status, fields = await slow.head()
    assert status == 200
    total = 0
    for data, _ in await Events(slow, fields).rest():
        total += len(base64.b64decode(data or ""))
    assert total == 200 * len(piece)


async def test_catching_up_comes_in_events_that_a_stalled_client_can_be_kept_for(
    client: Client,
) -> None:
    """A page of a plain read would be kept for every client that connects and takes nothing."""
    await client.put("a", "application/octet-stream", b"x" * 1_000_000)
    events = await client.sse(SSE)
    await client.engine.close_stream("a")
    sizes = [len(base64.b64decode(data)) for data, _ in await events.rest() if data]
    assert sum(sizes) == 1_000_000
    assert max(sizes) <= 64 * 1024


async def test_a_reader_of_a_fork_gets_the_shared_data_and_the_forks_own(client: Client) -> None:
    await client.put("source", body=b"shared")
    await client.request("PUT", "a", {"stream-forked-from": "source"})
    events = await client.sse(SSE)
    assert (await events.batch())[0] == "shared"
    await client.post("source", b"source only")
    await client.post("a", b"own", stream_closed="true")
    assert [data for data, _ in await events.rest()] == ["own"]


async def test_shutdown_ends_responses_where_they_are(
    front_end: Serve, memory: MemoryStore
) -> None:
    from wire import Client

    from durable_streams_server.frontends.mount import Mount
    from durable_streams_server.http.options import Options

    async with Engine(memory) as engine:
        mount = Mount(engine, Options(), None)
        async with front_end(mount, "/v1/stream/") as port:
            client = Client(port, "/v1/stream/", mount)
            await client.put("a", body=b"x")
            events = await client.sse(SSE)
            await events.batch()
        assert await events.rest() == []
        await client.close()
    assert len(engine.fanout) == 0


# What only a front end's own timing would show.


class Sink:
    """Takes frames until told to be full."""

    def __init__(self) -> None:
        self.frames = []
        self.full = self.ended = False

    def write(self, frame: Any) -> Any:
        self.frames.append(frame)
        return not self.full

    def end(self) -> None:
        self.ended = True

    @property
    def text(self) -> Any:
        return b"".join(self.frames).decode()


async def live(engine: Any, handler: Any, query: Any = "offset=-1&live=sse") -> Any:
    answer = handler.begin(RequestHead("GET", "a", query, {})).run(b"")
    if hasattr(answer, "result"):
        while answer.result is None:
            await asyncio.sleep(0)
        answer = answer.result
    return answer


async def turns(count: Any = 30) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_stream_deleted_before_the_head_was_sent_leaves_no_reader(streams: Engine) -> None:
    await streams.create("a", content_type="text/plain", data="x")
    reader = await live(streams, Handler(streams))
    await streams.delete("a")
    sink = Sink()
    reader.attach(sink)
    assert sink.ended
    assert len(streams.fanout) == 0


async def test_data_that_came_before_the_head_was_sent_is_not_missed(streams: Engine) -> None:
    await streams.create("a", content_type="text/plain", data="1")
    reader = await live(streams, Handler(streams))
    await streams.append("a", "2")
    sink = Sink()
    reader.attach(sink)
    await turns()
    await streams.append("a", "3", close=True)
    await turns()
    datas = [line for line in sink.text.split("\n") if line.startswith("data:") and "{" not in line]
    assert datas == ["data:1", "data:2", "data:3"]
    assert sink.ended


async def test_a_reader_that_comes_during_shutdown_gets_one_page(streams: Engine) -> None:
    await streams.create("a", content_type="text/plain", data="x")
    handler = Handler(streams)
    handler.close()
    reader = await live(streams, handler)
    sink = Sink()
    reader.attach(sink)
    await turns()
    assert "data:x" in sink.text
    assert sink.ended
    assert len(streams.fanout) == 0


async def test_a_reader_whose_sink_drains_while_it_reads_gets_nothing_twice(
    engines: Callable[..., object], memory: MemoryStore
) -> None:
    """Two reads at once from one position sent the same data twice."""
    remote = RemoteStore(memory)
    streams = await engines(remote)
    await streams.create("a", content_type="text/plain", data="1")
    reader = await live(streams, Handler(streams))
    sink = Sink()
    reader.attach(sink)
    await turns()
    sink.full = True
    await streams.append("a", "2")
    remote.reading.shut()
    await streams.append("a", "3")
    sink.full = False
    reader.drained()
    await remote.reading.reached.wait()
    await streams.append("a", "4")
    reader.drained()
    remote.reading.open()
    await turns(100)
    datas = [line for line in sink.text.split("\n") if line.startswith("data:") and "{" not in line]
    assert datas[:2] == ["data:1", "data:2"]
    assert "".join(line.removeprefix("data:") for line in datas) == "1234"
    reader.gone()


async def test_every_event_that_moves_the_reader_carries_the_offset_after_it_as_id(
    client: Client,
) -> None:
    await client.put("a", body=b"old")
    events = await client.sse(SSE)
    await events.batch()
    await client.post("a", b"new")
    await events.batch()
    await client.request("POST", "a", {"stream-closed": "true"}, b"")
    assert [control["streamNextOffset"] for _, control in await events.rest()]
    ids = re.findall(rb"^id: (.*)$", events.raw, re.MULTILINE)
    offsets = re.findall(rb'"streamNextOffset":"([^"]*)"', events.raw)
    assert ids == offsets
    # The id belongs to the data: were it only in the control event, a connection that is cut
    # between the two would lead to the data being sent again.
    assert re.search(rb"id: \S+\nevent: data\ndata:new\n\nevent: control", events.raw)


async def test_an_event_source_is_told_once_how_soon_to_reconnect(
    serve: Callable[..., Awaitable[Client]],
) -> None:
    client = await serve(sse_retry=2.5)
    await client.put("a", body=b"x")
    events = await client.sse(SSE)
    await events.batch()
    await client.post("a", b"y")
    await events.batch()
    assert events.raw.startswith(b"retry: 2500\n")
    assert events.raw.count(b"retry:") == 1


async def test_last_event_id_goes_before_the_offset_of_the_url(client: Client) -> None:
    await client.put("a", body=b"one")
    offset = (await client.post("a", b"two"))["stream-next-offset"]
    await client.post("a", b"three")
    events = await client.sse(SSE, last_event_id=offset)
    assert (await events.batch())[0] == "three"


async def test_an_empty_last_event_id_is_none(client: Client) -> None:
    await client.put("a", body=b"one")
    events = await client.sse(SSE, last_event_id="")
    assert (await events.batch())[0] == "one"


async def test_last_event_id_concerns_events_only(client: Client) -> None:
    await client.put("a", body=b"one")
    answer = await client.get("a?offset=-1", last_event_id="nonsense")
    assert (answer.status, answer.body) == (200, b"one")


@pytest.mark.parametrize("value", ["nonsense", "1", "-2", "0_0", "é".encode().decode("latin-1")])
async def test_a_malformed_last_event_id_is_refused(client: Client, value: Any) -> None:
    await client.put("a", body=b"one")
    answer = await client.get(SSE, last_event_id=value)
    assert (answer.status, answer.code) == (400, "invalid-offset")


async def test_a_closed_stream_stops_an_event_source_that_has_everything(client: Client) -> None:
    await client.put("a", body=b"one")
    tail = (await client.request("POST", "a", {"stream-closed": "true"}, b""))["stream-next-offset"]
    answer = await client.get(SSE, last_event_id=tail)
    assert (answer.status, answer["stream-closed"]) == (204, "true")
    # Without the header it is a new reader, which is told in an event.
    events = await client.sse(f"a?offset={tail}&live=sse")
    assert (await events.batch())[1]["streamClosed"] is True


async def test_a_closed_stream_still_sends_what_an_event_source_has_not_seen(
    client: Client,
) -> None:
    first = (await client.put("a", body=b"one"))["stream-next-offset"]
    await client.request("POST", "a", {"stream-closed": "true", "content-type": "text/plain"}, b"2")
    events = await client.sse(SSE, last_event_id=first)
    data, control = await events.batch()
    assert (data, control["streamClosed"]) == ("2", True)
