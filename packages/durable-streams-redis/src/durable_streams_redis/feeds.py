"""Following the feeds: what every process of the deployment committed, without a poll.

One connection blocks on the feeds of all shards of a server, in Cluster one for each shard, because
a Cluster refuses a read of several slots, and a blocked reader hears nothing of a migration; so no
read blocks for more than a second.

The ids of a feed are consecutive. A gap is a resync: the feed was trimmed past this reader. When a
connection is made anew, and whenever all is quiet, the last entry seen is read again: if it is not
what it was, the server has lost or forgotten something (failover, restart, flush), and that is a
resync too.
"""

import asyncio
import logging
from asyncio import Task
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import RedisError, ResponseError

from durable_streams_core.entities import Change
from durable_streams_redis.deployments import Deployment
from durable_streams_redis.schema import Shard
from durable_streams_redis.scripts import pack
from durable_streams_redis.servers import Server, Unreachable, discard

logger = logging.getLogger(__name__)

BLOCK_MILLISECONDS: Final = 1000
_BLOCK: Final = b"%d" % BLOCK_MILLISECONDS
_PAGE: Final = b"512"
_FIRST: Final = b"1-"
_UPKEEP_SECONDS: Final = 10.0
_BUSY_SECONDS: Final = 0.002
_BREATH_SECONDS: Final = 0.001
_RETRY: Final = (0.02, 0.05, 0.1, 0.25, 0.5, 1.0)

Deliver = Callable[[Sequence[Change] | None], None]
Clock = Callable[[Sequence[Any], float], None]


class Position:
    """How far one feed was read."""

    __slots__ = ("ages", "last", "seq", "shard")

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        self.seq = -1
        """Of the last entry seen; -1 where there has been none."""
        self.last: Any = None
        self.ages: deque[tuple[float, int]] = deque()

    @property
    def id(self) -> bytes:
        return _FIRST + b"%d" % self.seq if self.seq >= 0 else b"0-0"

    def move(self, entry: Any) -> None:
        self.last = entry
        self.seq = -1 if entry is None else seq_of(entry)


def seq_of(entry: Any) -> int:
    """The place of an entry in its feed."""
    return int(entry[0][2:])


class Feed:
    """Follows some shards' feeds for as long as it is open.

    ``measured`` is given the server's TIME and the loop's time at which it was asked, regularly.
    """

    def __init__(
        self,
        deployment: Deployment,
        shards: Sequence[Shard],
        *,
        deliver: Deliver,
        lost: Callable[[], None],
        measured: Clock,
        timeout: float,
        keep_seconds: float,
    ) -> None:
        self._deployment = deployment
        self._positions = {shard.feed: Position(shard) for shard in shards}
        self._slot = shards[0].slot
        self._deliver = deliver
        self._lost = lost
        self._measured = measured
        self._timeout = timeout
        self._keep_seconds = keep_seconds
        self._task: Task[None] | None = None
        self._connection: AbstractConnection | None = None
        self._upkeep_at = 0.0
        self._told_at = 0.0
        self._tried = 0
        self.connections = 0
        """How often a connection was made."""

    async def open(self) -> None:
        """From the return of this on, every commit will be told. Raises :class:`Unreachable`."""
        server = await self._deployment.server_of(self._slot)
        connection = await server.connect()
        try:
            for position in self._positions.values():
                position.move(await self._newest(connection, position))
        except BaseException as error:
            await discard(connection)
            if isinstance(error, (RedisError, OSError, TimeoutError)):
                raise Unreachable(f"{server.name}: {error}") from error
            raise
        self._connection = connection
        self._task = asyncio.create_task(self._follow(server))

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            await self._disconnect()

    async def _disconnect(self) -> None:
        if self._connection is not None:
            await discard(self._connection)
            self._connection = None

    async def _follow(self, server: Server) -> None:
        while True:
            try:
                connection = self._connection
                if connection is None:
                    server = await self._deployment.server_of(self._slot)
                    connection = self._connection = await server.connect()
                    await self._check(connection)
                self.connections += 1
                self._upkeep_at = 0.0
                while server is await self._deployment.server_of(self._slot):
                    await self._step(connection)
                    self._tried = 0
            except (RedisError, OSError, TimeoutError, Unreachable) as error:
                logger.info("The feed of %s was cut off: %s", server.name, error)
                await self._disconnect()
                await self._pause()
            else:
                # The slots are elsewhere now.
                await self._disconnect()

    async def _pause(self) -> None:
        await asyncio.sleep(_RETRY[min(self._tried, len(_RETRY) - 1)])
        self._tried += 1
        await self._deployment.refresh()

    async def _step(self, connection: AbstractConnection) -> None:
        own = self._positions
        reply = await self._ask(
            connection,
            *(b"XREAD", b"COUNT", _PAGE, b"BLOCK", _BLOCK, b"STREAMS", *own),
            *[position.id for position in own.values()],
        )
        now = asyncio.get_running_loop().time()
        if reply:
            self._take(reply)
        else:
            await self._check(connection)
        if now >= self._upkeep_at:
            await self._upkeep(connection)
        if reply:
            if now - self._told_at < _BUSY_SECONDS:
                # One reply then tells of many commits, where each would cost the server a wake-up.
                await asyncio.sleep(_BREATH_SECONDS)
            self._told_at = now

    async def _ask(self, connection: AbstractConnection, *arguments: bytes) -> Any:
        (reply,) = await self._ask_all(connection, [pack(*arguments)])
        return reply

    async def _ask_all(
        self, connection: AbstractConnection, commands: Sequence[bytes]
    ) -> Sequence[Any]:
        if not commands:
            return ()
        async with asyncio.timeout(self._timeout + BLOCK_MILLISECONDS / 1000):
            await connection.send_packed_command(commands, check_health=False)
            return [await connection.read_response(disable_decoding=True) for _ in commands]

    def _take(self, reply: Sequence[Any]) -> None:
        changes: list[Change] = []
        missed = False
        for key, entries in reply:
            position = self._positions[key]
            seq = position.seq
            for entry in entries:
                found = seq_of(entry)
                missed = missed or found != seq + 1
                seq = found
                changes.append(_change(entry[1]))
            position.move(entries[-1])
        if missed:
            self._resync("entries were trimmed before they were read")
        self._tell(changes)

    def _resync(self, reason: str) -> None:
        logger.warning("Readers look again, because changes may have been missed: %s", reason)
        self._tell(None)

    def _tell(self, changes: Sequence[Change] | None) -> None:
        try:
            self._deliver(changes)
        except Exception:
            logger.exception("A watcher failed")

    async def _check(self, connection: AbstractConnection) -> None:
        """See whether what was read last is still there and the same."""
        seen = [position for position in self._positions.values() if position.seq >= 0]
        commands = [
            pack(b"XRANGE", position.shard.feed, position.id, position.id) for position in seen
        ]
        changed = False
        for position, found in zip(seen, await self._ask_all(connection, commands), strict=True):
            if found != [position.last]:
                position.move(await self._newest(connection, position))
                position.ages.clear()
                changed = True
        if changed:
            self._lost()
            self._resync("the server does not hold what it held before")

    async def _newest(self, connection: AbstractConnection, position: Position) -> Any:
        found = await self._ask(
            connection, b"XREVRANGE", position.shard.feed, b"+", b"-", b"COUNT", b"1"
        )
        return found[0] if found else None

    async def _upkeep(self, connection: AbstractConnection) -> None:
        """Compare clocks, trim what everybody has had time to read, and see who is master: one
        that was replaced does not tell.
        """
        await self._deployment.refresh()
        loop = asyncio.get_running_loop()
        now = loop.time()
        self._upkeep_at = now + _UPKEEP_SECONDS
        self._measured(await self._ask(connection, b"TIME"), now)
        for position in self._positions.values():
            ages = position.ages
            if position.seq >= 0 and (not ages or ages[-1][1] != position.seq):
                ages.append((now, position.seq))
            old = -1
            while len(ages) > 1 and ages[0][0] < now - self._keep_seconds:
                old = ages.popleft()[1]
            if old >= 0:
                try:
                    await self._ask(
                        connection,
                        *(b"XTRIM", position.shard.feed, b"MINID", _FIRST + b"%d" % old),
                    )
                except ResponseError as error:
                    # A replica, or a server without room: another process or a later try does it.
                    logger.info("The feed was not trimmed: %s", error)


_TAIL_END: Final = 17
_TIMELINE_END: Final = 33


def _change(field: Sequence[bytes]) -> Change:
    """From an entry's one field, whose name says what happened: a digit (1 closed, 2 gone, 4 with
    its data), the tail and its timeline with 16 digits each, the length of the incarnation and a
    colon, the incarnation, the path. Several fields would cost the server more, for each commit and
    for each who follows.
    """
    news, data = field
    told = int(news[:1])
    colon = news.index(b":", _TIMELINE_END)
    path = colon + 1 + int(news[_TIMELINE_END:colon])
    return Change(
        news[path:].decode(),
        news[colon + 1 : path].decode(),
        int(news[1:_TAIL_END]),
        bool(told & 1),
        bool(told & 2),
        data if told & 4 else None,
        news[_TAIL_END:_TIMELINE_END],
    )
