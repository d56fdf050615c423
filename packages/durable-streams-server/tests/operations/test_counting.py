"""Every request is reported once, with the status that was sent; 499 if its client left first."""

import asyncio
import re
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from observing import Recorder
from remote import RemoteStore
from servers import SERVERS
from wire import Client, Events, request_bytes
from wire import Connection as RawConnection

from durable_streams_server import Engine, MemoryStore
from durable_streams_server.frontends.mount import Mount
from durable_streams_server.frontends.standalone import StandaloneServer
from durable_streams_server.frontends.standalone.connection import Connection
from durable_streams_server.http.messages import RequestHead
from durable_streams_server.http.observing import CLIENT_CLOSED_REQUEST
from durable_streams_server.http.options import Options

TEXT = {"content-type": "text/plain"}
Serving = Callable[..., Awaitable[Client]]


@pytest.fixture
async def client(client: Client) -> Client:
    """A client of each front end, with a stream that has five bytes."""
    await client.put("s", body=b"hello")
    return client


@pytest.fixture
def recorder(client: Client) -> Recorder:
    """Reports of what the client does from now on."""
    recorder = Recorder()
    client.mount.handler.observe(recorder)
    return recorder


def reset(connection: RawConnection) -> None:
    """Leave so that the server learns of it: a mere close says only that no more will be sent."""
    client = connection.writer.get_extra_info("socket")
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.abort()


async def test_an_append_and_a_read_are_reported_with_their_bytes(
    client: Client, recorder: Recorder
) -> None:
    await client.post("s", b" world")
    await client.get("s")
    await client.head("s")
    assert [report[:4] for report in recorder.reports] == [
        ("append", 204, 6, 0),
        ("read", 200, 0, 11),
        ("head", 200, 0, 0),
    ]


async def test_a_long_poll_whose_client_leaves_is_499(client: Client, recorder: Recorder) -> None:
    connection, answer = await client.waiting("s?offset=now&live=long-poll")
    connection.abort()
    await recorder.count(1)
    assert recorder.reports[0][:4] == ("long-poll", CLIENT_CLOSED_REQUEST, 0, 0)
    answer.cancel()


async def test_an_sse_response_whose_client_leaves_was_a_200(
    client: Client, recorder: Recorder
) -> None:
    events = await client.sse("s?offset=-1&live=sse")
    await events.batch()
    events.connection.abort()
    await recorder.count(1)
    assert recorder.reports[0][:4] == ("sse", 200, 0, len(events.raw))


async def test_an_sse_response_that_the_server_ends_is_reported_with_all_its_bytes(
    client: Client, recorder: Recorder
) -> None:
    events: Events = await client.sse("s?offset=-1&live=sse")
    await client.post("s", b"!", stream_closed="true")
    await events.rest()
    await recorder.count(2)
    kinds = {report.kind: report for report in recorder.reports}
    assert kinds["sse"][:4] == ("sse", 200, 0, len(events.raw))


async def test_a_body_that_stops_half_way_is_499(client: Client, recorder: Recorder) -> None:
    connection = await client.connect()
    target = client.root + "s"
    await connection.send(request_bytes("POST", target, {**TEXT, "content-length": "9"}, b"half"))
    # Requests of one process are taken in order: when this is answered, so is that taken.
    await client.head("s")
    connection.abort()
    await recorder.count(2)
    assert recorder.reports[1].status == CLIENT_CLOSED_REQUEST


async def test_an_append_whose_client_leaves_before_the_store_answers_is_499(
    serve: Serving, remote: RemoteStore
) -> None:
    client = await serve(remote)
    await client.put("s", body=b"hello")
    recorder = Recorder()
    client.mount.handler.observe(recorder)
    remote.committing.shut()
    connection = await client.connect()
    await connection.send(request_bytes("POST", client.root + "s", TEXT, b"x"))
    await remote.committing.reached.wait()
    reset(connection)
    await recorder.count(1)
    assert recorder.reports[0][:3] == ("append", CLIENT_CLOSED_REQUEST, 1)
    remote.committing.open()


async def test_a_hook_that_waits_when_the_client_leaves_costs_one_report(serve: Serving) -> None:
    asked, permitted = asyncio.Event(), asyncio.Event()

    async def authorize(_action: str, _path: str, _request: object) -> bool:
        asked.set()
        await permitted.wait()
        return True

    client = await serve(authorize=authorize)
    recorder = Recorder()
    client.mount.handler.observe(recorder)
    connection = await client.connect()
    await connection.send(request_bytes("PUT", client.root + "s", TEXT, b"x"))
    await asked.wait()
    connection.abort()
    permitted.set()
    await recorder.count(1)
    await client.get("s")
    assert [report.kind for report in recorder.reports] == ["create", "read"]


async def test_a_refused_request_has_its_action(serve: Serving) -> None:
    client = await serve(authorize=lambda *_: 401)
    recorder = Recorder()
    client.mount.handler.observe(recorder)
    await client.get("s")
    await client.post("s", b"x")
    await client.post("s", b"x", expect="100-continue")
    assert [report[:2] for report in recorder.reports] == [
        ("read", 401),
        ("append", 401),
        ("append", 401),
    ]


async def test_what_no_exchange_was_made_for_is_reported_too(
    client: Client, recorder: Recorder
) -> None:
    answers = [
        await client.request("OPTIONS", "s"),
        await client.request("PATCH", "s"),
        await client.raw(request_bytes("GET", "/elsewhere")),
        await client.request("GET", "%ff"),
    ]
    assert [report[:2] for report in recorder.reports] == [
        ("", answer.status) for answer in answers
    ]
    assert [report.target for report in recorder.reports][2:] == [
        "/elsewhere",
        client.root + "%ff",
    ]


async def test_a_shutdown_reports_its_live_readers(client: Client, recorder: Recorder) -> None:
    events = await client.sse("s?offset=-1&live=sse")
    _, answer = await client.waiting("s?offset=now&live=long-poll", 2)
    client.mount.handler.close()
    await events.rest()
    await answer
    await recorder.count(2)
    assert sorted(report[:2] for report in recorder.reports) == [("long-poll", 204), ("sse", 200)]


# An ASGI application never learns of what its server refuses.
@pytest.mark.parametrize("name", ["aiohttp", "standalone"])
@pytest.mark.parametrize(
    "malformed",
    [
        b"GET /a HTTP/1.1\r\nHost: x\r\nAuthorization Bearer: b\r\n\r\n",
        b"\x16\x03\x01 hello\r\n\r\n",
    ],
    ids=["header", "TLS"],
)
async def test_bytes_that_are_not_a_request_are_reported_without_a_method(
    name: str, malformed: bytes
) -> None:
    mount = Mount(MemoryStore(), Options(), None)
    recorder = Recorder()
    mount.handler.observe(recorder)
    async with mount.running(), SERVERS[name](mount, "/") as port:
        async with await RawConnection.to(port) as connection:
            await connection.request("GET", "/s")
            await connection.send(malformed)
            assert (await connection.answer()).status == 400
        await recorder.count(2)
    statuses = [(report.status, report.target) for report in recorder.reports]
    assert statuses == [(404, "/s"), (400, "")]


# The standalone server, however its bytes are cut.

REQUESTS = {
    "append": request_bytes("POST", "/s", TEXT, b"x"),
    "read": request_bytes("GET", "/s"),
    "missing": request_bytes("GET", "/t"),
    "chunks": request_bytes(
        "POST", "/s", {**TEXT, "transfer-encoding": "chunked"}, b"1\r\ny\r\n0\r\n\r\n"
    ),
    "long-poll": request_bytes("GET", "/s?offset=now&live=long-poll"),
    "sse": request_bytes("GET", "/s?offset=now&live=sse"),
    "refused": request_bytes("POST", "/s", {**TEXT, "content-length": "99999"}),
    "malformed": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
}


class Wire:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written = b""
        self.closing = False

    def write(self, data: bytes) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def can_write_eof(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def get_extra_info(self, name: str) -> Any:
        return ("192.0.2.1", 1234) if name == "peername" else None


@given(
    st.lists(st.sampled_from(sorted(REQUESTS)), min_size=1, max_size=6),
    st.lists(st.integers(1, 400), max_size=12),
    st.booleans(),
)
@settings(max_examples=40)
def test_each_request_is_reported_once_however_its_bytes_come_and_whenever_the_client_leaves(
    names: list[str], pieces: list[int], waits: bool
) -> None:
    async def run() -> None:
        async with Engine("memory:") as engine:
            await engine.create("s", content_type="text/plain", data="hello")
            mount = Mount(engine, Options(max_body=1000, long_poll_timeout=0.0), None)
            recorder = Recorder()
            mount.handler.observe(recorder)
            began: list[RequestHead] = []
            begin = mount.handler.begin

            def counted(request: RequestHead) -> Any:
                began.append(request)
                return begin(request)

            mount.handler.begin = counted  # type: ignore[method-assign]
            server = StandaloneServer(mount, "/")
            server.note_time(0.0)
            wire: Any = Wire()
            connection = Connection(server, secure=False)
            connection.connection_made(wire)
            data = b"".join(REQUESTS[name] for name in names)
            at = 0
            for size in [*pieces, *([len(data)] if waits else [])]:
                if not wire.closing:
                    connection.data_received(data[at : at + size] or b"")
                at += size
                # Lets what waits come to its end.
                for _ in range(4 if waits else 1):
                    await asyncio.sleep(0)
            connection.connection_lost(None)
            sent = [int(status) for status in re.findall(rb"HTTP/1.1 (\d+) ", wire.written)]
            reported = [report.status for report in recorder.reports]
            # Whatever was reported as sent was sent, in this order.
            assert [status for status in reported if status != CLIENT_CLOSED_REQUEST] == sent
            # One request at most was open when the client left.
            assert reported.count(CLIENT_CLOSED_REQUEST) <= 1
            malformed = len([r for r in recorder.reports if not r.target])
            assert len(reported) - malformed == len(began)

    asyncio.run(run())
