"""The access log: one line for each request, the client behind trusted proxies, and no secrets."""

import json
import logging
from collections.abc import Awaitable, Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from observing import Recorder
from wire import Client, request_bytes

from durable_streams_server.operations.access_log import LOGGER, AccessLog, Entry, redacted
from durable_streams_server.operations.clients import TrustedProxies
from durable_streams_server.operations.log_formats import (
    JsonFormatter,
    LineFormatter,
    RepeatedFaults,
)

Serving = Callable[..., Awaitable[Client]]
ENTRY = Entry("192.0.2.1", "POST", "/v1/stream/a", 204, "append", 5, 0, 0.001)


@pytest.fixture
def entries() -> Iterator[list[Entry]]:
    """The entries that are logged, as they come."""
    found: list[Entry] = []

    class Keeping(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            assert isinstance(record.args, tuple)
            entry = record.args[0]
            assert isinstance(entry, Entry)
            found.append(entry)

    logger, handler = logging.getLogger(LOGGER), Keeping()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield found
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


async def logging_client(serve: Serving, *trusted: str) -> Client:
    client = await serve()
    client.mount.handler.observe(AccessLog(TrustedProxies(trusted)))
    return client


async def test_a_line_says_who_did_what_and_what_became_of_it(
    serve: Serving, entries: list[Entry]
) -> None:
    client = await logging_client(serve)
    trace = "0af7651916cd43dd8448eb211c80319c"
    await client.put(
        "a", body=b"12345", x_request_id="r-1", traceparent=f"00-{trace}-b7ad6b7169203331-01"
    )
    entry = entries[0]
    assert (entry.client, entry.method, entry.path) == ("127.0.0.1", "PUT", "/v1/stream/a")
    assert (entry.status, entry.action, entry.received, entry.sent) == (201, "create", 5, 0)
    assert (entry.request_id, entry.trace_id) == ("r-1", trace)
    assert 0 < entry.seconds < 60


async def test_signatures_and_unknown_parameters_are_not_logged(
    serve: Serving, entries: list[Entry]
) -> None:
    client = await serve(signing_keys=["0123456789abcdef"])
    client.mount.handler.observe(AccessLog())
    await client.put("a", body=b"x")
    signed = client.engine.sign("a", expires=60)
    assert (await client.get(f"a?{signed}&offset=-1")).status == 200
    signature = signed.partition("=")[2]
    await client.get(f"a?%73ig={signature}&access_token=s3cret&s3cret")
    for mark in ("%3F", "%3f", "#", "%23"):
        await client.raw(request_bytes("GET", f"/v1/stream/a{mark}{signed}"))
    await client.raw(request_bytes("GET", "http://user:s3cret@host.example/v1/stream/a"))
    assert entries[1].path == "/v1/stream/a?…&offset=-1"
    for entry in entries:
        assert signature not in str(entry)
        assert "s3cret" not in str(entry)


@given(st.text(), st.text())
def test_no_target_makes_a_second_line_or_a_field_of_its_own(path: str, query: str) -> None:
    shown = redacted(f"/{path}?{query}")
    assert " " not in shown
    assert '"' not in shown
    assert shown.isprintable()
    assert len(str(Entry("c", "GET", shown, 200, "read", 0, 0, 0.0)).split(" ")) == 8


@pytest.mark.parametrize(
    "trusted, forwarded, client",
    [
        ((), "203.0.113.9", "127.0.0.1"),
        (("10.0.0.0/8",), "203.0.113.9", "127.0.0.1"),
        (("127.0.0.1",), "203.0.113.9", "203.0.113.9"),
        (("127.0.0.1",), "6.6.6.6, 203.0.113.9", "203.0.113.9"),
        (("127.0.0.0/8", "10.0.0.0/8"), "203.0.113.9, 10.1.2.3", "203.0.113.9"),
        (("127.0.0.0/8", "10.0.0.0/8"), "203.0.113.9, evil, 10.1.2.3", "10.1.2.3"),
        (("127.0.0.1",), "[2001:db8::1]:4711", "2001:db8::1"),
        (("127.0.0.1",), "203.0.113.9:4711", "203.0.113.9"),
        (("127.0.0.1",), "unknown", "127.0.0.1"),
        (("127.0.0.1",), "", "127.0.0.1"),
    ],
)
async def test_a_trusted_proxy_names_the_client_and_nobody_else_does(
    serve: Serving,
    entries: list[Entry],
    trusted: tuple[str, ...],
    forwarded: str,
    client: str,
) -> None:
    sender = await logging_client(serve, *trusted)
    await sender.get("a", x_forwarded_for=forwarded)
    assert entries[0].client == client


async def test_hops_in_headers_of_their_own_count_in_order(
    serve: Serving, entries: list[Entry]
) -> None:
    client = await logging_client(serve, "127.0.0.1", "10.0.0.0/8")
    hops = [("x-forwarded-for", "203.0.113.9"), ("X-Forwarded-For", "10.1.2.3")]
    await client.raw(request_bytes("GET", client.root + "a", hops))
    assert entries[0].client == "203.0.113.9"


def test_an_ipv4_address_that_a_socket_writes_as_ipv6_is_that_address() -> None:
    proxies = TrustedProxies(["127.0.0.1"])
    forwarded = {b"x-forwarded-for": b"203.0.113.9, ::ffff:127.0.0.1"}
    assert proxies.client_at("::ffff:127.0.0.1", forwarded.get) == "203.0.113.9"


def test_a_network_that_is_none_is_refused_with_an_example() -> None:
    with pytest.raises(ValueError, match=r"such as 10\.0\.0\.0/8"):
        TrustedProxies(["localhost"])


async def test_a_log_beside_other_observers_leaves_them_their_reports(
    serve: Serving, entries: list[Entry]
) -> None:
    client = await logging_client(serve)
    recorder = Recorder()
    client.mount.handler.observe(recorder)
    await client.get("a")
    assert len(entries) == len(recorder.reports) == 1


# How lines are written.


def record(message: str, *args: object, level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord("some.logger", level, __file__, 1, message, args, None)


def test_json_is_one_object_on_one_line_with_the_fields_of_the_request() -> None:
    line = JsonFormatter().format(record("%s", ENTRY))
    assert "\n" not in line
    found = json.loads(line)
    assert found["status"] == 204
    assert found["action"] == "append"
    assert found["time"].endswith("Z")
    assert "message" not in found


@given(st.text())
def test_a_message_is_one_line_in_both_formats(text: str) -> None:
    assert len(LineFormatter().format(record("%s", text)).splitlines()) == 1
    line = JsonFormatter().format(record("%s", text))
    assert "\n" not in line
    assert json.loads(line)["message"] == text


def test_a_traceback_is_a_field_of_json() -> None:
    try:
        raise ValueError("a bug")
    except ValueError as error:
        failed = record("it failed", level=logging.ERROR)
        failed.exc_info = (type(error), error, error.__traceback__)
    line = JsonFormatter().format(failed)
    assert "\n" not in line
    assert "ValueError: a bug" in json.loads(line)["exception"]


@pytest.mark.parametrize("formatter", [LineFormatter, JsonFormatter])
def test_a_configured_secret_is_taken_out_of_every_line(formatter: type[LineFormatter]) -> None:
    written = formatter(["s3cret-token"])
    assert "s3cret" not in written.format(record("cannot reach redis://:%s@host", "s3cret-token"))


def test_a_fault_that_repeats_is_let_through_a_few_times_a_minute() -> None:
    faults = RepeatedFaults()

    def passes(at: float, level: int = logging.WARNING, line: int = 1) -> str | None:
        found = logging.LogRecord("a", level, __file__, line, "no %s", ("room",), None)
        found.created = at
        return found.getMessage() if faults.filter(found) else None

    assert [passes(float(n)) for n in range(30)].count("no room") == RepeatedFaults.EACH
    assert passes(31.0, line=2) == "no room"
    assert passes(32.0, logging.INFO) == "no room"
    assert passes(61.0) == "no room (20 more like it were left out)"
    assert passes(62.0) == "no room"
