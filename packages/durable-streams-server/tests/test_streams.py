"""Streams through the engine's own API: created, written, read, listed, closed, deleted."""

import math
from typing import Any

import pytest
from tokens import NOT_REACHED, at, position

from durable_streams_core import store as interface
from durable_streams_core.store import Store
from durable_streams_server import (
    NOW,
    START,
    Conflict,
    Engine,
    Gone,
    InvalidRequest,
    MemoryStore,
    NotFound,
    ProducerClaim,
    StoreError,
    StreamClosed,
    TailMoved,
    Unavailable,
)

JSON = "application/json"
TEXT = "text/plain"


async def test_a_stream_holds_what_was_appended(streams: Engine) -> None:
    created = await streams.create("a", content_type=TEXT)
    first = await streams.append("a", "Hello, ")
    second = await streams.append("a", b"world")
    batch = await streams.read("a")
    assert created.created
    assert (position(created.offset), created.closed, created.content_type) == (0, False, TEXT)
    assert (position(first.offset), position(second.offset)) == (7, 12)
    assert (batch.data, batch.offset) == (b"Hello, world", second.offset)
    assert batch.up_to_date
    assert not batch.closed
    assert list(batch) == [b"Hello, world"]


async def test_data_may_come_with_the_creation(streams: Engine) -> None:
    created = await streams.create("a", content_type=TEXT, data="once", closed=True)
    batch = await streams.read("a")
    assert (position(created.offset), created.closed) == (4, True)
    assert (batch.data, batch.closed) == (b"once", True)


async def test_creating_again_in_the_same_way_finds_the_stream(streams: Engine) -> None:
    await streams.create("a", content_type=TEXT, ttl=60)
    await streams.append("a", "x")
    again = await streams.create("a", content_type="Text/Plain; charset=utf-8", ttl=60)
    assert not again.created
    assert position(again.offset) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"content_type": JSON},
        {"content_type": TEXT, "ttl": 60},
        {"content_type": TEXT, "expires_at": "2040-01-01T00:00:00Z"},
        {"content_type": TEXT, "closed": True},
    ],
)
async def test_creating_again_in_another_way_is_a_conflict(streams: Engine, other: Any) -> None:
    await streams.create("a", content_type=TEXT)
    with pytest.raises(Conflict) as caught:
        await streams.create("a", **other)
    assert caught.value.code == "configuration-mismatch"


async def test_values_are_messages_of_a_json_stream(streams: Engine) -> None:
    await streams.create("a", content_type=JSON)
    await streams.append("a", {"n": 1})
    await streams.append("a", [1, 2])
    await streams.append("a", None)
    await streams.append("a", b'[{"n": 2}, 3]')
    assert list(await streams.read("a")) == [{"n": 1}, [1, 2], None, {"n": 2}, 3]


@pytest.mark.parametrize("text", ["hello", "1", "null", "[1,2]", '{"a":1}', "", "\ud83d", "é\n"])
async def test_a_str_is_a_json_string_whatever_it_says(streams: Engine, text: str) -> None:
    await streams.create("a", content_type=JSON, data=text)
    await streams.append("a", text)
    await streams.fork("b", "a", data=text)
    await streams.close_stream("a", text)
    assert list(await streams.read("a")) == [text, text, text]
    assert list(await streams.read("b")) == [text, text, text]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
async def test_a_number_that_json_does_not_have_is_refused(streams: Engine, number: float) -> None:
    await streams.create("a", content_type=JSON)
    for value in (number, {"x": [number]}):
        with pytest.raises(InvalidRequest) as caught:
            await streams.append("a", value)
        assert caught.value.code == "invalid-json"
    assert list(await streams.read("a")) == []


async def test_messages_that_python_reads_in_its_own_way_are_read(streams: Engine) -> None:
    await streams.create(
        "a", content_type=JSON, closed=True, data=rb'[1, 1e400, "\ud83d", {"x": 2}]'
    )
    assert [item async for batch in streams.follow("a") for item in batch] == [
        1, math.inf, "\ud83d", {"x": 2},
    ]  # fmt: skip


async def test_text_that_is_not_unicode_is_refused_by_other_streams(streams: Engine) -> None:
    await streams.create("a", content_type=TEXT)
    with pytest.raises(InvalidRequest):
        await streams.append("a", "\ud83d")


@pytest.mark.parametrize(
    "arguments",
    [
        {"seq": "\ud83d"},
        {"seq": "x" * 257},
        {"producer": ProducerClaim("\ud83d", 0, 0)},
        {"producer": ProducerClaim("", 0, 0)},
        {"producer": ProducerClaim("p", -1, 0)},
        {"producer": ProducerClaim("p", 0, 2**53)},
        {"expected": "\ud83d"},
        {"content_type": "\ud83d/x"},
    ],
)
async def test_arguments_that_no_request_could_carry_are_refused(
    streams: Engine, arguments: dict[str, Any]
) -> None:
    await streams.create("a", content_type=TEXT)
    with pytest.raises(InvalidRequest):
        await streams.append("a", "x", **arguments)


async def test_names_that_are_not_unicode_are_refused(streams: Engine) -> None:
    for call in (
        streams.create("\ud83d"),
        streams.fork("a", "\ud83d"),
        streams.create("a", expires_at="\ud83d"),
        streams.list("\ud83d"),
        streams.list(after="\ud83d"),
        streams.read("a", "\ud83d"),
    ):
        with pytest.raises(InvalidRequest):
            await call


async def test_a_value_is_refused_by_a_stream_of_bytes(streams: Engine) -> None:
    await streams.create("a")
    with pytest.raises(InvalidRequest) as caught:
        await streams.append("a", {"n": 1})
    assert caught.value.code == "not-a-json-stream"


@pytest.mark.parametrize("data", [bytearray(b"ab"), memoryview(b"ab"), b"ab", "ab"])
async def test_bytes_of_any_kind_are_taken(streams: Engine, data: Any) -> None:
    await streams.create("a")
    await streams.append("a", data)
    assert (await streams.read("a")).data == b"ab"


@pytest.mark.parametrize("data", [b"", ""])
async def test_an_append_needs_data(streams: Engine, data: bytes | str) -> None:
    await streams.create("a")
    with pytest.raises(InvalidRequest) as caught:
        await streams.append("a", data)
    assert caught.value.code == "empty-body"


async def test_large_json_is_checked_too(streams: Engine) -> None:
    await streams.create("a", content_type=JSON)
    large = b"[%b]" % b",".join([b'"%b"' % (b"x" * 1000)] * 200)
    await streams.append("a", large, content_type=JSON)
    assert len(list(await streams.read("a"))) == 200
    with pytest.raises(InvalidRequest) as caught:
        await streams.append("a", large + b"]")
    assert caught.value.code == "invalid-json"


async def test_the_content_type_of_an_append_must_be_the_streams(streams: Engine) -> None:
    await streams.create("a", content_type=TEXT)
    with pytest.raises(Conflict) as caught:
        await streams.append("a", "x", content_type=JSON)
    assert caught.value.code == "content-type-mismatch"
    with pytest.raises(InvalidRequest):
        await streams.append("a", "x", content_type="nonsense")


async def test_a_stream_sequence_must_rise_as_bytes_do(streams: Engine) -> None:
    await streams.create("a")
    await streams.append("a", "1", seq="2")
    for seq in ("2", "10"):
        with pytest.raises(Conflict) as caught:
            await streams.append("a", "x", seq=seq)
        assert caught.value.code == "sequence-regression"
    await streams.append("a", "2", seq="3")
    assert (await streams.read("a")).data == b"12"


async def test_an_append_may_expect_the_tail(streams: Engine) -> None:
    await streams.create("a")
    first = await streams.append("a", "1", expected=START)
    second = await streams.append("a", "2", expected=first.offset)
    with pytest.raises(TailMoved) as caught:
        await streams.append("a", "x", expected=first.offset)
    assert caught.value.offset == second.offset
    assert (await streams.read("a")).data == b"12"


async def test_a_closed_stream_takes_no_more(streams: Engine) -> None:
    await streams.create("a")
    await streams.append("a", "1")
    closed = await streams.close_stream("a", "2")
    again = await streams.close_stream("a")
    assert closed.closed
    assert again.closed
    assert position(closed.offset) == position(again.offset) == 2
    with pytest.raises(StreamClosed) as caught:
        await streams.append("a", "3")
    assert position(caught.value.offset) == 2
    with pytest.raises(StreamClosed):
        await streams.close_stream("a", "3")
    batch = await streams.read("a")
    assert (batch.data, batch.closed) == (b"12", True)
    assert (await streams.head("a")).closed


async def test_a_deleted_stream_is_gone_and_its_path_is_free(streams: Engine) -> None:
    await streams.create("a", content_type=TEXT, data="old")
    await streams.delete("a")
    for call in (
        streams.head("a"),
        streams.read("a"),
        streams.append("a", "x"),
        streams.delete("a"),
    ):
        with pytest.raises(NotFound):
            await call
    created = await streams.create("a", content_type=JSON)
    assert created.created
    assert (await streams.read("a")).data == b"[]"


async def test_head_tells_what_is_known(streams: Engine) -> None:
    await streams.create("a", content_type=TEXT, expires_at="2040-01-01T01:00:00+01:00", data="x")
    await streams.create("b", ttl=60)
    head = await streams.head("a")
    assert (head.path, head.content_type, position(head.offset)) == ("a", TEXT, 1)
    assert (head.ttl, head.expires_at) == (None, "2040-01-01T00:00:00.000Z")
    assert (await streams.head("b")).ttl == 60
    assert not head.created


async def test_reads_go_page_by_page(streams: Engine) -> None:
    await streams.create("a", content_type=JSON)
    for n in range(10):
        await streams.append("a", {"n": n})
    seen, offset = [], START
    while True:
        batch = await streams.read("a", offset, limit=25)
        seen += list(batch)
        offset = batch.offset
        if batch.up_to_date:
            break
    assert seen == [{"n": n} for n in range(10)]
    at_tail = await streams.read("a", offset)
    assert (list(at_tail), at_tail.offset, at_tail.up_to_date) == ([], offset, True)


async def test_one_message_larger_than_a_page_is_served_whole(streams: Engine) -> None:
    await streams.create("a", content_type=JSON)
    await streams.append("a", ["x" * 1000])
    batch = await streams.read("a", limit=16)
    assert list(batch) == [["x" * 1000]]


async def test_now_is_the_tail(streams: Engine) -> None:
    await streams.create("a", data="old")
    batch = await streams.read("a", NOW)
    assert (batch.data, position(batch.offset), batch.up_to_date) == (b"", 3, True)


async def test_an_offset_that_the_stream_never_gave_out_is_refused(streams: Engine) -> None:
    await streams.create("a", content_type=JSON)
    tail = (await streams.append("a", {"n": 1})).offset
    cases = {
        "rubbish": "invalid-offset",
        NOT_REACHED: "offset-past-tail",
        at(tail, position(tail) + 1): "offset-past-tail",
        at(tail, 1): "offset-inside-message",
    }
    for offset, code in cases.items():
        with pytest.raises(InvalidRequest) as caught:
            await streams.read("a", offset)
        assert caught.value.code == code


async def test_streams_are_listed_in_order_and_by_page(streams: Engine) -> None:
    for path in ("b/2", "a", "b/1", "c", "b/10"):
        await streams.create(path)
    await streams.delete("c")
    assert [info.path for info in await streams.list()] == ["a", "b/1", "b/10", "b/2"]
    assert [info.path for info in await streams.list("b/")] == ["b/1", "b/10", "b/2"]
    page = await streams.list("b/", limit=2)
    assert [info.path for info in page] == ["b/1", "b/10"]
    rest = await streams.list("b/", after=page[-1].path, limit=2)
    assert [info.path for info in rest] == ["b/2"]


async def test_expired_streams_are_not_listed(streams: Engine, clock: Any) -> None:
    await streams.create("a", ttl=10)
    await streams.create("b")
    clock.advance(12)
    assert [info.path for info in await streams.list()] == ["b"]


async def test_streams_that_are_left_out_of_a_listing_are_not_looked_at_one_by_one(
    streams: Engine, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(300):
        await streams.create(f"a{n}", ttl=10)
    await streams.create("b")
    clock.advance(12)
    asked = 0
    list_rows = streams.store.list

    async def counted(prefix: str, after: str, limit: int) -> Any:
        nonlocal asked
        asked += 1
        return await list_rows(prefix, after, limit)

    monkeypatch.setattr(streams.store, "list", counted)
    assert [info.path for info in await streams.list(limit=1)] == ["b"]
    assert asked <= 3


@pytest.mark.parametrize("path", ["", "/a", "a//b", "..", "a/../b", "a\nb", "a\\b", "__ds/x"])
async def test_a_hostile_path_is_refused(streams: Engine, path: str) -> None:
    with pytest.raises(InvalidRequest):
        await streams.create(path)
    with pytest.raises(InvalidRequest):
        await streams.read(path)


@pytest.mark.parametrize(
    "lifetime, code",
    [
        ({"ttl": 1, "expires_at": "2040-01-01T00:00:00Z"}, "ttl-and-expires-at"),
        ({"ttl": -1}, "invalid-ttl"),
        ({"expires_at": "soon"}, "invalid-expires-at"),
    ],
)
async def test_a_senseless_lifetime_is_refused(streams: Engine, lifetime: Any, code: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await streams.create("a", **lifetime)
    assert caught.value.code == code


async def test_a_value_without_a_json_form_is_the_callers_error(streams: Engine) -> None:
    await streams.create("a", content_type=JSON)
    with pytest.raises(InvalidRequest):
        await streams.append("a", object())
    await streams.append("a", {"x": 1.5})
    assert math.isclose(next(iter(await streams.read("a")))["x"], 1.5)


async def test_an_engine_may_be_named_by_a_url_and_used_as_a_context() -> None:
    async with Engine("memory:") as streams:
        await streams.create("a", data="x")
        assert (await streams.read("a")).data == b"x"


async def test_an_engine_may_be_started_and_stopped_twice(memory: MemoryStore) -> None:
    engine = Engine(memory)
    await engine.stop()
    await engine.start()
    await engine.start()
    await engine.create("a", data="x")
    await engine.stop()
    await engine.stop()
    async with engine:
        assert (await engine.read("a")).data == b"x"


async def test_a_stopped_engine_says_so(store: Store) -> None:
    engine = Engine(store)
    async with engine:
        await engine.create("a")
    for call in (
        engine.append("a", "x"),
        engine.create("b"),
        engine.fork("b", "a"),
        engine.delete("a"),
        engine.head("a"),
        engine.read("a"),
        engine.list(),
    ):
        with pytest.raises(Unavailable) as caught:
            await call
        assert caught.value.code == "not-started"


async def test_an_engine_that_was_never_started_says_so(memory: MemoryStore) -> None:
    with pytest.raises(Unavailable) as caught:
        await Engine(memory).create("a")
    assert caught.value.code == "not-started"


def test_a_store_of_another_interface_is_refused_before_it_is_opened(memory: MemoryStore) -> None:
    memory.api = 99
    with pytest.raises(StoreError, match="matching versions"):
        Engine(memory)


@pytest.mark.parametrize("url", ["memory:", "file:./data"])
def test_a_store_states_the_interface_it_was_written_for(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interface, "STORE_API", interface.STORE_API + 1)
    with pytest.raises(StoreError, match="matching versions"):
        Engine(url)


def test_a_url_of_no_store_says_what_one_looks_like() -> None:
    with pytest.raises(StoreError, match="memory:, file:PATH"):
        Engine("nonsense")


async def test_a_soft_deleted_source_is_gone(streams: Engine) -> None:
    await streams.create("source", data="shared")
    await streams.fork("fork", "source")
    await streams.delete("source")
    for call in (streams.head("source"), streams.read("source"), streams.append("source", "x")):
        with pytest.raises(Gone):
            await call


async def test_deleting_and_creating_at_once_never_mixes_two_streams() -> None:
    store = MemoryStore()
    async with Engine(store) as streams:
        await streams.create("a", data="old")
        before = store.peek("a")
        await streams.delete("a")
        await streams.create("a", data="new")
        after = store.peek("a")
        assert before is not None
        assert after is not None
        assert before.head.incarnation != after.head.incarnation
        assert (await streams.read("a")).data == b"new"
