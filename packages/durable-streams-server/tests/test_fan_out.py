"""Fan-out: everybody is told everything once and in order, and nobody waits for all the others."""

import asyncio
import gc
import json
import random
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from servers import SERVERS
from wire import Client, Events, request_bytes

from durable_streams_core.entities import Change
from durable_streams_core.operations import Append, Body
from durable_streams_server import Engine, MemoryStore
from durable_streams_server.engine.fanout import (
    BACKLOG_BYTES,
    BACKLOG_CHANGES,
    FEW,
    SLICE,
    Backlog,
    Fanout,
)
from durable_streams_server.engine.meter import EngineMeter
from durable_streams_server.frontends.mount import Mount
from durable_streams_server.http.handler import Handler
from durable_streams_server.http.messages import RequestHead
from durable_streams_server.http.options import Options

MANY = 3 * SLICE + 1


class Stream:
    """One stream of a store, and the fan-out to its subscribers."""

    def __init__(self, fanout: Any, path: Any = "a") -> None:
        self.fanout = fanout
        self.path = path
        self.data = b""

    def append(self, data: Any, **change: Any) -> None:
        self.data += data
        told = Change(self.path, "i", len(self.data), **{"data": data, **change})
        self.fanout.publish([told])


class Reader:
    """Reads a stream from where it joined, and knows whether what it hears leads on from there."""

    def __init__(self, stream: Any, then: Any = None) -> None:
        self.stream = stream
        self.position = self.begin = len(stream.data)
        self.heard = []
        self.then = then
        self.leave = stream.fanout.subscribe(stream.path, self)

    def notify(self, notification: Any) -> None:
        self.heard.append(notification)
        if notification.change is None:
            self.position = len(self.stream.data)
        else:
            assert notification.start == self.position
            self.position = notification.change.tail
            assert self.stream.data[notification.start : self.position] == notification.change.data
        if self.then is not None:
            self.then(self)

    @property
    def datas(self) -> Any:
        return [
            None if notification.change is None else notification.change.data
            for notification in self.heard
        ]


@pytest.fixture
def fanout() -> Any:
    return Fanout(100_000, EngineMeter())


@pytest.fixture
def stream(fanout: Any) -> Any:
    return Stream(fanout)


@pytest.fixture(autouse=True)
def nothing_failed(caplog: pytest.LogCaptureFixture) -> Iterator[Any]:
    """An exception of a subscriber, be it an assertion, is only logged."""
    yield
    assert caplog.get_records("call") == []


async def turn() -> None:
    await asyncio.sleep(0)


async def told(*readers: Any) -> None:
    """Return once each of them has got everything; a hang is caught by the test's time limit."""
    while any(reader.position < len(reader.stream.data) for reader in readers):
        await turn()


async def test_a_few_are_told_at_once(stream: Any) -> None:
    readers = [Reader(stream) for _ in range(SLICE)]
    stream.append(b"1")
    assert all(reader.datas == [b"1"] for reader in readers)


async def test_many_are_told_in_slices_and_other_work_gets_its_turn_between(stream: Any) -> None:
    readers = [Reader(stream) for _ in range(MANY)]
    stream.append(b"1")
    before = sum(len(reader.heard) for reader in readers)
    assert before <= SLICE
    turns = 0
    while before < MANY:
        await turn()
        turns += 1
        now = sum(len(reader.heard) for reader in readers)
        assert now - before <= SLICE
        before = now
    assert turns >= MANY // SLICE
    assert all(reader.datas == [b"1"] for reader in readers)


async def test_who_is_told_late_is_told_everything_missed_at_once(stream: Any) -> None:
    readers = [Reader(stream) for _ in range(MANY)]
    stream.append(b"1")
    await turn()
    stream.append(b"2")
    stream.append(b"3")
    await told(*readers)
    heard = {tuple(reader.datas) for reader in readers}
    assert heard == {(b"1", b"23"), (b"123",)}
    # And those alike are told by the same object, so what is made of it is made once.
    assert len({id(reader.heard[-1]) for reader in readers}) == 2


async def test_those_longest_behind_come_first(stream: Any) -> None:
    readers = [Reader(stream) for _ in range(MANY)]
    stream.append(b"1")
    for data in (b"2", b"3", b"4"):
        await turn()
        stream.append(data)
    assert all(reader.heard for reader in readers[: 3 * SLICE])
    assert all(len(reader.heard) == 1 for reader in readers[: 3 * SLICE])
    await told(*readers)


async def test_a_close_that_is_told_late_comes_with_the_last_data(stream: Any) -> None:
    readers = [Reader(stream) for _ in range(MANY)]
    stream.append(b"1")
    stream.append(b"2")
    stream.append(b"", closed=True)
    await told(*readers)
    for reader in readers:
        assert reader.datas == [b"12"]
        assert reader.heard[0].change.closed


@pytest.mark.parametrize("count", [1, BACKLOG_CHANGES - 1, BACKLOG_CHANGES, BACKLOG_CHANGES + 1])
async def test_beyond_a_number_of_notifications_the_store_is_looked_at(
    stream: Any, count: Any
) -> None:
    readers = [Reader(stream) for _ in range(MANY)]
    for _ in range(count):
        stream.append(b"x")
    await told(*readers)
    expected = b"x" * count if count <= BACKLOG_CHANGES else None
    assert all(reader.datas == [expected] for reader in readers)
    assert len({id(reader.heard[0]) for reader in readers}) == 1


async def test_beyond_a_number_of_bytes_the_store_is_looked_at(stream: Any) -> None:
    early, late = [Reader(stream) for _ in range(SLICE)], [Reader(stream) for _ in range(SLICE)]
    for _ in range(3):
        stream.append(b"x" * (BACKLOG_BYTES // 2))
        if stream.data == b"x" * (BACKLOG_BYTES // 2):
            await turn()
    await told(*early, *late)
    assert all(None not in reader.datas for reader in early)
    assert all(reader.datas == [None] for reader in late)


async def test_one_large_message_is_told_as_it_is(stream: Any) -> None:
    readers = [Reader(stream) for _ in range(MANY)]
    stream.append(b"x" * (BACKLOG_BYTES + 1))
    await told(*readers)
    assert all(reader.datas == [stream.data] for reader in readers)


@pytest.mark.parametrize(
    "changes",
    [
        [Change("a", "i", 1, data=b"x"), Change("a", "i", 1, gone=True)],
        [Change("a", "i", 1, data=b"x"), Change("a", "other", 2, data=b"x")],
        [Change("a", "i", 1, data=b"x"), Change("a", "i", 9, data=b"x")],
        [Change("a", "i", 1), Change("a", "i", 2, data=b"x")],
        [Change("a", "i", 1, data=b"x"), Change("a", "i", 2)],
    ],
    ids=["gone", "another", "gap", "large-first", "large-last"],
)
async def test_what_is_no_run_of_bytes_is_told_late_as_a_look(
    fanout: Any, stream: Any, changes: Any
) -> None:
    readers = [Reader(stream) for _ in range(MANY)]
    stream.data = b"xx"
    fanout.publish(changes)
    await told(*readers)
    assert all(reader.datas == [None] for reader in readers)


async def test_a_resync_makes_everybody_look_after_what_came_before_it(fanout: Any) -> None:
    streams = [Stream(fanout, str(n)) for n in range(SLICE)]
    readers = [Reader(stream) for stream in streams for _ in range(2)]
    for stream in streams:
        stream.append(b"1")
        stream.data += b"2"
    fanout.publish(None)
    streams[0].append(b"3")
    await told(*readers)
    assert all(reader.datas == [b"1", None] for reader in readers)


async def test_who_joins_meanwhile_is_told_what_came_after(stream: Any) -> None:
    early = [Reader(stream) for _ in range(MANY)]
    stream.append(b"1")
    await turn()
    late = Reader(stream)
    stream.append(b"2")
    latest = Reader(stream)
    await told(*early, late)
    assert late.datas == [b"2"]
    assert latest.datas == []
    stream.append(b"3")
    await told(latest)
    assert latest.datas == [b"3"]


@pytest.mark.parametrize("count", [FEW, MANY])
async def test_who_left_is_told_no_more_though_it_left_while_others_were_told(
    stream: Any, count: Any
) -> None:
    readers = []

    def leave_all(_: Any) -> None:
        for reader in readers[1:]:
            reader.leave()

    readers += [Reader(stream, then=leave_all) for _ in range(count)]
    stream.append(b"1")
    await told(readers[0])
    await turn()
    await turn()
    assert [reader.datas for reader in readers] == [[b"1"]] + [[]] * (count - 1)
    assert stream.fanout.subscribers("a") == 1


@pytest.mark.parametrize("count", [1, FEW, MANY])
async def test_what_is_published_while_somebody_is_told_is_told_after_it(
    stream: Any, count: Any
) -> None:
    def append_again(reader: Any) -> None:
        if len(stream.data) < 5:
            stream.append(b"%d" % len(stream.data))

    readers = [Reader(stream, then=append_again) for _ in range(count)]
    stream.append(b"0")
    while len(stream.data) < 5:
        await turn()
    await told(*readers)
    assert all(b"".join(reader.datas) == b"01234" for reader in readers)


@pytest.mark.parametrize("count", [2, MANY])
async def test_one_that_fails_harms_no_other(
    stream: Any, caplog: pytest.LogCaptureFixture, count: Any
) -> None:
    def fail(_: Any) -> None:
        raise RuntimeError("no more")

    readers = [Reader(stream, then=fail if n == 0 else None) for n in range(count)]
    stream.append(b"1")
    await told(*readers)
    stream.append(b"2")
    await told(*readers)
    assert all(b"".join(reader.datas) == b"12" for reader in readers)
    assert [record.exc_text.split(": ")[-1] for record in caplog.records] == ["no more"] * 2
    caplog.clear()


async def test_topics_take_turns(fanout: Any) -> None:
    streams = [Stream(fanout, str(n)) for n in range(5)]
    readers = {stream: [Reader(stream) for _ in range(MANY)] for stream in streams}
    few = Stream(fanout, "few")
    one = Reader(few)
    for stream in streams:
        stream.append(b"1")
    for _ in range(len(streams)):
        before = sum(len(reader.heard) for each in readers.values() for reader in each)
        await turn()
        now = sum(len(reader.heard) for each in readers.values() for reader in each)
        assert now - before <= SLICE
        few.append(b"x")
        assert one.position == len(few.data)
    assert all(any(reader.heard for reader in each) for each in readers.values())
    for each in readers.values():
        await told(*each)


async def test_many_middling_topics_take_turns_too(fanout: Any) -> None:
    streams = [Stream(fanout, str(n)) for n in range(20)]
    readers = [Reader(stream) for stream in streams for _ in range(SLICE // 2)]
    for stream in streams:
        stream.append(b"1")
    assert sum(len(reader.heard) for reader in readers) <= SLICE
    await told(*readers)
    assert all(reader.datas == [b"1"] for reader in readers)


async def test_nothing_is_kept_of_a_topic_whose_last_listener_left_before_its_turn(
    stream: Any,
) -> None:
    readers = [Reader(stream) for _ in range(MANY)]
    stream.append(b"1")
    await turn()
    gone = [weakref.ref(reader) for reader in readers]
    told_so_far = sum(len(reader.heard) for reader in readers)
    for reader in readers:
        reader.leave()
    assert len(stream.fanout) == 0
    assert sum(len(reader.heard) for reader in readers) == told_so_far
    del readers, reader
    gc.collect()
    assert not any(ref() for ref in gone)
    # The next ones begin anew.
    one = Reader(stream)
    stream.append(b"2")
    assert one.datas == [b"2"]
    await turn()
    assert one.datas == [b"2"]


@pytest.mark.parametrize("seed", range(6))
async def test_thousands_that_come_and_go_get_everything_once_and_in_order(
    fanout: Any, seed: Any
) -> None:
    chance = random.Random(seed)
    stream = Stream(fanout)
    here = [Reader(stream) for _ in range(2000)]
    left = []

    def sometimes(reader: Any) -> None:
        if chance.random() < 0.002:
            other = here.pop(chance.randrange(len(here)))
            other.leave()
            left.append((other, other.position))
        if chance.random() < 0.002:
            stream.append(b"<%d>" % len(stream.data))
        if chance.random() < 0.002:
            here.append(Reader(stream, then=sometimes))

    for reader in here:
        reader.then = sometimes
    for _ in range(300):
        match chance.randrange(6):
            case 0:
                here += [Reader(stream, then=sometimes) for _ in range(chance.randrange(300))]
            case 1:
                for _ in range(min(chance.randrange(300), len(here) - 1)):
                    reader = here.pop(chance.randrange(len(here)))
                    reader.leave()
                    left.append((reader, reader.position))
            case 2:
                await turn()
            case 3 if chance.random() < 0.05:
                fanout.publish(None)
            case _:
                for _ in range(chance.choice((1, 1, 1, 2, 400))):
                    stream.append(b"%d," % len(stream.data))
    for reader in here:
        reader.then = None
    await told(*here)
    assert all(reader.position == position for reader, position in left)
    for reader in here:
        reader.leave()
    assert len(fanout) == 0


class Sink:
    """Takes every frame."""

    def __init__(self) -> None:
        self.frames = []
        self.ended = False

    def write(self, frame: Any) -> Any:
        self.frames.append(frame)
        return True

    def end(self) -> None:
        self.ended = True

    def events(self) -> Any:
        return [event.split(b"\ndata:", 1) for event in b"".join(self.frames).split(b"\n\n")[:-1]]

    @property
    def data(self) -> Any:
        return b"".join(data for name, data in self.events() if name.endswith(b"event: data"))

    @property
    def offset(self) -> Any:
        return json.loads(self.events()[-1][1])["streamNextOffset"]


async def sse(engine: Any, handler: Any, count: Any) -> Any:
    """SSE readers of a text stream, and their sinks."""
    sinks = [Sink() for _ in range(count)]
    for sink in sinks:
        answer = handler.begin(RequestHead("GET", "a", "offset=-1&live=sse", {})).run(b"")
        while hasattr(answer, "result"):
            if answer.result is None:
                await turn()
            else:
                answer = answer.result
        answer.attach(sink)
    return sinks


async def test_a_reader_that_is_told_late_gets_one_event_and_where_it_ends(
    engines: Callable[..., object], memory: MemoryStore
) -> None:
    engine = await engines(memory)
    await engine.create("a", content_type="text/plain", data="1")
    handler = Handler(engine)
    sinks = await sse(engine, handler, MANY)
    for text in (b"2", b"3", b"4"):
        engine.perform_nowait("a", Append(Body(text)))
    engine.perform_nowait("a", Append(Body(b"5"), close=True))
    while not all(sink.ended for sink in sinks):
        await turn()
    names = [b"event: data", b"event: control"]
    for sink in sinks:
        assert sink.data == b"12345"
        events = sink.events()
        kinds = [name.rpartition(b"\n")[2] for name, _ in events]
        assert kinds == names * (len(events) // 2)
        assert json.loads(events[-1][1])["streamClosed"]
    assert len({sinks[n].frames[-1] for n in range(MANY)}) <= 2
    handler.close()


async def test_a_character_split_over_two_appends_reaches_everybody_whole(
    engines: Callable[..., object], memory: MemoryStore
) -> None:
    engine = await engines(memory)
    await engine.create("a", content_type="text/plain", data="1")
    handler = Handler(engine)
    sinks = await sse(engine, handler, MANY)
    character = "é".encode()
    await engine.append("a", character[:1])
    await turn()
    await engine.append("a", character[1:])
    await engine.close_stream("a")
    while not all(sink.ended for sink in sinks):
        await turn()
    assert {sink.data for sink in sinks} == {b"1" + character}


async def test_a_shutdown_before_its_turn_ends_a_reader_where_it_is(
    engines: Callable[..., object], memory: MemoryStore
) -> None:
    engine = await engines(memory)
    await engine.create("a", content_type="text/plain", data="12")
    handler = Handler(engine)
    sinks = await sse(engine, handler, MANY)
    await engine.append("a", "345")
    await turn()
    handler.close()
    for _ in range(10):
        await turn()
    assert all(sink.ended for sink in sinks)
    assert {sink.data for sink in sinks} <= {b"12", b"12345"}
    for sink in sinks:
        assert int(sink.offset.split("_")[1]) == len(sink.data)
    assert len(engine.fanout) == 0


async def test_an_engine_that_stops_leads_nobody_past_what_it_was_not_sent() -> None:
    async with Engine(MemoryStore()) as engine:
        await engine.create("a", content_type="text/plain", data="1")
        handler = Handler(engine)
        sinks = await sse(engine, handler, MANY)
        await engine.append("a", "2")
        assert engine.fanout.behind
    while not all(sink.ended for sink in sinks):
        await turn()
    for sink in sinks:
        assert int(sink.offset.split("_")[1]) == len(sink.data)
    handler.close()


async def test_every_message_of_a_burst_reaches_every_sse_reader_once_and_in_order(
    memory: MemoryStore,
) -> None:
    readers, messages = 400, 200
    async with Engine(memory) as engine:
        mount = Mount(engine, Options(), None)
        async with SERVERS["standalone"](mount, "/v1/stream/") as port:
            client = Client(port, "/v1/stream/", mount)
            await client.put("a", "application/json")
            events = [await client.sse("a?offset=-1&live=sse") for _ in range(readers)]
            writer = await client.connect()
            burst = [
                request_bytes(
                    "POST", "/v1/stream/a", {"content-type": "application/json"}, b"%d" % number
                )
                for number in range(messages)
            ]
            await writer.send(b"".join(burst))
            for _ in burst:
                assert (await writer.answer("POST")).status == 204
            await engine.close_stream("a")

            async def numbers(events: Events) -> list[int]:
                return [n for data, _ in await events.rest() if data for n in json.loads(data)]

            for seen in await asyncio.gather(*map(numbers, events)):
                assert seen == list(range(messages))
            await client.close()


async def test_who_appends_in_a_loop_lets_others_have_their_turn(
    engines: Callable[..., object], memory: MemoryStore
) -> None:
    """An append to a memory store never waits, so subscribers in later slices learned of none."""
    engine = await engines(memory)
    await engine.create("a", content_type="text/plain")
    heard = [0] * MANY

    class Counting:
        def __init__(self, number: Any) -> None:
            self.number = number

        def notify(self, _notification: Any) -> None:
            heard[self.number] += 1

    for number in range(MANY):
        engine.fanout.subscribe("a", Counting(number))
    for _ in range(50):
        await engine.append("a", "x")
    assert min(heard) > 3


async def test_nothing_is_kept_of_notifications_that_everybody_has_had(
    engines: Callable[..., object], memory: MemoryStore
) -> None:
    engine = await engines(memory)
    await engine.create("a", content_type="text/plain")
    readers = [Reader(Stream(engine.fanout)) for _ in range(MANY)]
    for reader in readers:
        reader.stream.append(b"x")
        break
    engine.fanout.publish(None)
    while engine.fanout.behind:
        await turn()
    gc.collect()
    assert not [kept for kept in gc.get_objects() if type(kept) is Backlog]
