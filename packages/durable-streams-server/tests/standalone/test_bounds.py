"""The bounds of connections: sizes, times, numbers, and how much of each is held."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from conftest import Running, Start
from raw_answers import Answers, exchange
from raw_corpus import CHUNKED, END, GET, POST

from durable_streams_server.frontends.standalone import Bounds
from durable_streams_server.frontends.standalone.bodies import MAX_DRAINED
from durable_streams_server.frontends.standalone.connection import MAX_HELD, Awaited

SMALL = Bounds(max_header=4096, max_target=1024)
LATER = 3600.0


async def connect(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", port)


async def until(condition: Any) -> None:
    """Let the server's tasks and callbacks run until something is so."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)


def late(running: Any, seconds: float = LATER) -> None:
    """As if so much time had passed."""
    running.server.note_time(asyncio.get_running_loop().time() + seconds)


async def test_a_large_header_is_refused_before_it_has_come(start: Any) -> None:
    running = await start(SMALL)
    answer = Answers(await exchange(running.port, GET + b"X: " + b"y" * 500_000))
    assert answer.statuses == (431,)


async def test_a_header_without_end_is_refused_at_a_bounded_size(start: Any) -> None:
    running = await start(SMALL)
    reader, writer = await connect(running.port)
    writer.write(GET + b"X: ")
    sent = 0
    answer = asyncio.create_task(reader.read())
    while sent < 1_000_000 and not answer.done():
        writer.write(b"y" * 1000)
        sent += 1000
        await asyncio.sleep(0)
        with suppress(ConnectionError):
            await writer.drain()
    assert Answers(await answer).statuses == (431,)
    assert sent < 900_000
    writer.close()


async def test_many_small_headers_are_a_large_one(start: Any) -> None:
    running = await start(SMALL)
    raw = GET + b"".join(b"X-%d: y\r\n" % n for n in range(1000)) + END
    assert Answers(await exchange(running.port, raw)).statuses == (431,)


async def test_trailers_are_bounded(start: Any) -> None:
    running = await start(SMALL)
    raw = CHUNKED + b"2\r\nhi\r\n0\r\n" + b"X: y\r\n" * 10_000
    assert Answers(await exchange(running.port, raw)).statuses == (431,)
    raw = CHUNKED + b"2\r\nhi\r\n0\r\nX: " + b"y" * 100_000
    assert Answers(await exchange(running.port, raw)).statuses == (431,)


async def test_chunk_extensions_are_bounded(start: Any) -> None:
    running = await start(SMALL)
    raw = CHUNKED + b"2;" + b"y" * 100_000
    assert Answers(await exchange(running.port, raw)).statuses == (431,)


async def test_a_long_target_is_refused(start: Any) -> None:
    running = await start(SMALL)
    raw = GET.replace(b"/s ", b"/" + b"s" * 2000 + b" ") + END
    assert Answers(await exchange(running.port, raw)).statuses == (414,)


async def test_a_declared_length_over_the_limit_is_refused_and_the_answer_arrives(
    start: Any,
) -> None:
    running = await start(max_body=1000)
    reader, writer = await connect(running.port)
    writer.write(POST + b"Content-Length: 100000000\r\n\r\n")
    for _ in range(50):
        writer.write(b"x" * 10_000)
        await asyncio.sleep(0)
    assert Answers(await reader.read()).statuses == (413,)
    writer.close()


async def test_chunks_over_the_limit_are_refused_and_the_answer_arrives(start: Any) -> None:
    running = await start(max_body=1000)
    chunk = b"400\r\n" + b"x" * 1024 + b"\r\n"
    reader, writer = await connect(running.port)
    writer.write(CHUNKED + chunk * 300)
    assert Answers(await reader.read()).statuses == (413,)
    writer.close()
    assert (await running.engine.head("s")).offset.endswith("5")


async def test_a_body_nobody_asked_for_is_not_read_beyond_a_bound(start: Any) -> None:
    running = await start()
    length = MAX_DRAINED + 1
    raw = GET + b"Content-Length: %d\r\n\r\n" % length + b"x" * length
    assert Answers(await exchange(running.port, raw, end=False)).statuses == (200,)
    endless = GET + b"Transfer-Encoding: chunked\r\n\r\n" + b"400\r\n" + b"x" * 1024 + b"\r\n"
    raw = endless + (b"400\r\n" + b"x" * 1024 + b"\r\n") * 100
    answers = Answers(await exchange(running.port, raw, end=False))
    assert answers.all[0][1][b"connection"] == b"close"


async def test_connections_beyond_the_bound_are_told_to_come_again(start: Any) -> None:
    running = await start(Bounds(max_connections=2))
    first = [await connect(running.port) for _ in range(2)]
    await until(lambda: len(running.server) == 2)
    ((status, headers, _),) = Answers(await exchange(running.port, GET + END)).all
    assert status == 503
    assert headers[b"retry-after"] == b"1"
    first[0][1].close()
    await until(lambda: len(running.server) == 1)
    assert Answers(await exchange(running.port, GET + END)).statuses == (200,)
    first[1][1].close()


async def test_a_silent_connection_is_closed(start: Any) -> None:
    running = await start()
    reader, writer = await connect(running.port)
    await until(lambda: len(running.server) == 1)
    late(running, 1)
    assert len(running.server) == 1
    late(running)
    assert await reader.read() == b""
    writer.close()


async def test_an_idle_connection_is_closed(start: Any) -> None:
    running = await start()
    reader, writer = await connect(running.port)
    writer.write(GET + END)
    await reader.readuntil(b"hello")
    late(running, 20)
    writer.write(GET + END)
    await reader.readuntil(b"hello")
    late(running)
    assert await reader.read() == b""
    writer.close()


async def test_a_slow_head_is_ended(start: Any) -> None:
    running = await start()
    reader, writer = await connect(running.port)
    writer.write(b"GET /v1/str")
    (connection,) = await held(running)
    await until(lambda: connection.awaited is Awaited.HEAD)
    # A byte now and then buys no time.
    deadline = connection.deadline
    writer.write(b"e")
    await until(lambda: connection.held == 12)
    assert connection.deadline == deadline
    late(running)
    assert Answers(await reader.read()).statuses == (408,)
    writer.close()


async def test_a_slow_body_is_ended(start: Any) -> None:
    running = await start()
    reader, writer = await connect(running.port)
    writer.write(POST + b"Content-Length: 1000\r\n\r\nx")
    (connection,) = await held(running)
    await until(lambda: connection.awaited is Awaited.BODY)
    late(running, 10)
    assert connection.awaited is Awaited.BODY
    late(running)
    assert Answers(await reader.read()).statuses == (408,)
    writer.close()


async def held(running: Any) -> list:
    await until(lambda: len(running.server))
    return list(running.server.connections)


async def test_who_takes_nothing_of_an_answer_is_cut(start: Any) -> None:
    running = await start()
    await running.engine.append("s", b"x" * 1_000_000)
    _reader, writer = await connect(running.port)
    writer.transport.pause_reading()
    writer.write((GET + END) * 50)
    (connection,) = await held(running)
    await until(lambda: connection.awaited is Awaited.CLIENT)
    late(running)
    await until(lambda: not len(running.server))
    writer.close()


async def test_a_flood_of_requests_is_answered_in_order_and_not_held(start: Any) -> None:
    running = await start()
    await running.engine.create("big", content_type="text/plain", data="y" * 1_000_000)
    big = GET.replace(b"/s ", b"/big ") + END
    reader, writer = await connect(running.port)
    writer.transport.pause_reading()
    flood = (GET + END) * 20_000
    writer.write(big * 30 + flood)
    (connection,) = await held(running)
    await until(lambda: connection.awaited is Awaited.CLIENT)
    # The answers wait for the client, the requests in the kernel.
    for _ in range(100):
        await asyncio.sleep(0)
        assert connection.held < 3_000_000 + MAX_HELD + 300_000
    writer.transport.resume_reading()
    received = 0
    while received < 20_030:
        data = await reader.readuntil(b"\r\n\r\n")
        length = int(data.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        body = await reader.readexactly(length)
        assert len(body) == (1_000_000 if received < 30 else 5)
        received += 1
    writer.close()


async def test_a_slow_reader_of_a_live_stream_is_not_queued_for(start: Any) -> None:
    running = await start()
    reader, writer = await connect(running.port)
    writer.transport.pause_reading()
    writer.write(GET.replace(b"/s ", b"/s?offset=now&live=sse ") + END)
    (connection,) = await held(running)
    await until(lambda: connection.awaited is not Awaited.REQUEST)
    for _ in range(300):
        await running.engine.append("s", b"z" * 60_000)
    # 18 MB were appended; what waits for this reader is a page.
    assert connection.held < 2_000_000
    await running.engine.close_stream("s")
    writer.transport.resume_reading()
    everything = b""
    while b'"streamClosed":true' not in everything:
        everything += await reader.read(1_000_000)
    assert everything.count(b"z") == 300 * 60_000
    writer.close()


async def until_body(running: Running, size: int) -> None:
    """Return once the server holds so many bytes of bodies."""
    await until(lambda: running.server.bodies.total == size)


async def test_bodies_that_are_received_have_one_bound_and_the_largest_gives_way(
    start: Start,
) -> None:
    running = await start(Bounds(max_bodies=1_000_000))
    clients = []
    for size in (300_000, 600_000):
        reader, writer = await connect(running.port)
        clients.append((reader, writer))
        writer.write(POST + b"Content-Length: 999000\r\n\r\n" + b"x" * size)
    await until_body(running, 900_000)
    small, writer = await connect(running.port)
    writer.write(POST + b"Content-Length: 200000\r\n\r\n" + b"y" * 150_000)
    assert Answers(await clients[1][0].read()).statuses == (503,)
    await until_body(running, 450_000)
    writer.write(b"y" * 50_000)
    assert (await small.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204")
    clients[0][1].write(b"x" * 699_000)
    assert (await clients[0][0].readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204")
    await until_body(running, 0)
    for _, open_writer in (*clients, (small, writer)):
        open_writer.close()


async def test_a_body_that_its_client_gives_up_is_released(start: Start) -> None:
    running = await start()
    _, writer = await connect(running.port)
    writer.write(POST + b"Content-Length: 999000\r\n\r\n" + b"x" * 100_000)
    await until_body(running, 100_000)
    writer.transport.abort()
    await until_body(running, 0)


@pytest.mark.parametrize("framing", [b"Content-Length: 999000\r\n\r\n", b"chunked"])
@pytest.mark.parametrize("refusal", ["no stream", "no access", "no async access"])
async def test_a_body_that_will_not_be_used_is_not_kept(
    start: Start, refusal: str, framing: bytes
) -> None:
    async def never(action: str, path: str, request: object) -> bool:
        return False

    options = {
        "no stream": {},
        "no access": {"authorize": lambda action, path, request: False},
        "no async access": {"authorize": never},
    }
    running = await start(**options[refusal])
    kept = watch_bodies(running)
    raw = POST.replace(b"/s ", b"/none ")
    raw += (
        framing if framing != b"chunked" else b"Transfer-Encoding: chunked\r\n\r\n" + b"f4240\r\n"
    )
    reader, writer = await connect(running.port)
    writer.write(raw)
    await until(lambda: len(running.server) == 1)
    with suppress(ConnectionError):
        for _ in range(10):
            writer.write(b"x" * 10_000)
            await writer.drain()
    assert Answers(await reader.read()).statuses == (404 if refusal == "no stream" else 403,)
    assert not kept
    writer.close()


def watch_bodies(running: Running) -> list[int]:
    """The sizes of all pieces of bodies that the server holds from now on."""
    kept: list[int] = []
    add = running.server.bodies.add

    def watched(give_way: Callable[[], None], size: int) -> None:
        kept.append(size)
        add(give_way, size)

    running.server.bodies.add = watched  # type: ignore[method-assign]
    return kept


async def test_a_client_that_sent_fast_may_not_be_silent_for_longer(start: Start) -> None:
    running = await start(Bounds(body_timeout=30, body_rate=1))
    reader, writer = await connect(running.port)
    writer.write(POST + b"Content-Length: 999000\r\n\r\n" + b"x" * 500_000)
    await until_body(running, 500_000)
    late(running, 40)
    assert Answers(await reader.read()).statuses == (408,)
    writer.close()


async def test_a_body_that_trickles_in_at_the_rate_goes_on(start: Start) -> None:
    running = await start(Bounds(body_timeout=30, body_rate=10))
    reader, writer = await connect(running.port)
    writer.write(POST + b"Content-Length: 1001\r\n\r\nx")
    for n in range(10):
        await until_body(running, 1 + 100 * n)
        running.server.note_time(running.server.now + 10)
        writer.write(b"x" * 100)
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204")
    writer.close()
