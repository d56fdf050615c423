"""Requests as they are sent: names, headers, parameters and redirects; and what messages name."""

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hostile import Fault, Hostile, refuse
from wire import Wire, answer

from durable_streams_client import (
    AsyncClient,
    InvalidArgument,
    InvalidRequest,
    NotFound,
    Redirected,
    RetryPolicy,
    TimedOut,
    Timeouts,
)

QUICK = RetryPolicy(initial=0.001, maximum=0.01)
FOUND = {"Stream-Next-Offset": "1", "Content-Type": "text/plain"}


def sent(request: bytes, name: str) -> list[str]:
    """The values of a header of a request as it came."""
    lines = request.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
    fields = [line.partition(": ") for line in lines]
    return [value for field, _, value in fields if field.lower() == name.lower()]


# -- redirects -------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("method", ["head", "read", "append"])
async def test_nothing_is_sent_to_another_origin(wire: Wire, status: int, method: str) -> None:
    with Wire() as other:
        location = f"{other.url}y?secret=1"
        wire.answer = lambda request: answer(status, {"Location": location})
        other.answer = lambda request: answer(200, FOUND)
        async with AsyncClient(wire.url, headers={"X-Api-Key": "k"}, retry=QUICK) as client:
            stream = client.stream("x", content_type="text/plain")
            with pytest.raises(Redirected, match=f"redirects to {other.url}y\\.") as caught:
                if method == "head":
                    await stream.head()
                elif method == "read":
                    await stream.read().read_bytes()
                else:
                    await stream.append("1")
        assert caught.value.location == location
        assert other.requests == []
    assert len(wire.requests) == 1


@pytest.mark.parametrize("location", ["/y?offset=-1", "y?offset=-1", "{url}y?offset=-1#z", "/y"])
async def test_reads_follow_redirects_within_their_origin(wire: Wire, location: str) -> None:
    answers = [
        answer(307, {"Location": location.format(url=wire.url)}),
        answer(200, {**FOUND, "Stream-Closed": "true"}, b"1"),
    ]
    wire.answer = lambda request: answers.pop(0)
    async with AsyncClient(wire.url, headers={"X-Api-Key": "k"}, retry=QUICK) as client:
        assert await client.stream("x").read().read_bytes() == b"1"
    assert wire.requests[1].startswith(b"GET /y?offset=-1 HTTP/1.1\r\n")
    assert sent(wire.requests[1], "x-api-key") == ["k"]


@pytest.mark.parametrize("status", [307, 308])
async def test_an_append_is_sent_again_where_its_origin_redirects_it(
    wire: Wire, status: int
) -> None:
    answers = [answer(status, {"Location": "/y"}), answer(200, FOUND)]
    wire.answer = lambda request: answers.pop(0)
    async with AsyncClient(wire.url, retry=QUICK) as client:
        await client.stream("x", content_type="text/plain").append("data")
    first, second = wire.requests
    assert second.startswith(b"POST /y HTTP/1.1\r\n")
    assert second.endswith(b"\r\n\r\ndata")
    assert sent(first, "producer-seq") == sent(second, "producer-seq") == ["0"]


@pytest.mark.parametrize("status", [301, 302, 303])
async def test_a_redirect_that_would_turn_an_append_into_a_read_is_an_error(
    wire: Wire, status: int
) -> None:
    wire.answer = lambda request: answer(status, {"Location": "/y"})
    async with AsyncClient(wire.url, retry=QUICK) as client:
        with pytest.raises(Redirected, match="/y"):
            await client.stream("x", content_type="text/plain").append("data")
    assert len(wire.requests) == 1


@pytest.mark.parametrize("location", ["/x", "http://[::1", "http://other:99999/", "\\\\", "ü"])
async def test_redirects_that_lead_nowhere_are_errors(wire: Wire, location: str) -> None:
    wire.answer = lambda request: answer(302, {"Location": location})
    async with AsyncClient(wire.url, retry=QUICK) as client:
        with pytest.raises(Redirected) as caught:
            await client.stream("x").head()
    assert str(caught.value).isprintable()
    assert len(wire.requests) < 30


# -- headers and parameters ------------------------------------------------------------------------


async def test_a_later_header_replaces_an_earlier_one_whatever_its_case(wire: Wire) -> None:
    wire.answer = lambda request: answer(200, FOUND)
    async with AsyncClient(
        wire.url,
        headers=[("Authorization", "client"), ("X-Tag", "1"), ("x-tag", "2"), ("accept", "a/b")],
    ) as client:
        stream = client.stream(
            "x", headers={"authorization": "stream", "CONTENT-TYPE": "no/no"}, content_type="a/b"
        )
        await stream.append(b"1")
    [request] = wire.requests
    assert sent(request, "authorization") == ["stream"]
    assert sent(request, "x-tag") == ["1", "2"]
    assert sent(request, "accept") == ["a/b"]
    assert sent(request, "content-type") == ["a/b"]


async def test_a_value_of_none_is_left_out(wire: Wire) -> None:
    wire.answer = lambda request: answer(200, FOUND)

    async def token() -> str | None:
        return None

    async with AsyncClient(
        wire.url, headers={"Authorization": token, "A": None}, params={"b": token, "c": 3}
    ) as client:
        await client.stream("x").head()
    [request] = wire.requests
    assert request.startswith(b"HEAD /x?c=3 HTTP/1.1\r\n")
    assert sent(request, "authorization") == sent(request, "a") == []


@pytest.mark.parametrize("value", ["ü", "a\nb", "a\r\nX: y", "\ud800", "\x00"])
async def test_a_header_that_cannot_be_sent_is_named(wire: Wire, value: str) -> None:
    async def token() -> str:
        return value

    with pytest.raises(InvalidArgument, match="X-Name"):
        AsyncClient(wire.url, headers={"X-Name": value})
    async with AsyncClient(wire.url, headers={"X-Name": token}) as client:
        with pytest.raises(InvalidArgument, match="X-Name"):
            await client.stream("x").head()
    async with AsyncClient(wire.url) as client:
        with pytest.raises(InvalidArgument, match="Stream-Seq"):
            await client.stream("x", content_type="text/plain").append("1", seq=value)
    assert wire.requests == []


@pytest.mark.parametrize("name", ["", "a b", "ü", "a:", "a\n", "Content-Length"])
async def test_a_name_that_no_header_has_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument):
        AsyncClient("http://h/", headers={name: "1"})


@pytest.mark.parametrize("name", ["offset", "live", "cursor"])
async def test_parameters_of_the_protocol_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match=name):
        AsyncClient("http://h/", params={name: "1"})
    async with AsyncClient("http://h/") as client:
        with pytest.raises(InvalidArgument, match=name):
            client.stream("a", params={name: "1"})
        with pytest.raises(InvalidArgument, match=name):
            client.stream(f"http://h/a?x=1&{name}=1")


# -- names -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name,target",
    [
        ("is it done?", b"/v1/is%20it%20done%3F"),
        ("100%41", b"/v1/100%2541"),
        ("a#b", b"/v1/a%23b"),
        ("a?offset=5", b"/v1/a%3Foffset=5"),
        ("%2e%2e", b"/v1/%252e%252e"),
        ("chats/42", b"/v1/chats/42"),
        ("/ü[1]", b"/v1/%C3%BC%5B1%5D"),
        ("a\\b\n", b"/v1/a%5Cb%0A"),
        ("{url}v1/a%41?token=t", b"/v1/a%41?token=t"),
    ],
)
async def test_a_name_is_literal_and_a_url_is_a_url(wire: Wire, name: str, target: bytes) -> None:
    wire.answer = lambda request: answer(200, FOUND)
    async with AsyncClient(f"{wire.url}v1") as client:
        await client.stream(name.format(url=wire.url)).head()
    assert wire.requests[0].split(b" ")[1] == target


@pytest.mark.parametrize("name", ["", "\ud800", "a/../b", "http://h/a#b", "http://h/\ud800"])
async def test_a_name_that_no_stream_has_is_refused(name: str) -> None:
    async with AsyncClient("http://h/v1/") as client:
        with pytest.raises(InvalidArgument):
            client.stream(name)


@pytest.mark.parametrize(
    "base,complaint",
    [
        ("localhost:4437", "'localhost:4437' does not begin with http://"),
        ("//localhost/", "does not begin with http://"),
        ("ftp://localhost/", "does not begin with http://"),
        ("http://h/v1?a=b", "query or a fragment"),
        ("http://h/v1?", "query or a fragment"),
        ("http://h/v1#a", "query or a fragment"),
        ("http://", "not the URL of a server"),
        ("http://h:0/", "not the URL of a server"),
        ("http://h:99999/", "not the URL of a server"),
        ("http://[::1/", "not the URL of a server"),
        ("http://\ud800/", "not Unicode"),
    ],
)
async def test_a_base_url_that_cannot_be_one_is_refused_at_once(base: str, complaint: str) -> None:
    with pytest.raises(InvalidArgument, match=complaint):
        AsyncClient(base)


async def test_a_stream_without_a_base_url_says_what_is_missing() -> None:
    async with AsyncClient() as client:
        with pytest.raises(InvalidArgument, match="does not begin with http://"):
            client.stream("localhost:4437/a")


async def test_what_is_shown_of_a_client_holds_no_secrets() -> None:
    async with AsyncClient("http://user:word@h/v1/") as client:
        stream = client.stream("http://user:word@h/v1/a?token=t")
        shown = f"{client!r} {stream!r} {stream.producer()!r}"
    assert "http://h/v1/a" in shown
    assert "word" not in shown
    assert "token" not in shown


@pytest.mark.parametrize("zone", [timedelta(hours=5, minutes=30, seconds=15), timedelta(hours=-12)])
async def test_moments_are_sent_in_utc(server: Hostile, zone: timedelta) -> None:
    moment = datetime(2030, 1, 2, tzinfo=timezone(zone))
    async with AsyncClient(server.url) as client:
        await client.stream("a").create(expires_at=moment)
        told = (await client.stream("a").head()).expires_at
        with pytest.raises(InvalidArgument, match="range"):
            await client.stream("b").create(
                expires_at=datetime.max.replace(tzinfo=timezone(timedelta(hours=-1)))
            )
    assert told is not None
    assert told.endswith("+00:00")
    assert datetime.fromisoformat(told) == moment


# -- messages --------------------------------------------------------------------------------------


async def test_the_total_time_limit_names_the_request(
    server: Hostile, caplog: pytest.LogCaptureFixture
) -> None:
    server.put("a", b"1")
    server.faults = lambda asked: Fault(stall=True)
    limits = Timeouts(total=0.1)
    async with AsyncClient(server.url, timeouts=limits) as client:
        with pytest.raises(TimedOut, match=f"GET {server.url}a"):
            await client.stream("a").read().read_bytes()
        with pytest.raises(TimedOut, match=f"HEAD {server.url}a"):
            await client.stream("a").head()
    assert all(not record.getMessage().startswith(" ") for record in caplog.records)


async def test_every_line_of_the_log_begins_with_what_happened(
    server: Hostile, caplog: pytest.LogCaptureFixture
) -> None:
    server.put("a", b"1")
    stalled = Timeouts(first_event=0.05)
    server.faults = lambda asked: (
        Fault(stall=True) if asked.live == "sse" else refuse(503) if asked.count == 1 else None
    )
    async with AsyncClient(server.url, timeouts=stalled, retry=QUICK) as client:
        reader = client.stream("a").follow()
        assert (await anext(reader)).data == b"1"
        server.write("a", b"2", close=True)
        assert await reader.read_bytes() == b"2"
    messages = [record.getMessage() for record in caplog.records]
    assert messages
    assert all(f"(GET {server.url}a" in message for message in messages), messages


async def test_a_wrong_root_is_not_taken_for_a_missing_stream(wire: Wire) -> None:
    problem = b'{"code":"not-a-stream","detail":"Streams live under /v1/stream/."}'
    wire.answer = lambda request: answer(404, {"Content-Type": "application/problem+json"}, problem)
    async with AsyncClient(wire.url) as client:
        with pytest.raises(NotFound, match="Check the client's base URL") as caught:
            await client.stream("a").read().read_bytes()
    assert "Create the stream" not in str(caught.value)


async def test_a_redirect_without_a_target_is_a_refusal(wire: Wire) -> None:
    wire.answer = lambda request: answer(302, {})
    async with AsyncClient(wire.url) as client:
        with pytest.raises(InvalidRequest):
            await client.stream("a").head()


# -- options ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["timeouts", "retry", "on_retry", "tracing"])
@pytest.mark.parametrize("value", [0, 5, True, "yes"])
def test_an_option_of_another_type_is_refused_at_once(name: str, value: object) -> None:
    options: dict[str, Any] = {name: value}
    with pytest.raises(InvalidArgument, match=f"^{name} must be"):
        AsyncClient("http://127.0.0.1", **options)
