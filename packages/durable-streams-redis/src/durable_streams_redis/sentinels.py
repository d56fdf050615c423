"""The master that Sentinels name, followed through failovers.

While a failover is under way the old master still takes commands, and what it takes is lost. So the
Sentinels' events are followed, and from the first sign of a failover nothing is sent to the old
master nor believed of it until a new one is known. Looking regularly does the same where an event
was missed.

All Sentinels are asked at once. The newest configuration wins, and a server that is not a master is
not used, whatever they say of it. So neither a Sentinel that hangs nor one with an old view
matters.
"""

import asyncio
import logging
from asyncio import Task
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from redis.exceptions import RedisError

from durable_streams_redis.deployments import Deployment
from durable_streams_redis.meter import RedisMeter
from durable_streams_redis.scripts import pack
from durable_streams_redis.servers import (
    MALFORMED,
    Server,
    Unreachable,
    discard,
    parse_info,
    send_on,
)
from durable_streams_redis.settings import Address

logger = logging.getLogger(__name__)

_MAX_SENTINELS: Final = 32
_LATE_SECONDS: Final = 0.25
"""How long slow Sentinels are waited for after the first one has answered."""
_DOUBT_SECONDS: Final = 0.1
"""How often to discover servers while no master is known for certain."""
_ROLE_SECONDS: Final = 1.0
_EVENT_SECONDS: Final = 5.0
"""How often a quiet connection for events is tried with a PING."""
_RETRY_SECONDS: Final = 1.0

_BEGINS: Final = frozenset(
    (b"+odown", b"+try-failover", b"+elected-leader", b"+failover-state-select-slave")
)
"""Events after which the master may be replaced at any moment."""


@dataclass(frozen=True, slots=True)
class View:
    """The answer of one Sentinel.

    ``promoted`` says that ``address`` is a new master that its failover has just made, ``doubt``
    that the master is about to be replaced.
    """

    address: Address
    epoch: int = 0
    promoted: bool = False
    doubt: bool = False

    @property
    def age(self) -> tuple[int, bool]:
        """What sorts older configurations before newer ones."""
        return self.epoch, self.promoted


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
        meter: RedisMeter,
    ) -> None:
        super().__init__(address, connections=connections, timeout=timeout, meter=meter)
        self._service = service
        self._seed = sentinels[0]
        self._sentinels: dict[str, Server] = {}
        self._asking: dict[tuple[str, int], Task[View | str]] = {}
        self._listeners: dict[str, Task[None]] = {}
        self._servers: dict[str, Server] = {}
        """Connections for questions, to masters of now and before."""
        self._master: Server | None = None
        self._known = asyncio.Event()
        self._doubt = False
        self._doubts = 0
        """How often a doubt began: an answer to a question asked before does not end it."""
        for each in sentinels:
            self._add_sentinel(each)

    def _add_sentinel(self, address: Address) -> None:
        if address.name not in self._sentinels and len(self._sentinels) < _MAX_SENTINELS:
            self._sentinels[address.name] = self.aside(address)

    async def server_of(self, slot: int) -> Server:
        if self._master is not None:
            return self._master
        if not self._doubt:
            await self.discover()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timeout):
                await self._known.wait()
        master = self._current()
        if master is None:
            raise Unreachable(f"the Sentinels are replacing the master of {self._service!r}")
        return master

    def _current(self) -> Server | None:
        return self._master

    async def masters(self) -> Sequence[Server]:
        return [await self.server_of(0)]

    def _discovery_seconds(self) -> float:
        return _DOUBT_SECONDS if self._doubt else super()._discovery_seconds()

    async def _discover(self) -> None:
        self._watch()
        doubts = self._doubts
        views, said = await self._ask_all()
        if not views:
            raise Unreachable(said)
        for name, sentinel in self._sentinels.items():
            if name not in self._listeners:
                self._listeners[name] = asyncio.create_task(self._listen(sentinel))
        newest = max(view.age for view in views)
        if any(view.doubt and view.age >= newest for view in views):
            await self._begin_doubt("a failover is under way")
            return
        master = await self._master_among(views, newest)
        if master is None:
            await self._begin_doubt("the server that Sentinels name is not a master")
        elif doubts == self._doubts:
            await self._use(master)

    async def _master_among(
        self, views: Sequence[View], newest: tuple[int, bool]
    ) -> Address | None:
        """The server to use: of those that the newest configuration names, one that says that it
        is a master, or one that says nothing.
        """
        named = {view.address.name: view.address for view in views}
        for name in self._servers.keys() - named.keys():
            await self._servers.pop(name).close()
        silent: Address | None = None
        for address in {
            view.address.name: view.address for view in views if view.age == newest
        }.values():
            role, leader = await self._role(address)
            if role == "master":
                return address
            if role == "":
                silent = address
            elif leader in named and (await self._role(named[leader]))[0] == "master":
                # An old view: another Sentinel names the master that this one follows.
                return named[leader]
        return silent

    async def _ask_all(self) -> tuple[list[View], str]:
        """The views of all Sentinels that answer in time, and what the last other one said."""
        pending: set[Task[View | str]] = {
            self._ask(sentinel) for sentinel in self._sentinels.values()
        }
        views: list[View] = []
        said = "no Sentinel is configured"
        # Of a failover only the Sentinel that leads it knows until the new master is made.
        while pending:
            done, pending = await asyncio.wait(
                pending,
                timeout=_LATE_SECONDS if views else None,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if not done:
                break
            for task in done:
                answer = task.result()
                if isinstance(answer, View):
                    views.append(answer)
                else:
                    said = answer
        return views, said

    def _ask(self, sentinel: Server) -> Task[View | str]:
        """Ask a Sentinel, unless it still owes an answer."""
        key = sentinel.name, self._doubts
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = asyncio.create_task(self._view_of(sentinel))
            task.add_done_callback(lambda _: self._asking.pop(key, None))
        return task

    async def _view_of(self, sentinel: Server) -> View | str:
        """The view of a Sentinel, or the reason why it has none."""
        service = self._service.encode()
        try:
            place, master, others = await sentinel.send(
                [
                    pack(b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", service),
                    pack(b"SENTINEL", b"MASTER", service),
                    pack(b"SENTINEL", b"SENTINELS", service),
                ]
            )
        except Unreachable as error:
            return str(error)
        if isinstance(place, Exception):
            return f"{sentinel.name}: {place}"
        if place is None:
            return f"{sentinel.name} knows no master of {self._service!r}"
        try:
            if isinstance(others, list):
                for other in map(_fields, others):
                    self._add_sentinel(self._seed.at(other["ip"], int(other["port"])))
            return self._read_view(place, master)
        except MALFORMED:
            return f"{sentinel.name} does not answer as a Sentinel does"

    def _read_view(self, place: Sequence[bytes], master: object) -> View:
        """From the replies to GET-MASTER-ADDR-BY-NAME and MASTER. Raises :data:`MALFORMED`."""
        host, port = place
        address = self._address.at(host.decode(), int(port))
        if not isinstance(master, list):
            return View(address)
        fields = _fields(master)
        flags = fields.get("flags", "").split(",")
        promoted = "failover_in_progress" in flags and (
            (fields.get("ip"), fields.get("port")) != (address.host, str(address.port))
        )
        doubt = not promoted and ("failover_in_progress" in flags or "o_down" in flags)
        return View(address, int(fields.get("config-epoch", "0")), promoted, doubt)

    async def _role(self, address: Address) -> tuple[str, str]:
        """The role of a server by its own account, empty where it does not answer in time, and the
        name of the master that it follows.
        """
        server = self._servers.get(address.name)
        if server is None:
            server = self._servers[address.name] = self.aside(address)
        try:
            async with asyncio.timeout(_ROLE_SECONDS):
                (reply,) = await server.send([pack(b"INFO", b"replication")])
        except (Unreachable, TimeoutError):
            return "", ""
        if isinstance(reply, Exception):
            return "", ""
        info = parse_info(reply)
        return info.get("role", ""), f"{info.get('master_host')}:{info.get('master_port')}"

    async def _begin_doubt(self, reason: str) -> None:
        """Send nothing until a master is known again, and believe nothing that the old one says."""
        if not self._doubt:
            logger.warning("Commits to %r wait: %s.", self._service, reason)
        self._doubt = True
        self._known.clear()
        self.discover_soon()
        before, self._master = self._master, None
        if before is not None:
            await before.retire()

    async def _use(self, address: Address) -> None:
        before = self._master
        if before is not None and before.name == address.name:
            return
        self._master = self._pool(address)
        if self._doubt or before is not None:
            logger.warning("The master of %r is %s now.", self._service, address.name)
        self._doubt = False
        self._known.set()
        if before is not None:
            await before.retire()

    async def _listen(self, sentinel: Server) -> None:
        """Follow the events of one Sentinel for ever."""
        while True:
            try:
                await self._follow_events(sentinel)
            except (RedisError, OSError, TimeoutError, Unreachable) as error:
                logger.debug("The events of %s were cut off: %s", sentinel.name, error)
            await asyncio.sleep(_RETRY_SECONDS)

    async def _follow_events(self, sentinel: Server) -> None:
        connection = await sentinel.connect()
        try:
            async with asyncio.timeout(self._timeout):
                await send_on(connection, [pack(b"PSUBSCRIBE", b"*")])
            # Events from before are missed: a discovery sees their result.
            self.discover_soon()
            waits = False
            while True:
                try:
                    async with asyncio.timeout(_EVENT_SECONDS):
                        event = await connection.read_response(
                            disable_decoding=True, disconnect_on_error=False
                        )
                except TimeoutError:
                    if waits:
                        raise
                    waits = True
                    await connection.send_packed_command([pack(b"PING")], check_health=False)
                    continue
                waits = False
                match event:
                    case [b"pmessage", _, bytes(channel), bytes(message)]:
                        await self._hear(channel, message)
        finally:
            await discard(connection)

    async def _hear(self, channel: bytes, message: bytes) -> None:
        words = message.split(b" ")
        # `master NAME …`, or `NAME …` where a master was switched.
        if self._service.encode() not in words[:2] and b"@" not in words:
            return
        if channel in _BEGINS and words[0] == b"master":
            self._doubts += 1
            await self._begin_doubt(f"a Sentinel says {channel.decode(errors='replace')}")
        self.discover_soon()

    async def close(self) -> None:
        await super().close()
        tasks = (*self._listeners.values(), *self._asking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for server in (*self._sentinels.values(), *self._servers.values()):
            await server.close()
        if self._master is not None:
            await self._master.close()


def _fields(reply: Sequence[Any]) -> dict[str, str]:
    """The fields of a reply that is a list of names and values in turn."""
    words = [word.decode(errors="replace") for word in reply]
    return dict(zip(words[::2], words[1::2], strict=False))
