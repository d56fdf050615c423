"""How connections are accepted: how many, by whom, and what must not stop that."""

import asyncio
import errno
import os
import resource
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Start
from raw_answers import Answers, exchange
from raw_corpus import END, GET
from servers import ANY
from test_bounds import connect, until

from durable_streams_server import Engine
from durable_streams_server.frontends.mount import Mount
from durable_streams_server.frontends.servers import FRONT_ENDS, Address
from durable_streams_server.frontends.sockets import listen_at_path
from durable_streams_server.frontends.standalone import Bounds
from durable_streams_server.frontends.standalone.bounds import connections_allowed
from durable_streams_server.frontends.tls import Certificate
from durable_streams_server.http.options import Options


async def test_a_connection_in_its_tls_handshake_counts(
    start: Start, certificate: tuple[Path, Path]
) -> None:
    running = await start(Bounds(max_connections=2))
    tls = Certificate(*map(str, certificate)).context
    port = await running.server.listen("127.0.0.1", 0, tls=tls)
    silent = [await connect(port) for _ in range(2)]
    await until(lambda: len(running.server) == 2)
    # One more costs no descriptor.
    reader, writer = await connect(port)
    assert await reader.read() == b""
    writer.close()
    assert len(running.server) == 2
    for _, writer in silent:
        writer.close()


async def test_a_tls_handshake_has_the_header_time_limit(
    start: Start, certificate: tuple[Path, Path]
) -> None:
    running = await start(Bounds(header_timeout=0.1))
    tls = Certificate(*map(str, certificate)).context
    port = await running.server.listen("127.0.0.1", 0, tls=tls)
    reader, writer = await connect(port)
    assert await reader.read() == b""
    writer.close()
    await until(lambda: len(running.server) == 0)


async def test_connections_that_are_refused_cost_a_bounded_number_of_descriptors(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durable_streams_server.frontends.standalone.server.MAX_REFUSED", 2)
    running = await start(Bounds(max_connections=1))
    clients = [await connect(running.port) for _ in range(10)]
    answers = [await reader.read() for reader, _ in clients[1:]]
    assert [Answers(answer).statuses for answer in answers[:2]] == [(503,), (503,)]
    assert answers[2:] == [b""] * 7
    for _, writer in clients:
        writer.close()


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ECONNABORTED])
async def test_accepting_goes_on_after_an_error_of_the_system(
    start: Start, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    loop = asyncio.get_running_loop()
    accept = loop.sock_accept
    failures = [OSError(code, os.strerror(code))] * 2

    async def failing(listener: socket.socket) -> tuple[socket.socket, Any]:
        if failures:
            raise failures.pop()
        return await accept(listener)

    monkeypatch.setattr(loop, "sock_accept", failing)
    running = await start()
    assert Answers(await exchange(running.port, GET + END)).statuses == (200,)
    assert not failures


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such limit")
@pytest.mark.parametrize(
    "files, allowed",
    [
        (100, 50),
        (256, 128),
        (1024, 768),
        (100_000, 20_000),
        (resource.RLIM_INFINITY, 20_000),
    ],
)
def test_connections_leave_descriptors_to_the_store(
    monkeypatch: pytest.MonkeyPatch, files: int, allowed: int
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (files, files))
    assert connections_allowed(Bounds()) == allowed
    assert connections_allowed(Bounds(max_connections=10)) == 10


@pytest.fixture
async def mount() -> Any:
    async with Engine("memory:") as engine:
        await engine.create("s", content_type="text/plain", data="hello")
        yield Mount(engine, Options(), None)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path: that of a socket has at most 107 bytes, and pytest's are long."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.mark.parametrize("front_end", FRONT_ENDS)
async def test_a_unix_socket_that_a_server_listens_on_is_not_taken_over(
    mount: Mount, folder: Path, front_end: str
) -> None:
    path = folder / "socket"
    address = Address("", 0, unix=str(path))
    async with FRONT_ENDS[front_end](mount, ROOT, address):
        with pytest.raises(OSError, match="in use"):
            async with FRONT_ENDS[front_end](mount, ROOT, address):
                pass
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(GET + END)
        await reader.readuntil(b"hello")
        writer.close()


@pytest.mark.parametrize("front_end", FRONT_ENDS)
async def test_a_unix_socket_that_was_left_behind_is_replaced(
    mount: Mount, folder: Path, front_end: str
) -> None:
    path = folder / "socket"
    listen_at_path(str(path)).close()
    assert path.is_socket()
    async with FRONT_ENDS[front_end](mount, ROOT, Address("", 0, unix=str(path))):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(GET + END)
        await reader.readuntil(b"hello")
        writer.close()


def test_a_file_at_the_path_of_a_unix_socket_is_left_alone(folder: Path) -> None:
    path = folder / "socket"
    path.write_text("precious")
    with pytest.raises(OSError, match="in use"):
        listen_at_path(str(path))
    assert path.read_text() == "precious"


@pytest.mark.parametrize("front_end", FRONT_ENDS)
async def test_a_port_that_is_taken_is_an_error(mount: Mount, front_end: str) -> None:
    async with FRONT_ENDS[front_end](mount, ROOT, ANY) as port:
        with pytest.raises(OSError, match="in use"):
            async with FRONT_ENDS[front_end](mount, ROOT, Address("127.0.0.1", port)):
                pass


async def test_a_name_with_several_addresses_gets_one_port(start: Start) -> None:
    running = await start()
    port = await running.server.listen("localhost", 0)
    for _, _, _, _, address in socket.getaddrinfo("localhost", port, type=socket.SOCK_STREAM):
        reader, writer = await asyncio.open_connection(address[0], port)
        writer.write(GET + END)
        await reader.readuntil(b"hello")
        writer.close()
