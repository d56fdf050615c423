"""A relay between clients and one server, which breaks what it is told to break.

It takes one request of each connection, and sends it to the server on a connection of its own. Both
are closed after the response, which is passed on as it comes.
"""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Protocol

MAX_HEAD_BYTES: Final = 64 * 1024
MAX_BODY_BYTES: Final = 64 * 1024 * 1024
CHUNK_BYTES: Final = 64 * 1024


class Fault(Protocol):
    """What goes wrong with one request; see :class:`~pytest_durable_streams.Rule`."""

    delay: float
    refusal: bytes | None
    forward: int
    cut: int | None
    headless: bool


@dataclass(frozen=True, slots=True)
class Request:
    """A request as it came."""

    method: str
    target: str
    headers: dict[str, str]
    head: bytes
    body: bytes
    """Decoded."""


class Relay:
    """Runs in the event loop that calls :meth:`start`. ``rule_for`` says what goes wrong."""

    def __init__(self, server_port: int) -> None:
        self.port = 0
        """The port on 127.0.0.1, which stays the same when the relay starts again."""
        self.rule_for: Callable[[Request], Fault | None] = lambda _: None
        self._server_port = server_port
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def start(self) -> None:
        """Accept connections."""
        self._server = await asyncio.start_server(
            self._accepted, "127.0.0.1", self.port, limit=MAX_HEAD_BYTES
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Accept no more connections, and break those that are open."""
        if self._server is not None:
            server, self._server = self._server, None
            await _close_listening(server)
        for task, writer in self._connections.items():
            writer.transport.abort()
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._server is None:  # accepted just before the relay was stopped
            writer.transport.abort()
            return
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._connections[task] = writer
        task.add_done_callback(self._connections.pop)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await read_request(reader)
            await unless_gone(self._respond(request, writer), reader)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError):
            pass  # the client or the server broke off: so does the relay
        finally:
            await close(writer)

    async def _respond(self, request: Request, writer: asyncio.StreamWriter) -> None:
        fault = self.rule_for(request)
        if fault is None:
            await self._pass_on(request, writer, None)
            return
        await asyncio.sleep(fault.delay)
        if fault.refusal is not None:
            writer.write(fault.refusal)
            return
        for last in range(fault.forward, 0, -1):
            passed_on = last == 1 and not fault.headless
            await self._pass_on(request, writer if passed_on else None, fault.cut)

    async def _pass_on(
        self, request: Request, writer: asyncio.StreamWriter | None, cut: int | None
    ) -> None:
        """Have the server answer; without ``writer``, wait for the head of its response only."""
        answer, ask = await asyncio.open_connection("127.0.0.1", self._server_port)
        try:
            ask.write(request.head + request.body)
            head = await answer.readuntil(b"\r\n\r\n")
            if writer is None:
                return
            writer.write(head)
            left = cut
            while left is None or left > 0:
                data = await answer.read(CHUNK_BYTES if left is None else min(left, CHUNK_BYTES))
                if not data:
                    return
                writer.write(data)
                await writer.drain()
                if left is not None:
                    left -= len(data)
        finally:
            ask.transport.abort()


async def unless_gone(work: Coroutine[Any, Any, None], reader: asyncio.StreamReader) -> None:
    """Run ``work``, or until the client that is read from goes away."""
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(reader.read(1))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
    finally:
        for task in working, leaving:
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def close(writer: asyncio.StreamWriter) -> None:
    """Close a connection after what was written to it, or at once if this is cancelled."""
    try:
        with suppress(OSError):
            writer.close()
            await writer.wait_closed()
    finally:
        writer.transport.abort()


async def read_request(reader: asyncio.StreamReader) -> Request:
    """Read a whole request; raises ValueError for one that the relay does not understand."""
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    method, target, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    if headers.get("transfer-encoding", "").lower() == "chunked":
        body = await read_chunks(reader)
    else:
        body = await reader.readexactly(checked(int(headers.get("content-length", 0))))
    dropped = ("connection", "transfer-encoding", "content-length", "expect")
    kept = [line for line in lines if line.partition(":")[0].lower() not in dropped]
    if body or "content-length" in headers or "transfer-encoding" in headers:
        kept.append(f"Content-Length: {len(body)}")
    sent = "\r\n".join([first, *kept, "Connection: close", "", ""]).encode("latin-1")
    return Request(method, target, headers, sent, body)


async def read_chunks(reader: asyncio.StreamReader) -> bytes:
    """A body that was sent in chunks, and after it the trailers, which are dropped."""
    body = b""
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        checked(len(body) + size)
        body += (await reader.readexactly(size + 2))[:-2]
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass
    return body


def checked(size: int) -> int:
    """The size of a body, if the relay takes as much."""
    if not 0 <= size <= MAX_BODY_BYTES:
        raise ValueError(f"a body of {size} bytes")
    return size


async def _close_listening(server: asyncio.Server) -> None:
    """Close a server, but not before what it accepted in this turn of the loop.

    asyncio would leave such a connection open, and whatever test runs when it is collected would
    be blamed.
    """
    loop = asyncio.get_running_loop()
    with suppress(NotImplementedError):  # Windows
        for listener in server.sockets:
            loop.remove_reader(listener.fileno())
    await asyncio.sleep(0)
    server.close()
