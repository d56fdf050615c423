"""The receiving machine: bytes in; request heads, bodies, ends and errors out."""

import ast
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from raw_corpus import CASES, END, GET, H2C, LAST, POST

import durable_streams_server.http
from durable_streams_core.errors import ProtocolError
from durable_streams_server.frontends.standalone import Bounds
from durable_streams_server.frontends.standalone.receiver import BODY_END, Event, Receiver
from durable_streams_server.frontends.standalone.request_head import CHUNKED, ReceivedHead
from durable_streams_server.http.messages import KNOWN_HEADERS

CHUNKS = POST + b"Transfer-Encoding: chunked\r\n\r\n"


def events(*pieces: bytes, bounds: Bounds | None = None) -> list[Event]:
    receiver = Receiver(bounds or Bounds())
    found: list[Event] = []
    for piece in pieces:
        receiver.feed(piece)
        while (event := receiver.next()) is not None:
            found.append(event)
    return found


def summary(found: list[Event]) -> list[object]:
    """What events say, however the bytes were cut; pieces of a body after an error do not count."""
    said: list[object] = []
    for event in found:
        match event:
            case ReceivedHead():
                said.append((event.method, event.target, event.headers, event.keep_alive))
                said.append(event.body or b"")
                if event.body is not None:
                    said.append("end")
            case bytes():
                assert isinstance(said[-1], bytes)
                said[-1] += event
            case ProtocolError():
                if said and isinstance(said[-1], bytes):
                    said.pop()
                said.append((event.status, event.code))
            case _:
                said.append("end")
    return said


def head_of(raw: bytes) -> ReceivedHead:
    head = events(raw)[0]
    assert isinstance(head, ReceivedHead)
    return head


def error_of(*pieces: bytes, bounds: Bounds | None = None) -> tuple[int, str]:
    error = events(*pieces, bounds=bounds)[-1]
    assert isinstance(error, ProtocolError)
    return error.status, error.code


def test_a_head_brings_a_body_that_is_all_there() -> None:
    head = head_of(POST + b"Content-Length: 2\r\n\r\nhi")
    assert (head.method, head.target, head.length, head.body) == ("POST", "/v1/stream/s", 2, b"hi")
    assert head.headers[b"content-type"] == b"text/plain"


def test_a_body_that_comes_later_comes_in_pieces_with_an_end() -> None:
    found = events(POST + b"Content-Length: 4\r\n\r\na", b"bc", b"d" + GET + END)
    head, *pieces, end, other = found
    assert isinstance(head, ReceivedHead)
    assert head.body is None
    assert pieces == [b"a", b"bc", b"d"]
    assert end is BODY_END
    assert isinstance(other, ReceivedHead)


def test_all_chunks_that_have_come_are_one_piece() -> None:
    head, piece, end = events(CHUNKS + b"2\r\nhi\r\n" * 3 + LAST)
    assert isinstance(head, ReceivedHead)
    assert head.length == CHUNKED
    assert (piece, end) == (b"hihihi", BODY_END)


def test_only_known_headers_are_read_until_all_are_asked_for() -> None:
    head = head_of(
        GET + b"Traceparent: 00-1\r\nX-A: 1\r\nx-a: 2\r\nACCEPT-Encoding:\t gzip \r\n\r\n"
    )
    assert head.headers == {b"host": b"x", b"accept-encoding": b"gzip"}
    assert head.all_headers() == {
        b"host": b"x", b"traceparent": b"00-1", b"x-a": b"1, 2", b"accept-encoding": b"gzip",
    }  # fmt: skip


def test_every_header_that_the_handler_reads_is_known() -> None:
    """A header that is not listed would be missing on this front end alone."""
    package = Path(durable_streams_server.http.__file__).parent
    for module in package.glob("*.py"):
        for node in ast.walk(ast.parse(module.read_text())):
            name = read_header(node)
            assert name is None or name in KNOWN_HEADERS, f"{module.name} reads {name!r}"


def read_header(node: ast.AST) -> bytes | None:
    """The header that an expression reads: ``headers.get(b"…")``, ``request.text(b"…")``."""
    match node:
        case ast.Call(
            func=ast.Attribute(
                value=ast.Name(id="headers") | ast.Attribute(attr="headers"), attr="get"
            )
            | ast.Attribute(attr="text"),
            args=[ast.Constant(value=bytes(name)), *_],
        ):
            return name
        case ast.Subscript(
            value=ast.Name(id="headers") | ast.Attribute(attr="headers"),
            slice=ast.Constant(value=bytes(name)),
        ):
            return name
        case _:
            return None


def test_an_upgrade_is_ignored() -> None:
    head = head_of(POST + H2C + b"Content-Length: 2\r\n\r\nhi")
    assert (head.body, head.keep_alive) == (b"hi", True)


@pytest.mark.parametrize(
    "junk", [b"\x16\x03\x01\x02", b"GET / HTTP/1.1\nHost", b"GET /\rx", b"\x00"]
)
def test_bytes_that_stand_in_no_head_are_refused_before_it_ends(junk: bytes) -> None:
    assert error_of(junk) == (400, "malformed-request")


def test_a_bare_line_feed_is_not_joined_with_a_return_that_ended_a_body() -> None:
    assert error_of(POST + b"Content-Length: 1\r\n\r\n\r\n\r\n") == (400, "malformed-request")


def test_a_head_has_a_bound_whether_it_ends_or_not() -> None:
    bounds = Bounds(max_header=100, max_target=40)
    assert isinstance(
        events(GET + b"X: " + b"y" * 80 + b"\r\n\r\n", bounds=bounds)[0], ReceivedHead
    )
    for ending in (b"", b"\r\n\r\n"):
        assert error_of(GET + b"X: " + b"y" * 300 + ending, bounds=bounds)[0] == 431
    assert error_of(b"GET /" + b"s" * 300, bounds=bounds)[0] == 414
    assert error_of(GET.replace(b"/s ", b"/" + b"s" * 40 + b" ") + END, bounds=bounds)[0] == 414


def test_nothing_follows_an_error() -> None:
    assert len(events(GET + b"X : y\r\n\r\n", GET + END)) == 1


def test_an_idle_receiver_holds_no_bytes() -> None:
    receiver = Receiver(Bounds())
    receiver.feed(GET + END)
    assert isinstance(receiver.next(), ReceivedHead)
    assert receiver.next() is None
    assert receiver.buffered == 0


def test_what_was_not_asked_for_is_kept() -> None:
    receiver = Receiver(Bounds())
    receiver.feed((GET + END) * 3)
    receiver.next()
    assert receiver.buffered == 2 * len(GET + END)


@given(data=st.data())
def test_how_bytes_are_cut_makes_no_difference(data: st.DataObject) -> None:
    cases = data.draw(st.lists(st.sampled_from(CASES), min_size=1, max_size=3))
    raw = b"".join(case.raw for case in cases)
    places = sorted(data.draw(st.sets(st.integers(1, len(raw)), max_size=8)))
    pieces = [raw[a:b] for a, b in pairwise([0, *places, len(raw)])]
    assert summary(events(*pieces)) == summary(events(raw))
