"""Requests that follow one another, on one connection or on several: each is judged by itself."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
from raw_answers import Answers, exchange
from raw_corpus import END, GET, POST
from test_bounds import connect, held, until

from durable_streams_server.frontends.standalone import Bounds
from durable_streams_server.frontends.standalone.connection import Awaited


class Client:
    """One connection; each request is answered before the next is sent."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, *pieces: bytes) -> tuple[int, bytes]:
        """Send a request, each piece in a segment of its own; status and body of the answer."""
        for piece in pieces:
            self._writer.write(piece)
            for _ in range(3):
                await asyncio.sleep(0)
        head = await self._reader.readuntil(b"\r\n\r\n")
        status = int(head[9:12])
        length = head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
        body = await self._reader.readexactly(int(length)) if length else b""
        return status, body

    async def append(self, body: bytes, headers: bytes = b"") -> int:
        return (await self.send(appending(body, headers)))[0]

    def close(self) -> None:
        self._writer.close()


def appending(body: bytes, headers: bytes = b"", *, length: bytes | None = None) -> bytes:
    length = b"%d" % len(body) if length is None else length
    return POST + headers + b"Content-Length: " + length + b"\r\n\r\n" + body


@pytest.fixture
async def clients(start: Any) -> AsyncIterator[Any]:
    """Makes connections to a server of the test's choosing."""
    made: list[Client] = []

    async def begin(running: Any) -> Any:
        client = Client(*await connect(running.port))
        made.append(client)
        return client

    yield begin
    for client in made:
        client.close()


async def text(running: Any) -> Any:
    return (await running.engine.read("s")).data


async def test_bodies_of_any_length_behind_one_head(start: Any, clients: Any) -> None:
    running = await start()
    one, two = await clients(running), await clients(running)
    sent = b""
    for n in (1, 2, 300, 1, 15_000, 2):
        for client in (one, two):
            body = bytes([97 + n % 20]) * n
            assert await client.append(body) == 204
            sent += body
    assert await text(running) == b"hello" + sent


@pytest.mark.parametrize("size", [1, 3000, 200_000, 3_000_000])
async def test_a_body_may_come_after_its_head(start: Any, clients: Any, size: int) -> None:
    running = await start()
    client = await clients(running)
    body = b"y" * size
    request = appending(body)
    end = request.index(b"\r\n\r\n") + 4
    for _ in range(3):
        assert (await client.send(request[:end], request[end:]))[0] == 204
        assert (await client.send(request[:end], body[: size // 2], body[size // 2 :]))[0] == 204
    assert (await running.engine.head("s")).offset.endswith(f"{5 + 6 * size:016d}")


@pytest.mark.parametrize("body", [b"", b"12345"])
@pytest.mark.parametrize("path", [b"s", b"absent"])
@pytest.mark.parametrize("field", [b"", b"Content-Type: text/plain\r\n", b"If-Match: x\r\n"])
async def test_which_fault_is_told_does_not_depend_on_when_the_body_came(
    start: Any, clients: Any, field: bytes, path: bytes, body: bytes
) -> None:
    running = await start()
    head = b"POST /v1/stream/" + path + b" HTTP/1.1\r\nHost: x\r\n" + field
    head += b"Content-Length: %d\r\n\r\n" % len(body)
    client = await clients(running)
    assert await client.send(head + body) == await client.send(head, body)


async def test_what_follows_a_body_that_came_late_is_the_next_request(start: Any) -> None:
    running = await start()
    head, body = appending(b"12345")[:-5], b"12345"
    sent = await exchange(running.port, head, body + GET + END + GET + END, end=True)
    assert Answers(sent).statuses == (204, 200, 200)


async def test_a_body_over_the_limit_is_refused_behind_a_head_that_was_taken(
    start: Any, clients: Any
) -> None:
    running = await start(max_body=1000)
    client = await clients(running)
    assert await client.append(b"x" * 1000) == 204
    assert await client.append(b"x" * 1000) == 204
    assert await client.append(b"x" * 1001) == 413
    assert len(await text(running)) == 2005


@pytest.mark.parametrize("length", [b"", b"+1", b"1, 1", b"0x1", b"1e0", b"-1", b"9" * 30])
async def test_a_length_that_is_no_number_is_refused_behind_a_head_that_was_taken(
    start: Any, length: bytes
) -> None:
    running = await start()
    reader, writer = await connect(running.port)
    for _ in range(2):
        writer.write(appending(b"a"))
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204")
    writer.write(appending(b"b", length=length))
    assert Answers(await reader.read()).statuses[0] in (400, 413)
    writer.close()
    assert await text(running) == b"helloaa"


@pytest.mark.parametrize("second", [b"content-length: 1\r\n", b"CONTENT-LENGTH: 2\r\n"])
async def test_two_lengths_are_refused_however_they_are_spelled(start: Any, second: bytes) -> None:
    running = await start()
    answers = Answers(await exchange(running.port, appending(b"ab", second)))
    assert answers.statuses[0] == 400
    assert await text(running) == b"hello"


async def test_batches_of_a_producer_count_each_for_itself(start: Any, clients: Any) -> None:
    running = await start()
    one, two = await clients(running), await clients(running)

    def batch(seq: bytes) -> bytes:
        return b"Producer-Id: p\r\nProducer-Epoch: 0\r\nProducer-Seq: " + seq + b"\r\n"

    assert await one.append(b"a", batch(b"0")) == 200
    assert await one.append(b"bb", batch(b"1")) == 200
    assert await one.append(b"bb", batch(b"1")) == 204
    assert await two.append(b"ccc", batch(b"2")) == 200
    assert await two.append(b"x", batch(b"7")) == 409
    for wrong in (b"1abc", b"03", b"+3", b"3.0", b"1e3", b"9007199254740992", b"-1", b"3 3"):
        assert await one.append(b"x", batch(wrong)) == 400
    assert await one.append(b"d", batch(b"3")) == 200
    # A head that differs by the missing number only is another one.
    assert await one.append(b"x", b"Producer-Id: p\r\nProducer-Epoch: 0\r\n") == 400
    assert await text(running) == b"helloabbcccd"


async def test_a_page_is_fresh_and_a_new_stream_is_not_the_old_one(
    start: Any, clients: Any
) -> None:
    running = await start()
    client = await clients(running)
    read = GET + END
    assert await client.send(read) == (200, b"hello")
    assert await client.append(b"!") == 204
    assert await client.send(read) == (200, b"hello!")
    await running.engine.delete("s")
    assert (await client.send(read))[0] == 404
    assert await client.append(b"?") == 404
    await running.engine.create("s", content_type="text/plain", data="new")
    assert await client.append(b"!") == 204
    assert await client.send(read) == (200, b"new!")


async def test_a_creation_may_be_repeated(start: Any, clients: Any) -> None:
    running = await start()
    client = await clients(running)
    create = b"PUT /v1/stream/n HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n\r\n"
    assert [(await client.send(create))[0] for _ in range(3)] == [201, 200, 200]
    await running.engine.delete("n")
    assert [(await client.send(create))[0] for _ in range(2)] == [201, 200]


async def test_a_head_answers_without_a_body_each_time(start: Any) -> None:
    running = await start()
    asked = (GET + END).replace(b"GET", b"HEAD")
    reader, writer = await connect(running.port)
    for _ in range(3):
        writer.write(asked)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    writer.write(GET + b"Connection: close\r\n\r\n")
    assert Answers(await reader.read()).all[0][2] == b"hello"
    writer.close()


async def test_the_hook_is_asked_each_time(start: Any, clients: Any) -> None:
    permitted = [True, True, False, True]
    asked = []

    def authorize(action: Any, path: Any, request: Any) -> Any:
        asked.append(action)
        return permitted.pop(0)

    running = await start(authorize=authorize)
    client = await clients(running)
    assert [(await client.append(b"x")) for _ in range(4)] == [204, 204, 403, 204]
    assert asked == ["append"] * 4


async def test_a_token_opens_for_the_head_that_brings_it_only(start: Any, clients: Any) -> None:
    running = await start(token="secret")
    client = await clients(running)
    good, bad = b"Authorization: Bearer secret\r\n", b"Authorization: Bearer secrex\r\n"
    answers = [await client.append(b"x", head) for head in (good, good, bad, b"", good, bad)]
    assert answers == [204, 204, 401, 401, 204, 401]


async def test_a_request_log_misses_none(
    start: Any, clients: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "durable_streams_server.http")
    running = await start()
    client = await clients(running)
    for _ in range(3):
        await client.append(b"x")
    assert caplog.messages.count("POST s") == 3


async def permits(action: Any, path: Any, request: Any) -> Any:
    # The request's bytes are all here; the connection could look at more of them meanwhile.
    for _ in range(5):
        await asyncio.sleep(0)
    return True


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"DELETE"])
async def test_a_body_that_nobody_wants_is_no_request_while_access_is_asked_for(
    start: Any, method: bytes
) -> None:
    running = await start(authorize=permits)
    await running.engine.create("t", content_type="text/plain", data="secret")
    hidden = b"DELETE /v1/stream/s HTTP/1.1\r\nHost: x\r\n\r\n" + (
        GET.replace(b"/s ", b"/t ") + END
    )
    outer = method + b" /v1/stream/other HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"
    answers = Answers(await exchange(running.port, outer + hidden, end=False))
    assert answers.statuses == (404,)
    assert answers.all[0][1][b"connection"] == b"close"
    assert await text(running) == b"hello"


@pytest.mark.parametrize(
    "value",
    [b"1\nTransfer-Encoding: chunked", b"1\n\n", b"1\x00", b"\x7f", b"1\n\nGET /x HTTP/1.1\n\n"],
)
@pytest.mark.parametrize("method", [b"PUT", b"POST", b"DELETE", b"GET"])
async def test_a_number_that_holds_a_line_end_is_refused_also_once_its_head_is_known(
    start: Any, method: bytes, value: bytes
) -> None:
    running = await start()
    await running.engine.create("n", content_type="text/plain")
    head = method + b" /v1/stream/n HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\n"
    head += b"Content-Length: 1\r\nProducer-Id: p\r\nProducer-Epoch: 0\r\nProducer-Seq: "
    reader, writer = await connect(running.port)
    for _ in range(3):
        writer.write(head + b"0\r\n\r\na")
        answer = await reader.readuntil(b"\r\n\r\n")
        if length := answer.partition(b"content-length: ")[2].partition(b"\r\n")[0]:
            await reader.readexactly(int(length))
    writer.write(head + value + b"\r\n\r\na")
    answers = Answers(await reader.read())
    assert answers.statuses == (400,)
    assert answers.all[0][1][b"connection"] == b"close"
    writer.close()


@pytest.mark.parametrize("value", [b" 0", b"\t0"])
async def test_odd_spaces_mean_the_same_before_and_after_a_head_is_known(
    start: Any, clients: Any, value: bytes
) -> None:
    running = await start()
    client = await clients(running)
    batch = b"Producer-Id: p\r\nProducer-Epoch: 0\r\nProducer-Seq:"
    assert await client.append(b"a", batch + value + b"\r\n") == 200
    for _ in range(3):
        assert await client.append(b"a", batch + b" 0\r\n") == 204
    assert await client.append(b"a", batch + value + b"\r\n") == 204


async def test_a_request_log_that_is_switched_on_misses_none(
    start: Any, clients: Any, caplog: pytest.LogCaptureFixture
) -> None:
    running = await start()
    client = await clients(running)
    for _ in range(3):
        await client.append(b"x")
    caplog.set_level(logging.DEBUG, "durable_streams_server.http")
    for _ in range(3):
        await client.append(b"x")
    assert caplog.messages.count("POST s") == 3


async def test_an_empty_line_before_a_request_leaves_no_trace(start: Any) -> None:
    running = await start()
    reader, writer = await connect(running.port)
    (connection,) = await held(running)
    for _ in range(3):
        writer.write(b"\r\n")
        await turns()
        writer.write(GET + END)
        await reader.readuntil(b"hello")
        assert connection.held == 0
        assert connection.awaited is Awaited.REQUEST
    writer.close()


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.mark.parametrize("line", [b"Proxy-Connection: close\r\n", b"Connection: close\r\n"])
async def test_a_connection_that_is_to_close_says_so_and_closes(start: Any, line: bytes) -> None:
    running = await start()
    reader, writer = await connect(running.port)
    writer.write(GET + line + END)
    answers = Answers(await reader.read())
    assert answers.statuses == (200,)
    assert answers.all[0][1][b"connection"] == b"close"
    writer.close()


async def test_a_reader_that_stalls_has_the_write_time_limit(start: Any) -> None:
    running = await start(Bounds(write_timeout=5, idle_timeout=500))
    await running.engine.create("big", content_type="text/plain", data="y" * 60_000)
    _reader, writer = await connect(running.port)
    writer.transport.pause_reading()
    read = (GET + END).replace(b"/s ", b"/big ")
    (connection,) = await held(running)
    while connection.awaited is not Awaited.CLIENT:
        writer.write(read)
        await turns()
    assert connection.deadline <= running.server.now + 5
    writer.close()


async def test_a_question_of_access_that_nobody_waits_for_is_dropped(start: Any) -> None:
    """It was left never awaited, which is a warning."""
    answered = asyncio.Event()

    async def permits_later(action: Any, path: Any, request: Any) -> Any:
        await answered.wait()
        return True

    running = await start(authorize=permits_later)
    _reader, writer = await connect(running.port)
    writer.write((GET + END) * 5)
    (connection,) = await held(running)
    await until(lambda: connection.awaited is Awaited.RESPONSE)
    writer.transport.abort()
    answered.set()
    await until(lambda: not len(running.server))


async def test_a_bug_in_looking_at_a_request_is_an_answer(
    start: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    running = await start()

    def fail(_path: str, _max_bytes: int) -> str:
        raise ValueError("a bug")

    monkeypatch.setattr("durable_streams_server.http.handler.decode_path", fail)
    answers = Answers(await exchange(running.port, GET + END))
    assert answers.statuses == (500,)
    assert "a bug" in caplog.text
