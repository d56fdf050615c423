"""Connections to one server, used so that it is always known what was certainly not sent.

redis-py makes the connections (addresses, TLS, credentials) and reads replies. Its retries are off:
a commit may be repeated only under its id, and that is the engine's business.

* :class:`Unreachable`: nothing was sent.
* :class:`Lost`: it was sent, or part of it, and the reply never came.
* redis-py's errors: the server's own answer.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    BusyLoadingError,
    RedisError,
    ResponseError,
)

from durable_streams_redis.scripts import pack

_PING = pack(b"PING")

_ANSWERS = (AuthenticationError, AuthorizationError, BusyLoadingError)
"""What the server answered although redis-py files it under failures of the connection."""


class Unreachable(Exception):
    """The server could not be asked; nothing was sent."""


class Lost(Exception):
    """No reply: it may have been done or not."""


Reply = Any
"""A reply, or one of the errors above as a value."""


class Server:
    """A pool of connections to one server.

    Calls made in the same turn of the event loop share a pipeline (:meth:`call`); a batch of
    commits is a pipeline of its own (:meth:`execute`).
    """

    def __init__(
        self,
        name: str,
        make: Callable[[], AbstractConnection],
        *,
        connections: int,
        timeout: float,
    ) -> None:
        self.name = name
        self._make = make
        self._timeout = timeout
        self._idle: list[AbstractConnection] = []
        self._places = asyncio.Semaphore(connections)
        self._gathered: deque[tuple[bytes, asyncio.Future[Reply]]] = deque()
        self._flushes: set[asyncio.Task[None]] = set()
        self._scheduled = False
        self._closed = False

    async def connect(self) -> AbstractConnection:
        """A connection of the caller's own, which it disconnects."""
        connection = self._make()
        try:
            async with asyncio.timeout(self._timeout):
                await connection.connect()  # type: ignore[no-untyped-call]
                # A server that is still loading its data accepts connections and no commands.
                await connection.send_packed_command([_PING], check_health=False)
                await connection.read_response()
        except BaseException as error:
            await discard(connection)
            if isinstance(error, (RedisError, OSError, TimeoutError)):
                raise Unreachable(f"{self.name}: {_sentence(error)}") from error
            raise
        return connection

    async def execute(self, commands: Sequence[bytes], *, patience: float = 0.0) -> list[Reply]:
        """The reply to each command, errors as values. Raises :class:`Unreachable`.

        ``patience`` is how many seconds longer than usual the server may take.
        """
        async with self._places:
            connection = await self._take()
            replies: list[Reply] = []
            try:
                async with asyncio.timeout(self._timeout + patience):
                    await connection.send_packed_command(commands, check_health=False)
                    for _ in commands:
                        try:
                            replies.append(await connection.read_response(disable_decoding=True))
                        except ResponseError as error:
                            replies.append(error)
            except (RedisError, OSError, TimeoutError) as error:
                await discard(connection)
                if isinstance(error, _ANSWERS):
                    replies.append(error)
                lost = Lost(f"{self.name}: {_sentence(error)}")
                replies += [lost] * (len(commands) - len(replies))
                return replies
            except BaseException:
                # Whatever comes on this connection belongs to a call that nobody waits for.
                await discard(connection)
                raise
            if self._closed:
                await discard(connection)
            else:
                self._idle.append(connection)
            return replies

    async def _take(self) -> AbstractConnection:
        while self._idle:
            connection = self._idle.pop()
            with suppress(RedisError, OSError):
                # True means that the server closed it, or said something unasked.
                if not await connection.can_read():
                    return connection
            await discard(connection)
        if self._closed:
            raise Unreachable(f"{self.name}: the store is closed")
        return await self.connect()

    def call(self, command: bytes) -> asyncio.Future[Reply]:
        """The reply to one command, an error as a value."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Reply] = loop.create_future()
        self._gathered.append((command, future))
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._flush)
        return future

    _TOGETHER = 64

    def _flush(self) -> None:
        self._scheduled = False
        while self._gathered:
            some = [
                self._gathered.popleft() for _ in range(min(self._TOGETHER, len(self._gathered)))
            ]
            task = asyncio.create_task(self._run(some))
            self._flushes.add(task)
            task.add_done_callback(self._flushes.discard)

    async def _run(self, calls: list[tuple[bytes, asyncio.Future[Reply]]]) -> None:
        try:
            replies = await self.execute([command for command, _ in calls])
        except Unreachable as error:
            replies = [error] * len(calls)
        for (_, future), reply in zip(calls, replies, strict=True):
            if not future.done():
                future.set_result(reply)

    async def close(self) -> None:
        """Finish what is under way and disconnect."""
        self._closed = True
        if self._flushes:
            await asyncio.wait(self._flushes)
        while self._idle:
            await discard(self._idle.pop())


async def discard(connection: AbstractConnection) -> None:
    """Close at once; what may go wrong in closing is nobody's concern."""
    with suppress(RedisError, OSError, TimeoutError):
        await connection.disconnect(nowait=True)


def _sentence(error: BaseException) -> str:
    return str(error) or type(error).__name__
