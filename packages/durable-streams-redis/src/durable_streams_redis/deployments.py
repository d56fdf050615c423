"""Sends commands to the servers that hold their slots, and follows redirections.

A deployment takes commands with the slots they belong to, sends each to its server, loads the
scripts where a server does not know them, and returns the replies, errors as values. It repeats
only what a server answered without doing it.

A deployment of several servers discovers regularly which server is where, in a task of its own:
neither commits nor feeds wait for that.
"""

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final

from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    NoScriptError,
    ReadOnlyError,
    TryAgainError,
)

from durable_streams_redis.meter import RedisMeter
from durable_streams_redis.scripts import LOAD, pack
from durable_streams_redis.servers import NotMaster, Reply, Server, Unreachable
from durable_streams_redis.settings import Address

logger = logging.getLogger(__name__)

DISCOVERY_SECONDS: Final = 1.0
"""How often a deployment discovers which server is where."""

_ASKING: Final = pack(b"ASKING")
_ROUNDS: Final = 8
_PAUSE: Final = 0.05
_REDIRECTED: Final = (MovedError, AskError, TryAgainError, NoScriptError, ClusterDownError)

Request = tuple[int, bytes]
"""A slot and a command whose keys are all in it."""


class Deployment(ABC):
    """One or more servers that together hold all slots.

    Args:
        address: how to connect; says where as well if there is only one server.
        connections: the largest number of connections to one server.
        timeout: seconds that a server may take to answer.
        meter: counts round trips and connections.

    """

    one_server: bool = True
    """Whether a command may name keys of several slots, as in a blocking read of all feeds."""

    question_seconds: float = float("inf")
    """How long one server may take to answer a question, if that is less than its time limit."""

    def __init__(
        self, address: Address, *, connections: int, timeout: float, meter: RedisMeter
    ) -> None:
        self._address = address
        self._meter = meter
        self._connections = connections
        self._timeout = timeout
        self._discovering: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._discover_now = asyncio.Event()
        self._admitting = asyncio.Lock()
        self.on_new_run: Callable[[Server, str], Awaitable[None]] | None = None
        """Called with its run id for each server process before commands are sent to it; may raise
        :class:`Unreachable`.
        """

    def _pool(self, address: Address) -> Server:
        """Connections for the store's commands, each to a master only."""
        return Server(
            address,
            connections=self._connections,
            timeout=self._timeout,
            meter=self._meter,
            question_timeout=min(self._timeout, self.question_seconds),
            admit=self._admit,
        )

    def aside(self, address: Address) -> Server:
        """A connection for questions about a server itself, whatever its role."""
        return Server(address, connections=2, timeout=self._timeout, meter=self._meter)

    async def _admit(self, server: Server, info: Mapping[str, str]) -> None:
        if info.get("role") != "master":
            raise NotMaster(
                f"{server.name} is a read-only replica of "
                f"{info.get('master_host', '?')}:{info.get('master_port', '?')}"
            )
        # A process that followed another master meanwhile has a new replication id, and other data.
        run = f"{info.get('run_id', '?')} {info.get('master_replid', '?')}"
        if server.run != run:
            async with self._admitting:
                if server.run != run:
                    if self.on_new_run is not None:
                        await self.on_new_run(server, run)
                    # Not earlier: other connections go ahead from here on.
                    server.run = run

    async def admit_again(self) -> None:
        """Have :attr:`on_new_run` called for every master, also for those in use already."""
        for server in await self.masters():
            server.run = ""
            await server.disconnect()

    # Which server is where.

    @abstractmethod
    async def server_of(self, slot: int) -> Server:
        """The server of a slot, as far as known. Raises :class:`Unreachable`."""

    @abstractmethod
    async def masters(self) -> Sequence[Server]:
        """All servers that hold slots. Raises :class:`Unreachable`."""

    @abstractmethod
    async def _discover(self) -> None:
        """Learn which server is where. Raises :class:`Unreachable`; what was known then stays."""

    async def discover(self) -> None:
        """Learn which server is where; callers at the same time share one discovery. Raises
        :class:`Unreachable`.
        """
        discovering = self._discovering
        if discovering is None or discovering.done():
            discovering = self._discovering = asyncio.create_task(self._discover())
        # One that is cancelled does not cancel it for the others.
        await asyncio.wait([discovering])
        if discovering.cancelled():
            raise Unreachable("the store is being closed")
        discovering.result()

    def discover_soon(self) -> None:
        """Have the watching task do it now. Does not wait."""
        self._discover_now.set()

    def _watch(self) -> None:
        """Begin to do so regularly."""
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch_for_ever())

    async def _watch_for_ever(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._discovery_seconds()):
                    await self._discover_now.wait()
            self._discover_now.clear()
            try:
                await self.discover()
            except Unreachable:
                pass
            except Exception:
                logger.exception("Looking which server is where failed")
            # An error that repeats must not make it go on without a pause.
            await asyncio.sleep(_PAUSE)

    def _discovery_seconds(self) -> float:
        return DISCOVERY_SECONDS

    async def close(self) -> None:
        """Finish what is under way and disconnect."""
        tasks = [task for task in (self._watching, self._discovering) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def redirected(self, error: AskError, sender: Server) -> Server | None:
        """The server that a redirection names."""
        return None

    # Sending.

    async def send(self, slot: int, command: bytes) -> Reply:
        """The reply to a question, which shares a pipeline with others asked at the same time."""
        try:
            server = await self.server_of(slot)
        except Unreachable as error:
            return error
        if not self.one_server and server.silent:
            # Streams of other servers may wait together with this one.
            return Unreachable(f"{server.name}: it does not answer")
        reply = await server.send_soon(command)
        if isinstance(reply, _REDIRECTED):
            calls = _Calls([(slot, command)])
            calls.replies[0] = reply
            await self._follow(calls, {server: [0]})
            return calls.replies[0]
        if isinstance(reply, ReadOnlyError | Unreachable):
            self.discover_soon()
        return reply

    async def send_aside(self, slot: int, command: bytes) -> Reply:
        """The reply to one command, sent past :attr:`on_new_run` on a connection of its own."""
        try:
            address = (await self.server_of(slot)).address
            for _ in range(_ROUNDS):
                (reply,) = await self.send_once(address, [command])
                if not isinstance(reply, MovedError):
                    return reply
                address = self._address.at(reply.host or address.host, reply.port)
        except Unreachable as error:
            return error
        return reply

    async def send_once(self, address: Address, commands: Sequence[bytes]) -> Sequence[Reply]:
        """The replies to commands on a connection that is made for them, whatever the server's
        role. Raises :class:`Unreachable`.
        """
        server = self.aside(address)
        try:
            return await server.send(commands)
        finally:
            await server.close()

    async def send_all(
        self, requests: Sequence[Request], *, last: bytes = b"", patience: float = 0.0
    ) -> tuple[Sequence[Reply], Sequence[Reply]]:
        """The reply to each request and, for each, that to ``last``: a command that goes last in
        each pipeline (None where there is none).
        """
        calls = _Calls(requests, last, patience)
        places: dict[Server, list[int]] = {}
        if self.one_server and requests:
            # Whatever the slot.
            try:
                places[await self.server_of(requests[0][0])] = list(range(len(requests)))
            except Unreachable as error:
                calls.replies = [error] * len(requests)
        else:
            for index, (slot, _) in enumerate(requests):
                try:
                    server = await self.server_of(slot)
                except Unreachable as error:
                    calls.replies[index] = error
                else:
                    places.setdefault(server, []).append(index)
        await self._send(calls, places)
        if not any(isinstance(reply, Exception) for reply in calls.replies):
            return calls.replies, calls.confirmations
        if any(isinstance(reply, _REDIRECTED) for reply in calls.replies):
            await self._follow(calls, places)
        if any(isinstance(reply, ReadOnlyError | Unreachable) for reply in calls.replies):
            self.discover_soon()
        return calls.replies, calls.confirmations

    async def _send(
        self, calls: "_Calls", places: Mapping[Server, list[int]], *, asking: bool = False
    ) -> None:
        parts = [calls.send(server, which, asking=asking) for server, which in places.items()]
        if len(parts) == 1:
            await parts[0]
        elif parts:
            await asyncio.gather(*parts)

    async def _follow(self, calls: "_Calls", places: Mapping[Server, list[int]]) -> None:
        """Send again, to the right place, what was answered with a redirection."""
        asked = {index: server for server, which in places.items() for index in which}
        for attempt in range(_ROUNDS):
            plain: dict[Server, list[int]] = {}
            by_asking: dict[Server, list[int]] = {}
            ignorant: set[Server] = set()
            wait = False
            for index, reply in enumerate(calls.replies):
                if not isinstance(reply, _REDIRECTED):
                    continue
                server: Server | None = asked[index]
                way = plain
                if isinstance(reply, AskError):
                    # A MovedError is one too.
                    server = await self.redirected(reply, asked[index])
                    way = plain if isinstance(reply, MovedError) else by_asking
                elif isinstance(reply, NoScriptError):
                    ignorant.add(asked[index])
                else:
                    wait = True
                if server is not None:
                    asked[index] = server
                    way.setdefault(server, []).append(index)
            if not plain and not by_asking:
                return
            if wait:
                self.discover_soon()
                await asyncio.sleep(_PAUSE * (attempt + 1))
            for server in ignorant:
                # If that fails, the next attempt says so for each command.
                with suppress(Unreachable):
                    await server.send(LOAD)
            await self._send(calls, plain)
            await self._send(calls, by_asking, asking=True)


class _Calls:
    """Requests and the replies that came back so far."""

    def __init__(
        self, requests: Sequence[Request], last: bytes = b"", patience: float = 0.0
    ) -> None:
        self._requests = requests
        self._last = last
        self._patience = patience
        self.replies: list[Reply] = [None] * len(requests)
        self.confirmations: list[Reply] = [None] * len(requests)

    async def send(self, server: Server, which: Sequence[int], *, asking: bool) -> None:
        commands = [self._requests[index][1] for index in which]
        if asking:
            # It has a reply of its own, before that of the command.
            commands = [part for command in commands for part in (_ASKING, command)]
        try:
            got = await server.send(
                [*commands, self._last] if self._last else commands, patience=self._patience
            )
        except Unreachable as error:
            got = [error] * (len(commands) + 1)
        confirmation = got[len(commands)] if self._last else None
        for index, reply in zip(which, got[1 : len(commands) : 2] if asking else got, strict=False):
            self.replies[index] = reply
            self.confirmations[index] = confirmation


class SingleServer(Deployment):
    """One server under one address."""

    def __init__(
        self, address: Address, *, connections: int, timeout: float, meter: RedisMeter
    ) -> None:
        super().__init__(address, connections=connections, timeout=timeout, meter=meter)
        self._only = self._pool(address)

    async def server_of(self, slot: int) -> Server:
        return self._only

    async def masters(self) -> Sequence[Server]:
        return [self._only]

    async def _discover(self) -> None:
        """There is nothing to learn."""

    async def close(self) -> None:
        await super().close()
        await self._only.close()
