"""Begins a new timeline of each shard on a server whose data may have gone back.

A server that restarts, is replaced or is flushed may have lost commits that were acknowledged. The
same positions would then be given to other bytes, and a reader that stands beyond what survived
would mix messages without a sign. So each server process begins a new timeline of its shards when
it is met for the first time, atomically and before any commit reaches it; so does a shard whose
feed is older than what this process has seen of it.
"""

import asyncio
from collections.abc import Callable

from redis.crc import key_slot
from redis.exceptions import AskError, BusyLoadingError, ClusterDownError, TryAgainError

from durable_streams_core.errors import StoreError
from durable_streams_redis.deployments import Deployment
from durable_streams_redis.schema import (
    DEFAULT_SHARDS,
    Schema,
    Shard,
    parse_record,
    record_key,
    record_value,
)
from durable_streams_redis.scripts import BEGIN, begin_call, pack
from durable_streams_redis.servers import Lost, Server, Unreachable
from durable_streams_redis.startup import raise_error


class Disagreement(StoreError):
    """The servers are set up for something else than this process."""


_ELSEWHERE = (AskError, TryAgainError, ClusterDownError)


class Timelines:
    """Keeps the record of the schema and the timelines of all shards of one store.

    Args:
        deployment: the servers.
        prefix: begins every key.
        schema: the shards; their timelines are set here.
        now: the store's clock, in milliseconds since 1970.

    """

    def __init__(
        self, deployment: Deployment, prefix: str, schema: Schema, now: Callable[[], int]
    ) -> None:
        self._deployment = deployment
        self._prefix = prefix
        self._schema = schema
        self._now = now
        self._lock = asyncio.Lock()
        self.trouble: StoreError | None = None
        """Why this process must not go on: the servers were set up anew in another way."""

    async def begin(self, server: Server, run: str, *, lost: Shard | None = None) -> None:
        """Begin new timelines on a server process where they are due. Raises :class:`Unreachable`.

        ``lost`` is a shard that does not hold what it held before.

        The record of the schema is restored after that and before any of them is used: a flush that
        comes later takes the timelines away as well, and is noticed.
        """
        if self.trouble is not None:
            raise Unreachable(str(self.trouble))
        shards = self._schema.shards
        calls = [
            begin_call(shard, run, earliest=self._now(), lost=shard is lost) for shard in shards
        ]
        replies = await self._deployment.send_once(
            server.address, [pack(b"SCRIPT", b"LOAD", BEGIN.text), *calls]
        )
        try:
            await agree_on_shards(self._deployment, self._prefix, len(shards))
        except Disagreement as error:
            self.trouble = error
            raise Unreachable(str(error)) from None
        except StoreError as error:
            # For example, the server has no memory left for the record.
            raise Unreachable(str(error)) from None
        for shard, reply in zip(shards, replies[1:], strict=True):
            if isinstance(reply, int):
                shard.timeline = max(shard.timeline, reply)
            elif not isinstance(reply, _ELSEWHERE):
                raise Unreachable(f"{server.name}: {reply}")

    async def renew(self, shard: Shard, *, lost: bool = False) -> None:
        """See which timeline a shard has now. Begins a new one if the shard was flushed, or if it
        ``lost`` what it held in the timeline that is known. Raises :class:`Unreachable`.
        """
        known = shard.timeline
        async with self._lock:
            if shard.timeline == known:
                server = await self._deployment.server_of(shard.slot)
                await self.begin(server, server.run, lost=shard if lost else None)


async def agree_on_shards(deployment: Deployment, prefix: str, wanted: int | None) -> int:
    """The number of shards in the record under a prefix, which is written where there is none.

    Raises :class:`Disagreement` if it is not ``wanted``, and :class:`Unreachable`.
    """
    key = record_key(prefix)
    slot = key_slot(key)
    for command in (
        pack(b"GET", key),
        pack(b"SET", key, record_value(wanted or DEFAULT_SHARDS), b"NX"),
        pack(b"GET", key),
    ):
        reply = await deployment.send_aside(slot, command)
        if isinstance(reply, Unreachable | Lost | BusyLoadingError):
            raise Unreachable(str(reply)) from reply.__cause__
        if isinstance(reply, Exception) and "WRONGTYPE" not in str(reply):
            raise_error(await deployment.server_of(slot), reply)
        if reply is None or reply == b"OK":
            continue
        try:
            shards = parse_record(key, reply)
        except StoreError as error:
            raise Disagreement(str(error)) from None
        if wanted is not None and wanted != shards:
            raise Disagreement(
                f"The data under {prefix!r} has {shards} shards for ever and {wanted} were asked "
                f"for: ask for {shards}, or for none, or use another prefix."
            )
        return shards
    raise Unreachable(f"{key.decode()} was removed at the same moment")
