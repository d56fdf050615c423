"""A pool of connections to one server, which knows what was certainly not sent.

redis-py makes the connections (addresses, TLS, credentials). Its retries are off: a commit may be
repeated only under its id, and the engine does that.

* :class:`Unreachable`: nothing was sent.
* :class:`Lost`: it was sent, or part of it, and the reply never came.
* redis-py's errors: the server's own answer.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError

from durable_streams_redis.meter import RedisMeter
from durable_streams_redis.scripts import pack
from durable_streams_redis.settings import Address
from durable_streams_redis.silence import Silence
from durable_streams_redis.wires import Wire

_INFO = pack(b"INFO", b"server", b"replication")

T = TypeVar("T")

_PIPELINE = 64
"""Single commands that share a pipeline at most."""


class Unreachable(Exception):
    """The server could not be asked; nothing was sent."""


class Retired(Unreachable):
    """The server is no longer used: another one has taken its place."""


class NotMaster(Unreachable):
    """The server is a replica, or its role is unknown."""


class Lost(Exception):
    """No reply: it may have been done or not."""


MALFORMED = (ValueError, TypeError, LookupError, AttributeError)
"""What reading a reply raises that does not have the shape that the command promises."""

Reply = Any
"""A reply, or one of the errors above as a value."""


class Server:
    """A pool of connections to one server.

    Args:
        address: where it is and how to connect.
        connections: the largest number of connections.
        timeout: seconds that the server may take to answer.
        meter: counts round trips and connections.
        question_timeout: the same for questions, which may share a turn with other servers' work.
        admit: called with the server and its INFO for each new connection before anything is sent
            on it; may raise :class:`Unreachable`. None: no INFO is asked for.

    """

    def __init__(
        self,
        address: Address,
        *,
        connections: int,
        timeout: float,
        meter: RedisMeter,
        question_timeout: float | None = None,
        admit: Callable[["Server", dict[str, str]], Awaitable[None]] | None = None,
    ) -> None:
        self.address = address
        self.name = address.name
        self.run = ""
        """The run id of the server process that the owner of this pool has admitted last."""
        self._timeout = timeout
        self._meter = meter
        self._question_timeout = timeout if question_timeout is None else question_timeout
        self._admit = admit
        self._idle: list[Wire] = []
        self._places = asyncio.Semaphore(connections)
        self._gathered: deque[tuple[bytes, asyncio.Future[Reply]]] = deque()
        self._flushes: set[asyncio.Task[None]] = set()
        self._scopes: set[asyncio.Timeout] = set()
        self._asked: set[Wire] = set()
        self._scheduled = False
        self._closed = False
        self._silence = Silence()

    @property
    def silent(self) -> bool:
        """Whether the server owes replies and has sent none for a while."""
        return self._silence.is_long

    async def connect(self, timeout: float | None = None) -> AbstractConnection:
        """A connection of the caller's own, which it disconnects. Raises :class:`Unreachable`.

        ``timeout`` is how many seconds it may take, if not as many as usual.
        """
        connection = self.address.connection(self._timeout)
        try:
            async with self._limit(timeout or self._timeout):
                await self._heard(connection.connect())  # type: ignore[no-untyped-call]
                if self._admit is not None:
                    # A server that is still loading its data refuses other commands than this.
                    (info,) = await self._heard(send_on(connection, [_INFO]))
                    # What this asks goes over other connections.
                    await self._admit(self, parse_info(info))
        except BaseException as error:
            await discard(connection)
            if isinstance(error, Exception) and not isinstance(error, Unreachable):
                raise Unreachable(f"{self.name}: {_sentence(error)}") from error
            raise
        self._meter.connections += 1
        return connection

    async def send(
        self, commands: Sequence[bytes], *, patience: float = 0.0, timeout: float | None = None
    ) -> list[Reply]:
        """The reply to each command of a pipeline, errors as values.

        ``patience`` is how many seconds longer than usual the server may take, ``timeout`` how many
        if not as many as usual. Raises :class:`Unreachable`.
        """
        async with self._places:
            wire = await self._take(timeout)
            replies: list[Reply] = []
            try:
                await self._exchange(wire, commands, replies, (timeout or self._timeout) + patience)
            except Exception as error:
                lost = Lost(f"{self.name}: {_sentence(error)}")
                replies += [lost] * (len(commands) - len(replies))
            finally:
                if self._closed or not wire.usable:
                    await discard(wire.connection)
                else:
                    self._idle.append(wire)
            return replies

    async def ask(self, commands: Sequence[bytes]) -> list[Reply]:
        """The reply to each question, as :meth:`send` with the time limit of questions."""
        return await self.send(commands, timeout=self._question_timeout)

    async def _take(self, timeout: float | None) -> Wire:
        while self._idle:
            wire = self._idle.pop()
            if wire.usable:
                return wire
            await discard(wire.connection)
        if self._closed:
            raise Retired(f"{self.name}: no longer in use")
        return await self.open(timeout)

    async def open(self, timeout: float | None = None) -> Wire:
        """As :meth:`connect`, for pipelines."""
        connection = await self.connect(timeout)
        try:
            # True means that the server closed it, or said something unasked.
            usable = not await connection.can_read()
        except RedisError:
            usable = False
        if not usable:
            await discard(connection)
            raise Unreachable(f"{self.name}: it closed the connection")
        return Wire(connection)

    async def wait_on(self, wire: Wire, commands: Sequence[bytes], seconds: float) -> list[Reply]:
        """The reply to each command on a connection of the caller's own. A command may ask the
        server to wait before it replies. Raises the errors of redis-py.
        """
        if self._closed:
            raise Retired(f"{self.name}: no longer in use")
        replies: list[Reply] = []
        await self._exchange(wire, commands, replies, seconds, blocking=True)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    async def _exchange(
        self,
        wire: Wire,
        commands: Sequence[bytes],
        replies: list[Reply],
        seconds: float,
        *,
        blocking: bool = False,
    ) -> None:
        """Send a pipeline and take its replies, for so many seconds or until this is retired.

        ``blocking`` says that the server is asked to wait before it replies.
        """
        loop = asyncio.get_running_loop()
        begun = loop.time()
        timer = loop.call_later(seconds, wire.expire)
        self._asked.add(wire)
        if not blocking:
            self._silence.begin()
        try:
            await wire.ask(commands, replies)
            self._silence.hear()
        finally:
            timer.cancel()
            self._asked.discard(wire)
            if not blocking:
                self._silence.end()
                self._meter.round_trips.observe(loop.time() - begun)

    def send_soon(self, command: bytes) -> asyncio.Future[Reply]:
        """The reply to one command, an error as a value; shares a pipeline with the others of this
        turn of the event loop.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Reply] = loop.create_future()
        self._gathered.append((command, future))
        if not self._scheduled:
            self._scheduled = True
            loop.call_soon(self._flush)
        return future

    def _flush(self) -> None:
        self._scheduled = False
        while self._gathered:
            some = [self._gathered.popleft() for _ in range(min(_PIPELINE, len(self._gathered)))]
            task = asyncio.create_task(self._send_gathered(some))
            self._flushes.add(task)
            task.add_done_callback(self._flushes.discard)

    async def _send_gathered(self, calls: list[tuple[bytes, asyncio.Future[Reply]]]) -> None:
        try:
            replies = await self.ask([command for command, _ in calls])
        except Unreachable as error:
            replies = [error] * len(calls)
        except BaseException:
            for _, future in calls:
                future.cancel()
            raise
        for (_, future), reply in zip(calls, replies, strict=True):
            if not future.done():
                future.set_result(reply)

    async def _heard(self, reply: Awaitable[T]) -> T:
        """Wait for a reply of the server. Its silence counts until then."""
        self._silence.begin()
        try:
            result = await reply
            self._silence.hear()
        finally:
            self._silence.end()
        return result

    @asynccontextmanager
    async def _limit(self, seconds: float) -> AsyncIterator[None]:
        """Raise TimeoutError after so many seconds, or when the server is retired."""
        async with asyncio.timeout(seconds) as scope:
            self._scopes.add(scope)
            try:
                if self._closed:
                    scope.reschedule(0)
                yield
            finally:
                self._scopes.discard(scope)

    async def disconnect(self) -> None:
        """Drop the idle connections; the next command makes a new one."""
        while self._idle:
            await discard(self._idle.pop().connection)

    async def retire(self) -> None:
        """Stop waiting for replies and use this server no more.

        Replies still to come are :class:`Lost`: a server that was replaced as a master may still
        say that it applied a commit.
        """
        self._closed = True
        for scope in tuple(self._scopes):
            if not scope.expired():
                scope.reschedule(0)
        for wire in tuple(self._asked):
            wire.expire()
        await self.disconnect()

    async def close(self) -> None:
        """Finish what is under way and disconnect."""
        self._closed = True
        if self._flushes:
            await asyncio.wait(self._flushes)
        await self.disconnect()


async def send_on(connection: AbstractConnection, commands: Sequence[bytes]) -> list[Reply]:
    """The reply to each command on a connection of the caller's own; raises redis-py's errors."""
    if not commands:
        return []
    await connection.send_packed_command(commands, check_health=False)
    return [await connection.read_response(disable_decoding=True) for _ in commands]


async def discard(connection: AbstractConnection) -> None:
    """Close at once; an error in closing changes nothing."""
    with suppress(RedisError, OSError, TimeoutError):
        await connection.disconnect(nowait=True)


def parse_info(reply: bytes) -> dict[str, str]:
    """The fields of an INFO."""
    lines = reply.decode(errors="replace").splitlines()
    return {name: value for name, colon, value in (line.partition(":") for line in lines) if colon}


def _sentence(error: BaseException) -> str:
    return str(error) or type(error).__name__
