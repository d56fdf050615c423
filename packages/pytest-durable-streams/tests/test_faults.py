"""What can go wrong on demand, and that a client of ours copes with it."""

import time
from typing import Any

import httpx
import pytest

from durable_streams_client import Client, ConnectFailed, RetryPolicy, Unavailable
from pytest_durable_streams import Faults

JSON = "application/json"
QUICK = RetryPolicy(initial=0.001, maximum=0.01)
ONCE = RetryPolicy(initial=0.001, maximum=0.01, attempts=1)


@pytest.fixture
def stored(streams_client: Client) -> Any:
    """A stream of ten messages, as its server has it."""
    stream = streams_client.stream("a")
    stream.create(content_type=JSON)
    stream.append_many(range(10))
    return stream


def test_without_a_rule_nothing_goes_wrong(streams_faults: Faults, stored: Any) -> None:
    with streams_faults.client() as client:
        assert client.stream("a").read().read_items() == list(range(10))
    seen = streams_faults.requests[0]
    assert (seen.method, seen.path, seen.query) == ("GET", "a", "offset=-1")


def test_a_refused_request_changes_nothing(streams_faults: Faults, stored: Any) -> None:
    refused = streams_faults.refuse(503, retry_after=0, times=2)
    with streams_faults.client(retry=QUICK) as client:
        client.stream("a").append(10)
    assert refused.happened == 2
    assert stored.read().read_items() == list(range(11))


def test_a_refusal_is_the_answer_that_a_test_asks_for(streams_faults: Faults) -> None:
    streams_faults.refuse(429, retry_after=7)
    answer = httpx.get(streams_faults.url + "a", timeout=60)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")


def test_a_lost_request_never_arrives(streams_faults: Faults, stored: Any) -> None:
    streams_faults.lose_request()
    with streams_faults.client(retry=ONCE, safe_append=False) as client:
        with pytest.raises(Exception, match="broke"):
            client.stream("a").append(10)
    assert stored.read().read_items() == list(range(10))


def test_a_lost_response_is_that_of_a_request_that_was_carried_out(
    streams_faults: Faults, stored: Any
) -> None:
    lost = streams_faults.lose_response(method="POST")
    with streams_faults.client(retry=QUICK) as client:
        client.stream("a").append(10)
    assert lost.happened == 1
    assert [seen.method for seen in streams_faults.requests].count("POST") == 2
    assert stored.read().read_items() == list(range(11))


def test_a_repeated_request_is_carried_out_twice(streams_faults: Faults, stored: Any) -> None:
    streams_faults.repeat(method="POST")
    httpx.post(streams_faults.url + "a", content=b"10", headers={"Content-Type": JSON}, timeout=60)
    assert stored.read().read_items() == [*range(10), 10, 10]
    streams_faults.repeat(method="POST")
    with streams_faults.client() as client:
        client.stream("a").append(11)
    assert stored.read().read_items() == [*range(10), 10, 10, 11]


@pytest.mark.parametrize("live", ["sse", "long-poll"])
def test_a_response_that_is_cut_is_read_again(
    streams_faults: Faults, stored: Any, live: Any
) -> None:
    stored.close_stream()
    cuts = [streams_faults.cut(after=n, method="GET") for n in range(0, 60, 7)]
    with streams_faults.client(retry=QUICK) as client:
        assert client.stream("a").follow(live=live).read_items() == list(range(10))
    assert cuts[0].happened == 1


def test_a_cut_is_after_so_many_bytes_of_the_body(streams_faults: Faults, stored: Any) -> None:
    streams_faults.cut(after=7)
    got = b""
    with httpx.stream("GET", streams_faults.url + "a?offset=-1", timeout=60) as response:
        with pytest.raises(httpx.RemoteProtocolError):
            for piece in response.iter_raw():
                got += piece
    assert got == b"[0,\n1,\n"


def test_a_delay_comes_before_the_server_gets_the_request(
    streams_faults: Faults, stored: Any
) -> None:
    begin = time.monotonic()
    streams_faults.delay(0.05)
    with streams_faults.client() as client:
        client.stream("a").append(10)
    assert time.monotonic() - begin >= 0.05


def test_a_rule_is_for_the_requests_that_it_names(streams_faults: Faults, stored: Any) -> None:
    chats = streams_faults.refuse(500, path="chats/*", times=None)
    with streams_faults.client(retry=ONCE) as client:
        client.stream("a").head()
        for _ in range(3):
            with pytest.raises(Unavailable):
                client.stream("chats/is it?").head()
        assert chats.happened == 3
        streams_faults.clear()
        client.stream("chats/is it?").create()


def test_an_outage_refuses_connections_and_breaks_those_that_wait(
    streams_faults: Faults, stored: Any
) -> None:
    with streams_faults.client(retry=QUICK) as client:
        items = client.stream("a").follow().items()
        assert [next(items) for _ in range(10)] == list(range(10))
        with streams_faults.outage(), streams_faults.client(retry=ONCE) as other:
            with pytest.raises(ConnectFailed):
                other.stream("a").head()
        stored.append(10)
        assert next(items) == 10


async def test_async_clients_take_the_same_way(streams_faults: Faults, stored: Any) -> None:
    cut = streams_faults.cut(after=5, method="GET")
    async with streams_faults.async_client(retry=QUICK) as client:
        assert await client.stream("a").read().read_items() == list(range(10))
    assert cut.happened == 1


def test_chunked_requests_pass(streams_faults: Faults, stored: Any) -> None:
    def pieces() -> Any:
        yield b"1"
        yield b"0"

    answer = httpx.post(
        streams_faults.url + "a", content=pieces(), headers={"Content-Type": JSON}, timeout=60
    )
    assert answer.status_code == 204
    assert stored.read().read_items() == list(range(11))


@pytest.mark.parametrize(
    "request_head", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nContent-Length: -1\r\n\r\n"]
)
def test_what_is_no_request_is_cut_off(streams_faults: Faults, request_head: bytes) -> None:
    import socket

    port = httpx.URL(streams_faults.url).port
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(request_head)
        assert connection.recv(1) == b""
