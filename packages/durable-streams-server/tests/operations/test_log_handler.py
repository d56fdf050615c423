"""The handler of the command's log: lines in order and whole, and no waiting for their reader."""

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import Iterator
from typing import NoReturn

import pytest
from command_process import ended, running

from durable_streams_server.operations.access_log import LOGGER, Entry
from durable_streams_server.operations.log_formats import JsonFormatter, LineFormatter
from durable_streams_server.operations.log_handler import MAX_WAITING, PIECE, LineHandler


def entry(path: str) -> Entry:
    return Entry("192.0.2.1", "POST", path, 204, "append", 5, 0, 0.000412, "token:a", "r-1", "0a")


def record(message: str) -> logging.LogRecord:
    return logging.LogRecord("some.logger", logging.WARNING, __file__, 1, message, (), None)


class Pipe:
    """A pipe: both of its ends."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        os.set_blocking(self.reading, False)

    def take(self) -> bytes:
        """Everything that was written."""
        taken = b""
        while True:
            try:
                piece = os.read(self.reading, 1024 * 1024)
            except BlockingIOError:
                return taken
            if not piece:
                return taken
            taken += piece


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    for descriptor in made.reading, made.writing:
        os.close(descriptor)


@pytest.mark.parametrize("formatter", [LineFormatter, JsonFormatter])
def test_an_entry_is_written_as_logging_would_write_it(
    formatter: type[LineFormatter], pipe: Pipe
) -> None:
    made = logging.LogRecord(LOGGER, logging.INFO, __file__, 1, "%s", (entry("a"),), None)
    written = formatter().format(made)
    if formatter is LineFormatter:
        begin, _, rest = written.partition(",")
        written = f"{begin},{int((made.created - int(made.created)) * 1000):03d}{rest[3:]}"
    assert formatter().format_entry(entry("a"), made.created) == written


async def test_entries_and_records_keep_their_order(pipe: Pipe) -> None:
    handler = LineHandler(pipe.writing, LineFormatter())
    handler.write_entry(entry("first"))
    handler.write_entry(entry("second"))
    handler.handle(record("third"))
    handler.write_entry(entry("fourth"))
    handler.flush()
    lines = pipe.take().decode().splitlines()
    for line, word in zip(lines, ("first", "second", "third", "fourth"), strict=True):
        assert word in line


async def test_a_reader_that_stops_reading_neither_blocks_the_loop_nor_takes_its_memory(
    pipe: Pipe,
) -> None:
    handler = LineHandler(pipe.writing, JsonFormatter())
    number = 4 * MAX_WAITING // 2048
    for n in range(number):
        handler.write_entry(entry("x" * 2048))
        if n % 100 == 0:
            await asyncio.sleep(0)
    dropped = handler.dropped
    assert number // 2 < dropped < number
    taken = b""
    handler.handle(record("after the pause"))
    while b"lines of the log were dropped" not in taken:
        taken += pipe.take()
        handler.flush()
        await asyncio.sleep(0)
    lines = [json.loads(line) for line in (taken + pipe.take()).splitlines()]
    told = next(line["message"] for line in lines if "dropped" in line.get("message", ""))
    assert told.startswith(f"{handler.dropped} lines")
    requests = sum("path" in line for line in lines)
    others = sum(line.get("message") == "after the pause" for line in lines)
    assert requests + others + handler.dropped == number + 1


async def test_a_slow_reader_gets_the_rest_without_another_line(pipe: Pipe) -> None:
    handler = LineHandler(pipe.writing, LineFormatter())
    for n in range(500):
        handler.write_entry(entry(f"{n:04d}" + "x" * 1000))
    handler.handle(record("the last"))
    taken = b""
    while b"the last" not in taken:
        taken += pipe.take()
        await asyncio.sleep(0)
    assert len(taken.splitlines()) == 501
    assert handler.dropped == 0


@pytest.mark.skipif(not hasattr(os, "O_DIRECT"), reason="pipes of this system have no packets")
async def test_lines_of_processes_that_share_a_pipe_are_whole_in_each_write() -> None:
    # Each read of such a pipe returns what one write wrote.
    reading, writing = os.pipe2(os.O_DIRECT | os.O_NONBLOCK)
    try:
        handler = LineHandler(writing, LineFormatter())
        for n in range(150):
            handler.write_entry(entry("x" * (n * 7)))
        handler.flush()
        pieces = []
        while sum(piece.count(b"\n") for piece in pieces) < 150:
            try:
                pieces.append(os.read(reading, PIECE))
            except BlockingIOError:
                await asyncio.sleep(0)
        assert all(piece.endswith(b"\n") for piece in pieces)
        assert len(pieces) < 50
    finally:
        os.close(reading)
        os.close(writing)


async def test_a_reader_that_is_gone_stops_nothing_and_its_lines_are_counted() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        handler = LineHandler(writing, LineFormatter())
        handler.write_entry(entry("a"))
        handler.handle(record("b"))
        assert handler.dropped == 2
    finally:
        os.close(writing)


def test_where_no_loop_runs_a_line_is_written_at_once(pipe: Pipe) -> None:
    handler = LineHandler(pipe.writing, LineFormatter())
    handler.write_entry(entry("a"))
    assert pipe.take().count(b"\n") == 1


async def test_every_request_before_sigterm_is_in_the_log_in_order() -> None:
    options = ("--port", "0", "--access-log", "--log-format", "json")
    async with running(*options) as (process, port, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for n in range(30):
            writer.write(
                b"PUT /v1/stream/s%d HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain\r\n"
                b"Content-Length: 0\r\n\r\n" % n
            )
        answers = 0
        while answers < 30:
            answers += (await reader.read(65536)).count(b"HTTP/1.1 201")
        status, _, err = await ended(process)
        writer.close()
    assert status == 0
    paths = [found["path"] for found in map(json.loads, err.splitlines()) if "path" in found]
    assert paths == [f"/v1/stream/s{n}" for n in range(30)]


async def test_the_log_of_a_handler_that_crashes_has_its_traceback_and_its_request(
    pipe: Pipe,
) -> None:
    handler = LineHandler(pipe.writing, JsonFormatter())
    handler.write_entry(entry("before"))
    try:
        raise ValueError("a bug")
    except ValueError as error:
        failed = record("responding to a request failed")
        failed.exc_info = (type(error), error, error.__traceback__)
        handler.handle(failed)
    handler.write_entry(entry("itself"))
    handler.flush()
    before, crash, itself = map(json.loads, pipe.take().splitlines())
    assert (before["path"], itself["path"]) == ("before", "itself")
    assert "ValueError: a bug" in crash["exception"]


def test_an_entry_whose_event_loop_ended_at_once_delays_none_of_the_next_loop(pipe: Pipe) -> None:
    handler = LineHandler(pipe.writing, LineFormatter())

    async def write(path: str) -> None:
        handler.write_entry(entry(path))

    async def write_and_wait() -> bytes:
        await write("b")
        taken = b""
        while not taken:
            taken = pipe.take()
            await asyncio.sleep(0)
        return taken

    asyncio.run(write("a"))
    assert len(asyncio.run(write_and_wait()).splitlines()) == 2


def test_a_line_is_written_though_its_event_loop_ends_meanwhile(pipe: Pipe) -> None:
    taken: list[bytes] = []

    class Ended(asyncio.SelectorEventLoop):
        """Says what a loop says that is closed between the question whether it runs and this."""

        def call_soon_threadsafe(self, *_: object, **__: object) -> NoReturn:
            taken.append(pipe.take())
            raise RuntimeError("Event loop is closed")

    handler = LineHandler(pipe.writing, LineFormatter())

    async def write() -> None:
        os.set_blocking(pipe.writing, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(pipe.writing, b"x" * PIECE)
        handler.handle(record("the last"))

    with asyncio.Runner(loop_factory=Ended) as runner:
        runner.run(write())
    assert taken
    assert b"the last" in pipe.take()
