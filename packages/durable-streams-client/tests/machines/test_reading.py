"""The reader's machine against any server: the stream exactly once, whatever is cut where."""

import json
from base64 import b64encode
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durable_streams_client.errors import ConnectionLost, MalformedResponse, NotFound
from durable_streams_client.messages import ResponseHead
from durable_streams_client.reading import MAX_SHORT, SSE_AGAIN_SECONDS, Mode, ReaderMachine
from durable_streams_client.retry import Backoff, RetryPolicy

URL = "http://x/a"
BINARY = "application/octet-stream"


def machine(live: str | None = "auto", offset: str = "-1") -> ReaderMachine:
    backoff = Backoff(RetryPolicy(), None, lambda: 1.0)
    return ReaderMachine(URL, offset, live, backoff)  # type: ignore[arg-type]


def head(
    offset: int, *, status: int = 200, tail: bool = False, closed: bool = False
) -> ResponseHead:
    headers = {"stream-next-offset": f"{offset:04d}", "content-type": BINARY}
    if tail:
        headers["stream-up-to-date"] = "true"
    if closed:
        headers["stream-closed"] = "true"
    return ResponseHead(status, headers)


SSE = ResponseHead(200, {"content-type": "text/event-stream", "stream-sse-data-encoding": "base64"})


@given(
    stream=st.binary(min_size=1, max_size=60),
    live=st.sampled_from(["auto", "sse", "long-poll"]),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=300, deadline=None)
def test_the_stream_exactly_once(stream: bytes, live: str, seed: int) -> None:
    chance = Random(seed)
    reader = machine(live)
    now, got, written = 0.0, b"", 0
    for _ in range(2000):
        fetch = reader.next(now)
        if fetch is None:
            break
        now += fetch.delay + chance.choice([0.0, 2.0])
        asked = dict(fetch.params)["offset"]
        start = 0 if asked == "-1" else int(asked)
        assert start == len(got), "a reader asks for what comes after what it has"
        written = chance.randint(max(written, start), len(stream))
        end = chance.randint(start, written)
        closed = end == len(stream)
        if chance.randint(0, 4) == 0:
            assert reader.failed(ConnectionLost("cut"), None, now) is not None
            continue
        if fetch.mode is not Mode.SSE:
            status = 204 if fetch.mode is Mode.LONG_POLL and end == start else 200
            answer = head(end, status=status, tail=end == written, closed=closed)
            page = reader.page(answer, stream[start:end], now)
            got += page.data if page else b""
            continue
        reader.opened(SSE, now)
        wire = b""
        at = start
        while at < end:
            step = chance.randint(at + 1, end)
            done = {"streamNextOffset": f"{step:04d}", "streamClosed": step == len(stream)}
            wire += b"event: data\ndata: %b\n\n" % b64encode(stream[at:step])
            wire += b"event: control\ndata: %b\n\n" % json.dumps(done).encode()
            at = step
        wire = wire[: chance.randint(0, len(wire))]
        while wire and not reader.closed:
            size = chance.randint(1, len(wire))
            for page in reader.events(wire[:size]):
                got += page.data
                assert page.offset == f"{len(got):04d}"
            wire = wire[size:]
        now += chance.choice([0.0, 5.0])
        reader.cut(now)
    else:
        assert got == stream[: len(got)]
        return
    assert got == stream
    assert reader.closed


def caught_up(live: str = "auto") -> ReaderMachine:
    reader = machine(live)
    reader.next(0.0)
    reader.page(head(1, tail=True), b"x", 0.0)
    return reader


def test_sse_is_tried_again_after_a_while() -> None:
    reader = caught_up()
    now = 0.0
    for _ in range(MAX_SHORT):
        fetch = reader.next(now)
        assert fetch is not None
        assert fetch.mode is Mode.SSE
        reader.opened(SSE, now)
        reader.cut(now)
    fetch = reader.next(now)
    assert fetch is not None
    assert fetch.mode is Mode.LONG_POLL
    fetch = reader.next(now + SSE_AGAIN_SECONDS)
    assert fetch is not None
    assert fetch.mode is Mode.SSE


def test_long_sse_answers_are_followed_by_the_next_at_once() -> None:
    reader = caught_up()
    for turn in range(10):
        fetch = reader.next(turn * 60.0)
        assert fetch is not None
        assert (fetch.mode, fetch.delay) == (Mode.SSE, 0.0)
        reader.opened(SSE, turn * 60.0)
        reader.events(b'event: control\ndata: {"streamNextOffset":"0001","upToDate":true}\n\n')
        reader.cut(turn * 60.0 + 59)


def test_sse_that_was_asked_for_stays() -> None:
    reader = caught_up("sse")
    for turn in range(10):
        fetch = reader.next(0.0)
        assert fetch is not None
        assert fetch.mode is Mode.SSE
        assert (fetch.delay > 0) == (turn > 0), "and is not asked for without a pause"
        reader.opened(SSE, 0.0)
        reader.silent(0.0) if turn % 2 else reader.cut(0.0)


@pytest.mark.parametrize("held", [2.0, 30.0])
@pytest.mark.parametrize("live", ["sse", "long-poll", "auto"])
def test_cuts_of_connections_that_worked_neither_escalate_nor_end_a_reader(
    live: str, held: float
) -> None:
    """A proxy that ends every connection after a while, on a stream where nothing happens."""
    reader = caught_up(live)
    reader.backoff.attempts = 1
    now = 0.0
    for _ in range(20):
        fetch = reader.next(now)
        assert fetch is not None
        assert fetch.delay <= RetryPolicy().initial
        now += fetch.delay
        if fetch.mode is Mode.SSE:
            reader.opened(SSE, now)
            reader.events(b'event: control\ndata: {"streamNextOffset":"0001","upToDate":true}\n\n')
        now += held
        assert reader.failed(ConnectionLost("cut"), None, now) is not None
    assert fetch.mode is (Mode.LONG_POLL if live == "long-poll" else Mode.SSE)


@pytest.mark.parametrize("live", ["sse", "long-poll"])
def test_connections_that_do_not_work_are_tried_ever_less_often(live: str) -> None:
    reader = caught_up(live)
    reader.backoff.attempts = 5
    delays = []
    for _ in range(5):
        assert reader.next(0.0) is not None
        delays.append(reader.failed(ConnectionLost("refused"), None, 0.0))
    assert delays == [0.1, 0.2, 0.4, 0.8, None]


def test_polls_answered_at_once_with_nothing_are_spaced_out() -> None:
    reader = caught_up("long-poll")
    delays = []
    for _ in range(6):
        fetch = reader.next(0.0)
        assert fetch is not None
        delays.append(fetch.delay)
        reader.page(head(1, status=204, tail=True), b"", fetch.delay)
    assert delays == [0.0, 0.1, 0.2, 0.4, 0.8, 1.6]


def test_what_cannot_be_repeated_is_raised() -> None:
    reader = caught_up()
    assert reader.failed(NotFound("gone", status=404), None, 0.0) is None
    with pytest.raises(MalformedResponse):
        reader.page(ResponseHead(206, {"stream-next-offset": "2"}), b"", 0.0)


def test_the_cursor_is_echoed() -> None:
    reader = machine("long-poll")
    reader.next(0.0)
    answer = head(1, tail=True)
    reader.page(ResponseHead(200, {**answer.headers, "stream-cursor": "7"}), b"x", 0.0)
    fetch = reader.next(0.0)
    assert fetch is not None
    assert dict(fetch.params) == {"offset": "0001", "live": "long-poll", "cursor": "7"}
