"""Which server has which slot, and what to do when that changes.

A deployment takes commands with the slots they belong to, sends each to its server, follows
redirections, loads the scripts where a server does not know them, and returns the replies, errors
as values. It repeats only what a server answered without doing it.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    NoScriptError,
    ReadOnlyError,
    TryAgainError,
)

from durable_streams_core.errors import StoreError
from durable_streams_redis.scripts import LOAD, pack
from durable_streams_redis.servers import Reply, Server, Unreachable
from durable_streams_redis.settings import Address, Settings

_ASKING: Final = pack(b"ASKING")
_ROUNDS: Final = 8
_PAUSE: Final = 0.05
_REDIRECTED: Final = (MovedError, AskError, TryAgainError, NoScriptError, ClusterDownError)

Request = tuple[int, bytes]
"""A slot and a command whose keys are all in it."""


class Deployment(ABC):
    """One or more servers that together hold all slots."""

    def __init__(self, address: Address, *, connections: int, timeout: float) -> None:
        self._address = address
        self._connections = connections
        self._timeout = timeout

    def _server(self, address: Address) -> Server:
        return Server(
            address.name,
            lambda: address.connection(self._timeout),
            connections=self._connections,
            timeout=self._timeout,
        )

    @abstractmethod
    async def server_of(self, slot: int) -> Server:
        """Where a slot is, as far as known. Raises :class:`Unreachable`."""

    @abstractmethod
    async def masters(self) -> Sequence[Server]:
        """All servers that hold slots. Raises :class:`Unreachable`."""

    @abstractmethod
    async def close(self) -> None:
        """Finish what is under way and disconnect."""

    one_server: bool = True
    """Whether a command may name keys of several slots, as in a blocking read of all feeds."""

    @abstractmethod
    async def refresh(self) -> None:
        """Learn anew which server is where; the old knowledge stays when that fails."""

    async def elsewhere(self, error: AskError, asked: Server) -> Server | None:
        """The server that a redirection names."""
        return None

    async def ask(self, slot: int, command: bytes) -> Reply:
        """The reply to one command, sharing a pipeline with whoever asks at the same time."""
        try:
            server = await self.server_of(slot)
        except Unreachable as error:
            return error
        reply = await server.call(command)
        if isinstance(reply, _REDIRECTED):
            calls = _Calls([(slot, command)])
            calls.replies[0] = reply
            await self._settle(calls, {server: [0]})
            return calls.replies[0]
        if isinstance(reply, ReadOnlyError | Unreachable):
            await self.refresh()
        return reply

    async def run(
        self, requests: Sequence[Request], *, last: bytes = b"", patience: float = 0.0
    ) -> tuple[Sequence[Reply], Sequence[Reply]]:
        """The reply to each request and, for each, that to ``last``: a command that goes last in
        each pipeline (None where there is none).
        """
        calls = _Calls(requests, last, patience)
        places: dict[Server, list[int]] = {}
        for index, (slot, _) in enumerate(requests):
            try:
                server = await self.server_of(slot)
            except Unreachable as error:
                calls.replies[index] = error
            else:
                places.setdefault(server, []).append(index)
        await self._send(calls, places)
        if any(isinstance(reply, _REDIRECTED) for reply in calls.replies):
            await self._settle(calls, places)
        if any(isinstance(reply, ReadOnlyError | Unreachable) for reply in calls.replies):
            await self.refresh()
        return calls.replies, calls.confirmations

    async def _send(
        self, calls: "_Calls", places: Mapping[Server, list[int]], *, asking: bool = False
    ) -> None:
        parts = [calls.send(server, which, asking=asking) for server, which in places.items()]
        if len(parts) == 1:
            await parts[0]
        elif parts:
            await asyncio.gather(*parts)

    async def _settle(self, calls: "_Calls", places: Mapping[Server, list[int]]) -> None:
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
                    server = await self.elsewhere(reply, asked[index])
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
                await asyncio.sleep(_PAUSE * (attempt + 1))
                await self.refresh()
            for server in ignorant:
                # If that fails, the next attempt says so for each command.
                with suppress(Unreachable):
                    await server.execute(LOAD)
            await self._send(calls, plain)
            await self._send(calls, by_asking, asking=True)


class _Calls:
    """Requests and what came back so far."""

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
            got = await server.execute(
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

    def __init__(self, address: Address, *, connections: int, timeout: float) -> None:
        super().__init__(address, connections=connections, timeout=timeout)
        self._only = self._server(address)

    async def server_of(self, slot: int) -> Server:
        return self._only

    async def masters(self) -> Sequence[Server]:
        return [self._only]

    async def refresh(self) -> None:
        """There is nothing to learn."""

    async def close(self) -> None:
        await self._only.close()


class Monitored(Deployment):
    """The master that Sentinels name."""

    def __init__(
        self,
        address: Address,
        sentinels: Sequence[Address],
        service: str,
        *,
        connections: int,
        timeout: float,
    ) -> None:
        super().__init__(address, connections=connections, timeout=timeout)
        self._service = service
        self._sentinels = [self._server(each) for each in sentinels]
        self._master: Server | None = None
        self._finding = asyncio.Lock()

    async def server_of(self, slot: int) -> Server:
        if self._master is None:
            await self._find()
        assert self._master is not None
        return self._master

    async def masters(self) -> Sequence[Server]:
        return [await self.server_of(0)]

    async def refresh(self) -> None:
        try:
            await self._find()
        except Unreachable:
            return

    async def _find(self) -> None:
        command = pack(b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", self._service.encode())
        async with self._finding:
            said = "no Sentinel is configured"
            for sentinel in self._sentinels:
                try:
                    (reply,) = await sentinel.execute([command])
                except Unreachable as error:
                    said = str(error)
                    continue
                if isinstance(reply, list) and len(reply) == 2:
                    await self._found(self._address.at(reply[0].decode(), int(reply[1])))
                    return
                said = f"{sentinel.name} knows no master of {self._service!r}"
            raise Unreachable(said)

    async def _found(self, address: Address) -> None:
        before = self._master
        if before is None or before.name != address.name:
            self._master = self._server(address)
            if before is not None:
                await before.close()

    async def close(self) -> None:
        for server in [*self._sentinels, *([self._master] if self._master else [])]:
            await server.close()


class Cluster(Deployment):
    """The nodes of a Cluster."""

    one_server = False

    def __init__(
        self, address: Address, seeds: Sequence[Address], *, connections: int, timeout: float
    ) -> None:
        super().__init__(address, connections=connections, timeout=timeout)
        self._seeds = [(seed.host, seed.port) for seed in seeds]
        self._servers: dict[tuple[str, int], Server] = {}
        self._ranges: list[tuple[int, int, Server]] = []
        self._refreshing: asyncio.Task[None] | None = None

    def _server_at(self, host: str, port: int) -> Server:
        server = self._servers.get((host, port))
        if server is None:
            server = self._servers[host, port] = self._server(self._address.at(host, port))
        return server

    async def server_of(self, slot: int) -> Server:
        for _ in range(2):
            for first, final, server in self._ranges:
                if first <= slot <= final:
                    return server
            await self._learn()
        raise Unreachable(f"no node of the Cluster serves slot {slot}")

    async def masters(self) -> Sequence[Server]:
        if not self._ranges:
            await self._learn()
        return list(dict.fromkeys(server for _, _, server in self._ranges))

    async def elsewhere(self, error: AskError, asked: Server) -> Server | None:
        host = error.host or asked.name.rpartition(":")[0]
        server = self._server_at(host, error.port)
        if isinstance(error, MovedError):
            await self.refresh()
        return server

    async def refresh(self) -> None:
        # Whoever finds out at the same time shares one look.
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.create_task(self._relearn())
        await asyncio.shield(self._refreshing)

    async def _relearn(self) -> None:
        try:
            await self._learn()
        except Unreachable:
            return

    async def _learn(self) -> None:
        said = "no node is configured"
        for host, port in dict.fromkeys([*self._servers, *self._seeds]):
            server = self._server_at(host, port)
            try:
                (reply,) = await server.execute([pack(b"CLUSTER", b"SLOTS")])
            except Unreachable as error:
                said = str(error)
                continue
            if isinstance(reply, Exception):
                said = f"{server.name}: {reply}"
                continue
            if reply:
                self._ranges = [self._range(entry, host) for entry in reply]
                return
            said = f"{server.name} serves no slots"
        raise Unreachable(said)

    def _range(self, entry: list[Any], asked: str) -> tuple[int, int, Server]:
        host, port = entry[2][:2]
        return entry[0], entry[1], self._server_at((host or b"").decode() or asked, port)

    async def close(self) -> None:
        if self._refreshing is not None:
            await self._refreshing
        for server in self._servers.values():
            await server.close()


def deploy(settings: Settings, *, connections: int, timeout: float) -> Deployment:
    """The deployment that settings speak of; nothing is connected yet."""
    if settings.kind == "sentinel":
        return Monitored(
            settings.address,
            settings.seeds,
            settings.service,
            connections=connections,
            timeout=timeout,
        )
    if settings.kind == "cluster":
        if settings.address.arguments.get("db"):
            raise StoreError("A Cluster has only database 0: leave the database out.")
        return Cluster(settings.address, settings.seeds, connections=connections, timeout=timeout)
    return SingleServer(settings.address, connections=connections, timeout=timeout)
