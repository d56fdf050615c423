"""The life of a connection: what is pending when somebody leaves, stops, or half-closes."""

import asyncio
import socket
import ssl
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from raw_answers import Answers, exchange
from raw_corpus import END, GET, POST
from test_bounds import connect, held, until

from durable_streams_server import Engine
from durable_streams_server.frontends.mount import Mount
from durable_streams_server.frontends.servers import Address, standalone_server
from durable_streams_server.frontends.standalone import Bounds
from durable_streams_server.frontends.standalone.connection import Awaited
from durable_streams_server.frontends.tls import Certificate
from durable_streams_server.http.options import Options

POLL = GET.replace(b"/s ", b"/s?offset=now&live=long-poll ") + END
SSE = GET.replace(b"/s ", b"/s?offset=now&live=sse ") + END
APPEND = POST + b"Content-Length: 2\r\n\r\nhi"


async def test_100_continue_comes_only_where_the_body_is_wanted(start: Any) -> None:
    running = await start(max_body=1000)
    reader, writer = await connect(running.port)
    writer.write(POST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"hi")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204")
    writer.write(POST + b"Expect: 100-continue\r\nContent-Length: 2000\r\n\r\n")
    answers = Answers(await reader.read())
    assert (answers.statuses, answers.interim) == ((413,), 0)
    writer.close()


async def test_100_continue_waits_for_the_answers_before_it(start: Any) -> None:
    running = await start(long_poll_timeout=0.05)
    reader, writer = await connect(running.port)
    writer.write(POLL + POST + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 204")
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"hi")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204")
    writer.close()


async def test_who_leaves_a_long_poll_is_forgotten_at_once(start: Any) -> None:
    running = await start()
    for leave in ("close", "write_eof"):
        _, writer = await connect(running.port)
        writer.write(POLL)
        await until(lambda: len(running.engine.fanout))
        getattr(writer, leave)()
        await until(lambda: not len(running.engine.fanout) and not len(running.server))
        writer.close()


async def test_who_leaves_a_live_read_is_forgotten_at_once(start: Any) -> None:
    running = await start()
    for leave in ("close", "write_eof"):
        reader, writer = await connect(running.port)
        writer.write(SSE)
        await reader.readuntil(b"event: control")
        getattr(writer, leave)()
        await until(lambda: not len(running.engine.fanout) and not len(running.server))
        writer.close()


async def test_a_half_close_still_gets_its_answers(start: Any) -> None:
    running = await start()
    answers = Answers(await exchange(running.port, (GET + END) * 3 + APPEND))
    assert answers.statuses == (200, 200, 200, 204)


async def test_half_a_request_is_none(start: Any) -> None:
    running = await start()
    answers = Answers(await exchange(running.port, GET + END + APPEND[:-1]))
    assert answers.statuses == (200,)
    assert (await running.engine.head("s")).offset.endswith("5")


async def test_requests_behind_a_live_answer_wait_for_its_end(start: Any) -> None:
    running = await start()
    reader, writer = await connect(running.port)
    writer.write(SSE + GET + END)
    await reader.readuntil(b"event: control")
    await running.engine.close_stream("s")
    await reader.readuntil(b"0\r\n\r\n")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_a_live_answer_to_http_1_0_ends_with_the_connection(start: Any) -> None:
    running = await start()
    reader, writer = await connect(running.port)
    writer.write(SSE.replace(b"HTTP/1.1", b"HTTP/1.0"))
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    await running.engine.close_stream("s")
    assert b'"streamClosed":true' in await reader.read()
    writer.close()


async def test_many_readers_get_one_frame(start: Any) -> None:
    """The frame that is written to many readers is one object."""
    running = await start()
    readers = [await connect(running.port) for _ in range(20)]
    for reader, writer in readers:
        writer.write(SSE)
        await reader.readuntil(b"event: control")
    made = []
    framed = running.server.framed

    def watched(frame: bytes) -> bytes:
        made.append(framed(frame))
        return made[-1]

    running.server.framed = watched
    await running.engine.append("s", b"more")
    for reader, writer in readers:
        await reader.readuntil(b"more")
        writer.close()
    assert len(made) == 20
    assert len({id(chunk) for chunk in made}) == 1


async def test_a_plain_request_makes_no_task(start: Any) -> None:
    running = await start()
    reader, writer = await connect(running.port)
    before = asyncio.all_tasks()
    tasks: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_task_factory(
        lambda loop, work, **k: tasks.append(work) or asyncio.Task(work, loop=loop)
    )
    try:
        for raw in (GET + END, APPEND, GET.replace(b"GET", b"HEAD") + END):
            writer.write(raw)
            await reader.readuntil(b"\r\n\r\n")
    finally:
        loop.set_task_factory(None)
    assert not tasks
    assert asyncio.all_tasks() == before
    writer.close()


async def test_stopping_tells_live_readers_and_answers_what_is_under_way(start: Any) -> None:
    running = await start(Bounds(shutdown_timeout=60))
    sse_reader, sse = await connect(running.port)
    sse.write(SSE)
    await sse_reader.readuntil(b"event: control")
    poll_reader, poll = await connect(running.port)
    poll.write(POLL)
    idle_reader, idle = await connect(running.port)
    body_reader, body = await connect(running.port)
    body.write(APPEND[:-1])
    await until(lambda: len(running.server) == 4 and len(running.mount.handler.readers) == 2)
    await until(lambda: any(c.awaited is Awaited.BODY for c in running.server.connections))
    stopping = asyncio.create_task(running.server.stop())
    assert (await sse_reader.read()).endswith(b"0\r\n\r\n")
    assert Answers(await poll_reader.read()).statuses == (204,)
    assert await idle_reader.read() == b""
    body.write(APPEND[-1:])
    answers = Answers(await body_reader.read())
    assert answers.statuses == (204,)
    assert answers.all[0][1][b"connection"] == b"close"
    for writer in (sse, poll, idle, body):
        writer.close()
    await stopping
    with pytest.raises(ConnectionError):
        await connect(running.port)


@pytest.fixture
def a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a new client a minute for its request while a server stops, on a busy machine."""
    monkeypatch.setattr("durable_streams_server.frontends.standalone.server.FRESH_SECONDS", 60.0)


@pytest.mark.usefixtures("a_moment")
async def test_connections_that_wait_to_be_accepted_are_answered_before_a_server_stops(
    start: Any,
) -> None:
    """A proxy sends until it is refused; closing the listener would reset what it had sent."""
    running = await start()
    # The event loop does not turn meanwhile, so the server has accepted none of them.
    waiting = [socket.create_connection(("127.0.0.1", running.port)) for _ in range(20)]
    for client in waiting:
        client.sendall(GET + END)
        client.setblocking(False)
    await running.server.stop()
    for client in waiting:
        answers = Answers(await asyncio.get_running_loop().sock_recv(client, 65536))
        assert answers.statuses == (200,)
        assert answers.all[0][1][b"connection"] == b"close"
        client.close()


@pytest.mark.usefixtures("a_moment")
async def test_a_client_that_just_connected_may_still_send_its_request(start: Any) -> None:
    running = await start()
    reader, writer = await connect(running.port)
    await until(lambda: len(running.server) == 1)
    stopping = asyncio.create_task(running.server.stop())
    await asyncio.sleep(0)
    writer.write(GET + END)
    assert Answers(await reader.read()).statuses == (200,)
    writer.close()
    await stopping


async def test_stopping_waits_for_nobody_for_ever(start: Any) -> None:
    running = await start(Bounds(shutdown_timeout=0.05))
    _, writer = await connect(running.port)
    writer.write(APPEND[:-1])
    await held(running)
    await running.server.stop()
    await until(lambda: not len(running.server))
    writer.close()


async def test_an_access_hook_may_take_its_time(start: Any) -> None:
    asked = []

    async def authorize(action: Any, path: Any, request: Any) -> Any:
        asked.append((action, path, request.headers[b"host"]))
        await asyncio.sleep(0)
        return path == "s"

    running = await start(authorize=authorize)
    other = APPEND.replace(b"/s ", b"/t ")
    answers = Answers(await exchange(running.port, APPEND + other + GET + END + APPEND))
    assert answers.statuses == (204, 403, 200, 204)
    assert asked == [
        ("append", "s", b"x"), ("append", "t", b"x"), ("read", "s", b"x"), ("append", "s", b"x"),
    ]  # fmt: skip


async def test_a_hook_cannot_change_what_the_next_request_says(start: Any) -> None:
    def authorize(action: Any, path: Any, request: Any) -> Any:
        request.headers.clear()
        return True

    running = await start(authorize=authorize)
    reader, writer = await connect(running.port)
    for _ in range(3):
        writer.write(GET + b"X-Y: z\r\n\r\n")
        assert (await reader.readuntil(b"hello")).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_tls_from_certificate_files(
    certificate: tuple[Path, Path], serving: AsyncExitStack
) -> None:
    cert, key = certificate
    engine = await serving.enter_async_context(Engine("memory:"))
    await engine.create("s", content_type="text/plain", data="hello")
    address = Address("localhost", 0, tls=Certificate(str(cert), str(key)).context)
    mount = Mount(engine, Options(), None)
    port = await serving.enter_async_context(standalone_server(mount, "/v1/stream/", address))
    trust = ssl.create_default_context(cafile=str(cert))
    reader, writer = await asyncio.open_connection("localhost", port, ssl=trust)
    writer.write(GET + END)
    await reader.readuntil(b"hello")
    put = POST.replace(b"POST", b"PUT").replace(b"/s ", b"/made ")
    writer.write(put + b"Content-Length: 0\r\n\r\n")
    assert b"location: https://x/v1/stream/made\r\n" in await reader.readuntil(b"\r\n\r\n")
    writer.write(SSE)
    await reader.readuntil(b"event: control")
    await engine.append("s", b"more")
    await reader.readuntil(b"more")
    writer.close()


async def test_a_head_that_came_in_the_clear_leads_elsewhere_over_tls(
    certificate: tuple[Path, Path], start: Any
) -> None:
    cert, key = certificate
    running = await start()
    port = await running.server.listen("localhost", 0, tls=Certificate(str(cert), str(key)).context)
    trust = ssl.create_default_context(cafile=str(cert))
    put = POST.replace(b"POST", b"PUT").replace(b"/s ", b"/made ") + b"Content-Length: 0\r\n\r\n"
    for scheme, place in (
        (b"http", {"host": "127.0.0.1", "port": running.port}),
        (b"https", {"host": "localhost", "port": port, "ssl": trust}),
        (b"http", {"host": "127.0.0.1", "port": running.port}),
    ):
        reader, writer = await asyncio.open_connection(**place)
        writer.write(put)
        assert b"location: %b://x/v1/stream/made\r\n" % scheme in await reader.readuntil(
            b"\r\n\r\n"
        )
        await running.engine.delete("made")
        writer.close()


async def test_a_unix_socket(tmp_path: Path, serving: AsyncExitStack) -> None:
    engine = await serving.enter_async_context(Engine("memory:"))
    await engine.create("s", content_type="text/plain", data="hello")
    path = str(tmp_path / "socket")
    mount = Mount(engine, Options(), None)
    address = Address("", 0, unix=path)
    await serving.enter_async_context(standalone_server(mount, "/v1/stream/", address))
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(GET + END)
    await reader.readuntil(b"hello")
    writer.close()
