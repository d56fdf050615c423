"""The meaning of a transport's exceptions, whichever library raises them."""

import math

import httpcore
import httpx
import pytest

from durable_streams_client.encoding import encode_bytes, encode_message, response_kind
from durable_streams_client.errors import (
    ClientClosed,
    ConnectFailed,
    ConnectionLost,
    InvalidArgument,
    NoFreeConnection,
    NotUsableHere,
    TimedOut,
    is_retryable,
    is_unapplied,
)
from durable_streams_client.transport_errors import transport_error_of
from durable_streams_core.content import Kind


@pytest.mark.parametrize(
    "error,kind",
    [
        (httpx.ConnectError("no"), ConnectFailed),
        (httpx.ConnectTimeout("no"), ConnectFailed),
        (httpcore.ConnectError("no"), ConnectFailed),
        (httpx.PoolTimeout("no"), NoFreeConnection),
        (httpx.ReadTimeout("no"), TimedOut),
        (httpcore.WriteTimeout("no"), TimedOut),
        (httpx.RemoteProtocolError("no"), ConnectionLost),
        (httpcore.RemoteProtocolError("no"), ConnectionLost),
        (httpx.DecodingError("no"), ConnectionLost),
        (ConnectionResetError("no"), ConnectionLost),
        (httpx.LocalProtocolError("no"), InvalidArgument),
        (httpx.UnsupportedProtocol("no"), InvalidArgument),
        (RuntimeError("Event loop is closed"), NotUsableHere),
        (RuntimeError("<Lock> is bound to a different event loop"), NotUsableHere),
        (RuntimeError("Cannot send a request, as the client has been closed."), ClientClosed),
    ],
)
def test_every_fault_of_a_transport_is_one_of_ours(error: Exception, kind: type) -> None:
    fault = transport_error_of(error, method="GET", url="http://u:p@h/a?b=c")
    assert type(fault) is kind
    assert "http://h/a" in str(fault)
    assert is_retryable(fault) == isinstance(fault, (ConnectFailed, TimedOut, ConnectionLost))
    unapplied = (ConnectFailed, InvalidArgument, NoFreeConnection)
    assert is_unapplied(fault) == isinstance(fault, unapplied)


def test_other_exceptions_are_not_ours() -> None:
    assert transport_error_of(ZeroDivisionError(), method="GET", url="http://h/") is None
    assert (
        transport_error_of(RuntimeError("of another kind"), method="GET", url="http://h/") is None
    )


def test_json_that_only_the_standard_library_takes() -> None:
    assert encode_message(b'"\\ud800"') == b'"\\ud800"'


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_does_not_have_are_refused(number: float) -> None:
    for value in (number, {"x": [number]}, (1, number)):
        with pytest.raises(InvalidArgument, match="cannot be written as JSON"):
            encode_message(value)
    assert encode_message({"x": None}) == b'{"x":null}'


def test_lone_surrogates_are_written_as_escapes() -> None:
    assert encode_message({"d": "\ud83d"}) == rb'{"d":"\ud83d"}'


@pytest.mark.parametrize("text", [b"1,2", b"1],[2", b"", b"1 2", b"NaN", b"[1,]"])
def test_bytes_that_are_not_one_json_value_are_refused(text: bytes) -> None:
    with pytest.raises(InvalidArgument, match="not JSON text"):
        encode_message(text)


def test_text_and_types_that_are_none() -> None:
    with pytest.raises(InvalidArgument, match="Unicode"):
        encode_bytes("\ud800")
    assert encode_bytes(memoryview(b"x")) == b"x"
    assert response_kind("what is this") is Kind.BINARY
