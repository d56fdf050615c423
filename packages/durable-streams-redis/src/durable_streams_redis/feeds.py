"""Follows the feeds: everything that any process of the deployment committed, without a poll.

One connection blocks on the feeds of all shards of a server, in Cluster one for each shard, because
a Cluster refuses a read of several slots, and a blocked reader hears nothing of a migration; so no
read blocks for more than a second.

The ids of a feed are its timeline and consecutive numbers. A gap is a resync: the feed was trimmed
past this reader. A new timeline is one too: the server may have lost data. Connecting begins it
where it is due, and so does a feed that was flushed while all was quiet.
"""

import asyncio
import logging
from asyncio import Task
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

from redis.exceptions import RedisError, ResponseError

from durable_streams_core.entities import Change
from durable_streams_redis.deployments import Deployment
from durable_streams_redis.meter import RedisMeter
from durable_streams_redis.outages import Outage
from durable_streams_redis.schema import Shard
from durable_streams_redis.scripts import bulk, pack
from durable_streams_redis.servers import Server, Unreachable, discard
from durable_streams_redis.wires import Wire

logger = logging.getLogger(__name__)

BLOCK_MILLISECONDS: Final = 1000
_BLOCK: Final = b"%d" % BLOCK_MILLISECONDS
PAGE: Final = 512
"""Entries of one feed in a reply; so many mean that there may be more."""
_UPKEEP_SECONDS: Final = 10.0
_BUSY_SECONDS: Final = 0.004
_BREATH_SECONDS: Final = 0.002
_RETRY: Final = (0.02, 0.05, 0.1, 0.25, 0.5, 1.0)

Deliver = Callable[[Sequence[Change] | None], None]
Clock = Callable[[Sequence[Any], float], None]


class Renew(Protocol):
    """Sees which timeline a shard has, or begins one where its data was ``lost``."""

    async def __call__(self, shard: Shard, *, lost: bool = False) -> None: ...


class Position:
    """How far one feed was read."""

    __slots__ = ("_asked", "ages", "last", "seq", "shard", "timeline")

    def __init__(self, shard: Shard) -> None:
        self.shard = shard
        self.timeline = 0
        self.seq = 0
        """The number of the last entry seen in its timeline."""
        self.last: Any = None
        self.ages: deque[tuple[float, bytes]] = deque()
        self._asked = b""

    @property
    def id(self) -> bytes:
        return b"%d-%d" % (self.timeline, self.seq)

    @property
    def asked(self) -> bytes:
        """The id as the argument of a command; made anew only after a move."""
        if not self._asked:
            self._asked = bulk((self.id,))
        return self._asked

    def move(self, entry: Any) -> None:
        self.last = entry
        self.timeline, self.seq = (0, 0) if entry is None else _id_of(entry)
        self._asked = b""


def _id_of(entry: Any) -> tuple[int, int]:
    timeline, _, seq = entry[0].partition(b"-")
    return int(timeline), int(seq)


class Feed:
    """Follows some shards' feeds for as long as it is open.

    Args:
        deployment: the servers.
        shards: all on one server, or one.
        deliver: called with the changes of each reply, and with None for a resync.
        renew: called for a shard whose feed is not what it was; begins a new timeline.
        meter: counts connections and resyncs, and keeps how many streams there are.
        measured: called regularly with the server's TIME and the loop's time when it was asked.
        timeout: seconds that the server may take to answer.
        keep_seconds: how long entries are kept for other processes.

    """

    def __init__(
        self,
        deployment: Deployment,
        shards: Sequence[Shard],
        *,
        deliver: Deliver,
        renew: Renew,
        measured: Clock,
        meter: RedisMeter,
        timeout: float,
        keep_seconds: float,
    ) -> None:
        self._deployment = deployment
        self._positions = {shard.feed: Position(shard) for shard in shards}
        own = tuple(self._positions)
        self._question = b"*%d\r\n%b" % (
            6 + 2 * len(own),
            bulk((b"XREAD", b"COUNT", b"%d" % PAGE, b"BLOCK", _BLOCK, b"STREAMS", *own)),
        )
        """All of the command but the positions."""
        self._slot = shards[0].slot
        self._deliver = deliver
        self._renew = renew
        self._measured = measured
        self._meter = meter
        self._timeout = timeout
        self._keep_seconds = keep_seconds
        self._task: Task[None] | None = None
        self._wire: Wire | None = None
        self._upkeep_at = 0.0
        self._told_at = 0.0
        self._caught_up_at = 0.0
        self._tried = 0
        self._outage = Outage(logger)
        self.connections = 0
        """How often a connection was made."""

    async def open(self) -> None:
        """From the return of this on, every commit is delivered. Raises :class:`Unreachable`."""
        server = await self._deployment.server_of(self._slot)
        wire = await server.open()
        try:
            for position in self._positions.values():
                position.move(await self._newest(server, wire, position))
        except BaseException as error:
            await discard(wire.connection)
            if isinstance(error, (RedisError, OSError, TimeoutError)):
                raise Unreachable(f"{server.name}: {error}") from error
            raise
        self._wire = wire
        self._caught_up_at = asyncio.get_running_loop().time()
        self._task = asyncio.create_task(self._follow(server))

    def behind(self) -> float:
        """For how many seconds there may have been changes that were not delivered."""
        return asyncio.get_running_loop().time() - self._caught_up_at

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            await self._disconnect()

    async def _disconnect(self) -> None:
        if self._wire is not None:
            await discard(self._wire.connection)
            self._wire = None

    async def _follow(self, server: Server) -> None:
        while True:
            try:
                wire = self._wire
                if wire is None:
                    server = await self._deployment.server_of(self._slot)
                    wire = self._wire = await server.open()
                    self._outage.end()
                    self._meter.reconnects += 1
                self.connections += 1
                self._upkeep_at = 0.0
                while server is await self._deployment.server_of(self._slot):
                    await self._step(server, wire)
                    self._tried = 0
            except Exception as error:
                # Whatever the reason, readers wait for this task.
                self._outage.note(f"{server.name}: {str(error) or type(error).__name__}")
                await self._disconnect()
                # Perhaps it is another process now, or was a replica meanwhile.
                await server.disconnect()
                self._deployment.discover_soon()
                await asyncio.sleep(_RETRY[min(self._tried, len(_RETRY) - 1)])
                self._tried += 1
            else:
                # The slots are elsewhere now.
                await self._disconnect()

    async def _step(self, server: Server, wire: Wire) -> None:
        asked = [position.asked for position in self._positions.values()]
        (reply,) = await self._send(server, wire, b"".join((self._question, *asked)))
        now = asyncio.get_running_loop().time()
        if not reply or all(len(entries) < PAGE for _, entries in reply):
            self._caught_up_at = now
        if reply:
            self._take(reply)
        else:
            await self._check(server, wire)
        if now >= self._upkeep_at:
            await self._upkeep(server, wire)
        if reply:
            if now - self._told_at < _BUSY_SECONDS:
                # One reply then tells of many commits, where each would cost the server a wake-up.
                await asyncio.sleep(_BREATH_SECONDS)
            self._told_at = now

    async def _send(self, server: Server, wire: Wire, *commands: bytes) -> Sequence[Any]:
        return await server.wait_on(wire, commands, self._timeout + BLOCK_MILLISECONDS / 1000)

    def _take(self, reply: Sequence[Any]) -> None:
        changes: list[Change] = []
        reason = ""
        for key, entries in reply:
            position = self._positions[key]
            timeline, seq = position.timeline, position.seq
            position.move(entries[-1])
            # Numbers only rise: the last one shows whether any is missing.
            if position.timeline != timeline:
                reason = "the server was restarted, replaced or flushed"
            elif position.seq != seq + len(entries):
                reason = reason or "entries were trimmed before they were read"
            for entry in entries:
                if entry[1][0] == _BEGIN:
                    continue
                try:
                    changes.append(_change(entry[1]))
                except ValueError:
                    reason = reason or "an entry of another program is in a feed"
        if reason:
            self._resync(reason)
        if changes:
            self._tell(changes)

    def _resync(self, reason: str) -> None:
        self._meter.resyncs += 1
        logger.warning("Readers look again, because changes may have been missed: %s", reason)
        self._tell(None)

    def _tell(self, changes: Sequence[Change] | None) -> None:
        try:
            self._deliver(changes)
        except Exception:
            logger.exception("A watcher failed")

    async def _check(self, server: Server, wire: Wire) -> None:
        """Begin a new timeline where the entry that was seen last is not there any more."""
        seen = tuple(self._positions.values())
        found = await self._send(
            server,
            wire,
            *[pack(b"XRANGE", position.shard.feed, position.id, position.id) for position in seen],
        )
        changed = [
            position for position, at in zip(seen, found, strict=True) if at != [position.last]
        ]
        for position in changed:
            shard = position.shard
            # Where a later timeline has begun already, the loss is known.
            await self._renew(shard, lost=position.timeline == shard.timeline)
            position.move(await self._newest(server, wire, position))
            position.ages.clear()
        if changed:
            self._resync("the server does not hold what it held before")

    async def _newest(self, server: Server, wire: Wire, position: Position) -> Any:
        (found,) = await self._send(
            server,
            wire,
            pack(b"XREVRANGE", position.shard.feed, b"+", b"-", b"COUNT", b"1"),
        )
        return found[0] if found else None

    async def _upkeep(self, server: Server, wire: Wire) -> None:
        """Compare clocks, count streams, and trim what every process has had time to read."""
        now = asyncio.get_running_loop().time()
        self._upkeep_at = now + _UPKEEP_SECONDS
        shards = [position.shard for position in self._positions.values()]
        clock, *streams = await self._send(
            server, wire, pack(b"TIME"), *[pack(b"ZCARD", shard.paths) for shard in shards]
        )
        self._measured(clock, now)
        self._meter.streams.update(zip((shard.feed for shard in shards), streams, strict=True))
        for position in self._positions.values():
            ages = position.ages
            if not ages or ages[-1][1] != position.id:
                ages.append((now, position.id))
            old = b""
            while len(ages) > 1 and ages[0][0] < now - self._keep_seconds:
                old = ages.popleft()[1]
            if old:
                try:
                    await self._send(
                        server, wire, pack(b"XTRIM", position.shard.feed, b"MINID", old)
                    )
                except ResponseError as error:
                    # A replica, or a server without room: another process or a later try does it.
                    logger.info("The feed was not trimmed: %s", error)


_BEGIN: Final = b"run"
"""The field of an entry that begins a timeline."""
_TAIL_END: Final = 17
_TIMELINE_END: Final = 33


def _change(field: Sequence[bytes]) -> Change:
    """From an entry's one field, whose name says what happened: a digit (1 closed, 2 gone, 4 with
    its data), the tail and its timeline with 16 digits each, the length of the incarnation and a
    colon, the incarnation, the path. Several fields would cost the server more, for each commit and
    for each who follows.
    """
    name, data = field
    bits = int(name[:1])
    colon = name.index(b":", _TIMELINE_END)
    path = colon + 1 + int(name[_TIMELINE_END:colon])
    return Change(
        name[path:].decode(),
        name[colon + 1 : path].decode(),
        int(name[1:_TAIL_END]),
        bool(bits & 1),
        bool(bits & 2),
        data if bits & 4 else None,
        name[_TAIL_END:_TIMELINE_END],
    )
