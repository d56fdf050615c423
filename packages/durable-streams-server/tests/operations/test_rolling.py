"""Starting, draining and rolling updates, with real processes."""

import asyncio
import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from command_process import ended, running
from ports import free_port
from wire import Connection, Events, request_bytes

from durable_streams_core.errors import StoreInUse
from durable_streams_server import Engine, MemoryStore
from durable_streams_server.cli.command import main
from durable_streams_server.cli.operating import operating
from durable_streams_server.cli.rolling import RETRY_SECONDS, take_address
from durable_streams_server.frontends.mount import Mount
from durable_streams_server.frontends.servers import FRONT_ENDS
from durable_streams_server.frontends.sockets import inherit
from durable_streams_server.http.options import Options

STREAM = "/v1/stream/a"
TEXT = {"content-type": "text/plain"}


async def connected(port: int) -> Connection:
    """A connection to a server that may not listen yet."""
    while True:
        try:
            return await Connection.to(port)
        except ConnectionError:
            await asyncio.sleep(0.01)


async def readiness(port: int) -> tuple[int, Any]:
    async with await connected(port) as connection:
        answer = await connection.request("GET", "/ready")
        return answer.status, answer.json.get("code", "ready")


PATIENT = """
from durable_streams_server.cli.command import main
from durable_streams_server.frontends.standalone import server
server.FRESH_SECONDS = 60.0
main()
"""
"""The command, which gives clients a minute to send a request after they connected. The usual
quarter of a second is too short for clients on a busy machine.
"""


@asynccontextmanager
async def process(
    *options: str, entry: tuple[str, ...] = ("-m", "durable_streams_server"), **more: Any
) -> AsyncIterator[asyncio.subprocess.Process]:
    """The command in a process that may not be able to serve yet."""
    started = await asyncio.create_subprocess_exec(
        *(sys.executable, *entry, *options),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **more,
    )
    try:
        yield started
    finally:
        if started.returncode is None:
            started.kill()
        await started.communicate()


async def serves(started: asyncio.subprocess.Process) -> None:
    """Wait for the line that says that it serves."""
    assert started.stdout is not None
    line = await started.stdout.readline()
    assert line.startswith(b"Serving durable streams"), line


@pytest.mark.parametrize("front_end", FRONT_ENDS)
async def test_it_listens_and_says_that_it_is_starting_until_the_store_is_open(
    front_end: str, tmp_path: Path
) -> None:
    directory, port = tmp_path / "data", free_port()
    directory.mkdir()
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        options = ["--port", str(port), "--front-end", front_end, "--wait", "60"]
        async with process("--store", f"file:{directory}", *options) as started:
            assert await readiness(port) == (503, "starting")
            async with await Connection.to(port) as connection:
                assert (await connection.request("GET", "/health")).status == 200
                answer = await connection.request("PUT", STREAM, TEXT)
                assert (answer.status, answer["retry-after"]) == (503, "1")
                fcntl.flock(lock, fcntl.LOCK_UN)
                await serves(started)
                assert await readiness(port) == (200, "ready")
                assert (await connection.request("PUT", STREAM, TEXT)).status == 201


async def test_a_server_that_waits_for_its_store_ends_when_it_is_told_to(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        port = free_port()
        options = ["--store", f"file:{tmp_path}", "--port", str(port), "--wait", "60"]
        async with process(*options) as started:
            assert await readiness(port) == (503, "starting")
            status, out, _ = await ended(started)
            assert (status, out) == (0, "")


async def test_a_directory_that_stays_taken_ends_the_wait_with_a_sentence(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        async with process(
            "--store", f"file:{tmp_path}", "--port", "0", "--wait", "0.1"
        ) as started:
            _, err = await started.communicate()
            assert started.returncode == 1
            assert b"is in use by another process" in err


async def test_a_taken_port_is_waited_for() -> None:
    port = free_port()
    with socket.create_server(("127.0.0.1", port)) as taken:
        options = ["--store", "memory:", "--port", str(port), "--wait", "60"]
        async with process(*options) as started:
            assert started.stderr is not None
            await started.stderr.readuntil(b"waiting up to 60 s")
            taken.close()
            await serves(started)
            assert await readiness(port) == (200, "ready")


async def test_of_two_waiters_none_gets_the_port_while_the_other_gets_the_directory() -> None:
    attempts: list[str] = []

    async def listen() -> str:
        attempts.append("port")
        if len(attempts) == 1:
            raise OSError(errno.EADDRINUSE, "taken")
        return "listening"

    async def opening() -> None:
        await directory.wait()
        attempts.append("directory")

    directory = asyncio.Event()
    opened = asyncio.create_task(opening())
    waiting = asyncio.create_task(take_address(listen, opened, 60))
    await asyncio.wait([waiting], timeout=3 * RETRY_SECONDS)
    assert attempts == ["port"]
    directory.set()
    assert await waiting == "listening"
    assert attempts == ["port", "directory", "port"]


async def test_a_directory_that_stays_taken_ends_the_wait_for_the_port_too() -> None:
    async def listen() -> None:
        raise OSError(errno.EADDRINUSE, "taken")

    opening = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(take_address(listen, opening, 60))
    await asyncio.sleep(0)
    opening.set_exception(StoreInUse("it stays taken"))
    with pytest.raises(StoreInUse):
        await waiting


def metrics_at(port: int) -> dict[str, Any]:
    return {
        "access_log": False,
        "metrics": False,
        "metrics_address": f"127.0.0.1:{port}",
        "tracing": False,
        "trusted_proxy": (),
        "wait": 60.0,
    }


async def test_the_address_of_metrics_that_the_old_process_has_is_waited_for(
    memory: MemoryStore,
) -> None:
    mount = Mount(Engine(memory), Options(), None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with operating(metrics_at(port), mount, "/v1/stream/", None):
            taken.close()
            async with await connected(port) as connection:
                assert (await connection.request("GET", "/metrics")).status == 200


async def test_a_process_that_still_waits_for_the_address_of_metrics_ends_cleanly(
    memory: MemoryStore,
) -> None:
    mount = Mount(Engine(memory), Options(), None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        before = asyncio.all_tasks()
        async with operating(metrics_at(taken.getsockname()[1]), mount, "/v1/stream/", None):
            assert len(asyncio.all_tasks() - before) == 1
        assert asyncio.all_tasks() == before


@pytest.mark.parametrize("front_end", FRONT_ENDS)
async def test_it_serves_on_while_it_drains_and_ends_readers_properly(front_end: str) -> None:
    options = ("--port", "0", "--front-end", front_end, "--drain-delay", "60")
    async with running(*options) as (started, port, _):
        sse, old = await Connection.to(port), await Connection.to(port)
        assert (await old.request("PUT", STREAM, TEXT, b"x")).status == 201
        await sse.send(request_bytes("GET", STREAM + "?offset=-1&live=sse"))
        events = Events(sse, (await sse.head())[1])
        assert (await events.batch())[0] == "x"
        started.send_signal(signal.SIGTERM)
        await started.stderr.readuntil(b"draining for 60 s")
        assert await readiness(port) == (503, "draining")
        # A connection from before is asked to leave, with its next response.
        answer = await old.request("POST", STREAM, TEXT, b"y")
        assert (answer.status, answer["connection"]) == (204, "close")
        assert await old.reader.read() == b""
        async with await Connection.to(port) as new:
            answer = await new.request("GET", STREAM + "?offset=-1")
            assert (answer.status, answer["connection"], answer.body) == (200, "close", b"xy")
        assert (await events.batch())[0] == "y"
        status, out, _ = await ended(started)
        assert (status, out) == (0, "")
        assert await events.rest() == []
        for connection in (sse, old):
            connection.abort()


class Load:
    """Appends and reads without a pause, each request once. ``failures`` says what went wrong."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.done = 0
        self.failures: list[str] = []
        self.written: list[bytes] = []
        self._stop = False

    async def run(self, name: str, *, keep: bool) -> None:
        number = 0
        while not self._stop:
            async with await Connection.to(self.port) as connection:
                while not self._stop:
                    number += 1
                    data = f"{name}{number};".encode()
                    try:
                        answer = await connection.request("POST", STREAM, TEXT, data)
                    except (OSError, EOFError) as error:
                        self.failures.append(f"{data!r}: {error!r}")
                        break
                    self.done += 1
                    if answer.status == 204:
                        self.written.append(data)
                    else:
                        self.failures.append(f"{data!r}: {answer}")
                    if not keep or answer.get("connection") == "close":
                        break

    async def more(self, count: int) -> None:
        """Wait until so many more requests were answered."""
        wanted = self.done + count
        while self.done < wanted and not self.failures:
            await asyncio.sleep(0.01)

    def stop(self) -> None:
        self._stop = True


async def test_a_roll_on_a_shared_listener_fails_no_request_and_loses_nothing(
    tmp_path: Path,
) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        port = listener.getsockname()[1]
        number = listener.fileno()
        options = ["--store", f"file:{tmp_path}", "--fd", str(number), "--drain-delay", "0.3"]
        shared: dict[str, Any] = {"pass_fds": (number,), "entry": ("-c", PATIENT)}
        async with process(*options, **shared) as first:
            await serves(first)
            async with await Connection.to(port) as connection:
                assert (await connection.request("PUT", STREAM, TEXT)).status == 201
            load = Load(port)
            writers = [
                asyncio.create_task(load.run(f"w{each}-", keep=each % 2 == 0)) for each in range(4)
            ]
            await load.more(50)
            async with process(*options, "--wait", "60", **shared) as second:
                assert second.stderr is not None
                await second.stderr.readuntil(b"waiting up to 60 s")
                await load.more(20)
                first.send_signal(signal.SIGTERM)
                await serves(second)
                assert await first.wait() == 0
                await load.more(50)
                load.stop()
                await asyncio.gather(*writers)
                async with await Connection.to(port) as connection:
                    read = (await connection.request("GET", STREAM + "?offset=-1")).body
            assert load.failures == []
            assert sorted(read.split(b";")[:-1]) == sorted(each[:-1] for each in load.written)


def test_a_descriptor_that_is_not_a_listening_socket_is_refused(tmp_path: Path) -> None:
    number = os.open(tmp_path / "file", os.O_CREAT)
    with pytest.raises(OSError, match=r"not a socket|non-socket"):
        inherit(number)
    os.close(number)
    with socket.socket() as unbound, pytest.raises(OSError, match="does not listen"):
        inherit(os.dup(unbound.fileno()))
    result = CliRunner().invoke(main, ["--store", "memory:", "--fd", "12345"])
    assert result.exit_code == 1
    assert "Descriptor 12345 is not a listening socket" in result.output
