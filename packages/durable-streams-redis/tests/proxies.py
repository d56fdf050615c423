"""A TCP proxy that cuts connections where a test wants it, and that speaks TLS where it has to."""

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Self

from durable_streams_redis.scripts import COMMIT, COMMIT_WHEN_FULL

BEFORE = "before"
"""The request never arrives."""
INSIDE = "inside"
"""Half of the request arrives."""
DURING = "during"
"""The request arrives, and the connection is gone before the script has ended."""
AFTER = "after"
"""The script has ended, and its answer never arrives."""


def is_commit(data: bytes) -> bool:
    return COMMIT.sha in data or COMMIT_WHEN_FULL.sha in data


class Proxy:
    """Forwards to a port of this machine. ``cut`` says where the next request that ``matches`` is
    cut; then it forwards again. ``refusing`` closes whatever connects. With ``tls`` it is
    reached over TLS, and forwards what is inside.
    """

    def __init__(
        self,
        port: int,
        matches: Callable[[bytes], bool] = is_commit,
        *,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._target = port
        self._tls = tls
        self._matches = matches
        self.cut: str | None = None
        self.refusing = False
        self.cuts = 0
        self.connections = 0
        self.requests: list[bytes] = []
        """The requests that matched and were passed on, or half of them."""
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._server.close()
        self.drop()
        await asyncio.gather(*self._tasks)
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def drop(self) -> None:
        """Cut every connection now."""
        for writer in tuple(self._open):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(asyncio.current_task())
        try:
            await self._forward(reader, writer)
        finally:
            self._tasks.discard(asyncio.current_task())
            writer.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing:
            return
        self.connections += 1
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target)
        self._open |= {writer, server_writer}
        silent = False

        async def requests() -> None:
            nonlocal silent
            while data := await reader.read(1 << 20):
                if self._matches(data):
                    cut, self.cut = self.cut, None
                    self.cuts += cut is not None
                    if cut == BEFORE:
                        return
                    self.requests.append(data)
                    if cut == INSIDE:
                        server_writer.write(data[: len(data) // 2])
                        await server_writer.drain()
                        return
                    silent = cut == AFTER
                    if cut == DURING:
                        server_writer.write(data)
                        await server_writer.drain()
                        return
                server_writer.write(data)
                await server_writer.drain()

        async def replies() -> None:
            while data := await server_reader.read(1 << 20):
                if silent:
                    return
                writer.write(data)
                await writer.drain()

        tasks = [asyncio.ensure_future(requests()), asyncio.ensure_future(replies())]
        with suppress(OSError):
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._open -= {writer, server_writer}
        # Written data still arrives: closing sends it first.
        server_writer.close()
