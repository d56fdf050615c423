import inspect
from typing import Any

import pytest

from durable_streams_core import errors, protocol
from durable_streams_core.errors import (
    Conflict,
    DurableStreamsError,
    Fenced,
    Gone,
    InvalidRequest,
    NotFound,
    PreconditionFailed,
    ProtocolError,
    SequenceGap,
    StoreError,
    StreamClosed,
    TailMoved,
    Unavailable,
)
from durable_streams_core.offsets import NO_TIMELINE, Offset
from durable_streams_core.sse import SseError

TREE = [cls for _, cls in inspect.getmembers(errors, inspect.isclass) if issubclass(cls, Exception)]


def test_there_is_one_tree() -> None:
    assert all(issubclass(cls, DurableStreamsError) for cls in [*TREE, SseError])
    assert not issubclass(StoreError, ProtocolError)


@pytest.mark.parametrize(
    "error, status, code",
    [
        (ProtocolError("x"), 500, "internal-error"),
        (InvalidRequest("x"), 400, "invalid-request"),
        (NotFound("x"), 404, "not-found"),
        (Gone("x"), 410, "gone"),
        (Conflict("x"), 409, "conflict"),
        (StreamClosed(Offset(NO_TIMELINE, 5)), 409, "stream-closed"),
        (SequenceGap(3, 5), 409, "producer-sequence-gap"),
        (Fenced(4), 403, "producer-fenced"),
        (PreconditionFailed(), 412, "precondition-failed"),
        (TailMoved(5), 412, "tail-moved"),
        (Unavailable("x"), 503, "unavailable"),
    ],
)
def test_each_has_its_status_and_code(error: Any, status: int, code: str) -> None:
    assert (error.status, error.code) == (status, code)
    assert error.message == str(error) != ""


def test_status_and_code_can_be_said_more_closely() -> None:
    error = InvalidRequest("x", code="path-too-long", status=414, headers={"A": "b"})
    assert (error.status, error.code, error.headers) == (414, "path-too-long", {"A": "b"})
    assert (InvalidRequest.status, InvalidRequest.code) == (400, "invalid-request")


def test_a_closed_stream_tells_its_final_offset() -> None:
    assert StreamClosed(Offset(NO_TIMELINE, 5)).headers == {
        protocol.STREAM_NEXT_OFFSET: "0000000000000000_0000000000000005",
        protocol.STREAM_CLOSED: "true",
    }


def test_a_gap_tells_what_was_expected_and_what_came() -> None:
    assert SequenceGap(3, 5).headers == {
        protocol.PRODUCER_EXPECTED_SEQ: "3",
        protocol.PRODUCER_RECEIVED_SEQ: "5",
    }


def test_a_fenced_producer_learns_the_epoch_that_counts() -> None:
    assert Fenced(4).headers == {protocol.PRODUCER_EPOCH: "4"}
    assert "epoch 5" in str(Fenced(4))


def test_a_moved_tail_is_told() -> None:
    moved = TailMoved(Offset(NO_TIMELINE, 5))
    assert moved.offset == "0000000000000000_0000000000000005"
    assert moved.headers == {protocol.STREAM_NEXT_OFFSET: moved.offset}


def test_trouble_says_when_to_come_back_unless_nobody_knows() -> None:
    assert Unavailable("x").headers == {"Retry-After": "1"}
    assert Unavailable("x", retry_after=7, status=504, code="y").headers == {"Retry-After": "7"}
    assert Unavailable("x", retry_after=None).headers == {}
