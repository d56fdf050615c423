"""Server-Sent Events, both ends: what was encoded is what is decoded, however it was cut (§5.8)."""

import json
import re
from base64 import b64decode
from itertools import pairwise
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from durable_streams_core.content import Kind, to_stored
from durable_streams_core.sse import (
    KEEP_ALIVE,
    Control,
    SseDecoder,
    SseError,
    SseEvent,
    encode_control,
    encode_data,
    encode_id,
)

OFFSET = "0000000000000000_0000000000000005"

hostile = st.lists(
    st.sampled_from(["\r", "\n", "\r\n", "\n\n", "data:", "event: control\n", "data: ", ":", " ", "id: 1",
                     "\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x00", "\ufeff", "retry: 0", "x", "ü😀"])
).map("".join)  # fmt: skip
texts = hostile | st.text()


def decode(stream: Any, cuts: Any = ()) -> Any:
    decoder = SseDecoder()
    bounds = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    return [event for begin, end in pairwise(bounds) for event in decoder.feed(stream[begin:end])]


def lines(text: Any) -> Any:
    """Text as any event stream can carry it: each line end is one LF."""
    return re.sub("\r\n|\r", "\n", text)


cuts = st.lists(st.integers(0, 10_000), max_size=12)


@given(st.lists(texts), cuts)
@example(["\r", "\n"], [])
@example([" a", "b\n c", "\n", "  "], [1])
def test_cr_or_lf_in_the_payload_forges_no_events(payloads: Any, where: Any) -> None:
    stream = b"".join(encode_data(Kind.TEXT, text.encode()) for text in payloads)
    assert decode(stream, where) == [SseEvent("data", lines(text)) for text in payloads]


@given(st.lists(st.lists(texts | st.lists(texts), min_size=1, max_size=4), max_size=3), cuts)
def test_json_comes_back_as_the_same_values(bodies: Any, where: Any) -> None:
    stored = [to_stored(Kind.JSON, json.dumps(body, ensure_ascii=False).encode("utf-8", "replace"))
              for body in bodies]  # fmt: skip
    stream = b"".join(encode_data(Kind.JSON, one) for one in stored)
    assert [json.loads(event.data) for event in decode(stream, where)] == bodies


@given(st.lists(st.binary()), cuts)
def test_binary_goes_as_base64_and_not_as_broken_utf_8(payloads: Any, where: Any) -> None:
    stream = b"".join(encode_data(Kind.BINARY, data) for data in payloads)
    assert [b64decode(event.data, validate=True) for event in decode(stream, where)] == payloads


def test_text_that_is_no_text_can_be_asked_for_as_base64() -> None:
    (event,) = decode(encode_data(Kind.TEXT, b"\xff", base64=True))
    assert event == SseEvent("data", "/w==")


def test_no_data_is_an_event_with_no_data() -> None:
    for kind, data in ((Kind.BINARY, ""), (Kind.TEXT, ""), (Kind.JSON, "[]")):
        assert decode(encode_data(kind, b"")) == [SseEvent("data", data)]


@given(st.booleans(), st.booleans(), st.none() | st.integers(0).map(str), cuts)
def test_a_control_event_says_what_was_said(
    up_to_date: Any, closed: Any, cursor: Any, where: Any
) -> None:
    encoded = encode_control(OFFSET, cursor=cursor, up_to_date=up_to_date, closed=closed)
    (event,) = decode(encoded, where)
    assert event.event == "control"
    assert msgspec.json.decode(event.data, type=Control) == Control(
        OFFSET, None if closed else cursor, up_to_date, closed
    )


def test_a_control_event_has_only_what_holds() -> None:
    (event,) = decode(encode_control(OFFSET, cursor=None, up_to_date=False, closed=False))
    assert json.loads(event.data) == {"streamNextOffset": OFFSET}


def test_a_control_event_of_a_later_version_can_be_read() -> None:
    data = b'{"streamNextOffset":"x","somethingNew":[1]}'
    assert msgspec.json.decode(data, type=Control) == Control("x")


def test_comments_keep_a_connection_alive_and_are_no_events() -> None:
    assert decode(KEEP_ALIVE * 3 + encode_data(Kind.TEXT, b"x") + KEEP_ALIVE) == [
        SseEvent("data", "x")
    ]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_lines_may_end_in_any_of_three_ways(end: bytes) -> None:
    stream = end.join([b"event: data", b"data: a", b"data:b", b"data", b"", b"data: c", b"", b""])
    wanted = [SseEvent("data", "a\nb\n"), SseEvent("message", "c")]
    assert decode(stream) == wanted
    assert decode(stream, range(len(stream))) == wanted


def test_lines_do_not_end_at_u_2028_or_what_else_python_splits_at() -> None:
    text = "a\u2028b\u2029c\x85d\x0be\x0cf\x1cg"
    assert decode(f"data: {text}\n\n".encode()) == [SseEvent("message", text)]


def test_an_event_that_the_input_ends_inside_of_is_not_delivered() -> None:
    whole = encode_data(Kind.TEXT, b"x")
    for end in range(len(whole)):
        assert decode(whole[:end]) == []


def test_what_is_no_data_or_event_field_is_passed_over() -> None:
    stream = b"id: 7\nretry: 10\nunknown: x\nDATA: x\n:comment\nevent: lost\n\ndata: kept\n\n"
    assert decode(stream) == [SseEvent("message", "kept")]


def test_a_byte_order_mark_at_the_beginning_is_none_of_the_data() -> None:
    mark = "\ufeff".encode()
    assert decode(mark + b"data: x\n\n" + mark + b"data: y\n\n") == [SseEvent("message", "x")]
    assert decode(mark + b"data: x\n\n", range(12)) == [SseEvent("message", "x")]


@pytest.mark.parametrize("stream", [b"data: \xff\n\n", b"event: \xc3\n"])
def test_what_is_no_utf_8_is_an_error(stream: bytes) -> None:
    with pytest.raises(SseError, match="not UTF-8"):
        decode(stream)


def test_a_character_cut_in_two_by_the_network_is_whole_again() -> None:
    stream = "data: 😀\n\n".encode()
    for cut in range(len(stream)):
        assert decode(stream, [cut]) == [SseEvent("message", "😀")]


@pytest.mark.parametrize(
    "chunks",
    [[b"x" * 101], [b"data: " + b"x" * 50, b"x" * 50], [b"data: " + b"x" * 30 + b"\n"] * 4],
)
def test_an_event_beyond_the_limit_is_an_error_before_memory_is_full(chunks: Any) -> None:
    feed = SseDecoder(max_event_bytes=100).feed
    with pytest.raises(SseError, match="larger than 100 bytes"):
        list(map(feed, chunks))


def test_events_within_the_limit_may_come_without_end_and_in_any_chunks() -> None:
    decoder = SseDecoder(max_event_bytes=100)
    assert decoder.feed(b"data: " + b"x" * 80) == []
    for _ in range(50):
        assert len(decoder.feed(b"\n\ndata: " + b"x" * 80)) == 1
    assert len(decoder.feed(b"\n\n" + b"data: " + b"y" * 90 + b"\n\n")) == 2


@given(st.binary(), cuts)
def test_cutting_changes_nothing_whatever_comes(stream: Any, where: Any) -> None:
    try:
        whole = decode(stream)
    except SseError:
        with pytest.raises(SseError):
            decode(stream, where)
        return
    assert decode(stream, where) == whole


def test_feeding_nothing_is_nothing() -> None:
    decoder = SseDecoder()
    decoder.feed(b"data: x\r")
    assert decoder.feed(b"") == []
    assert decoder.feed(b"\n") == []
    assert decoder.feed(b"\r\n") == [SseEvent("message", "x")]


def test_an_id_goes_before_the_event_it_belongs_to() -> None:
    (event,) = decode(encode_id(OFFSET) + encode_data(Kind.TEXT, b"x"))
    assert event == SseEvent("data", "x")
    assert encode_id(OFFSET) == f"id: {OFFSET}\n".encode()
