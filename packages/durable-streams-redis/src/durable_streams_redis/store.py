"""The store: the verbs of :class:`durable_streams_core.store.Store` on a Redis deployment.

See ``docs/redis.md`` for what lies where, and what each durability survives.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from redis.exceptions import OutOfMemoryError

from durable_streams_core.entities import (
    Applied,
    Commit,
    Facts,
    Head,
    Outcome,
    Refused,
    Slice,
    Unknown,
)
from durable_streams_core.errors import StoreError, Unavailable
from durable_streams_core.store import Store, Watcher, Watchers
from durable_streams_redis.deployments import Deployment, Request, deploy
from durable_streams_redis.durability import parse_durability
from durable_streams_redis.feeds import Feed
from durable_streams_redis.schema import Schema, check_prefix, check_shards
from durable_streams_redis.scripts import (
    HEAD_FIELDS,
    bytes_of,
    commit_call,
    commit_outcome,
    facts_of,
    head_of,
    pack,
    read_call,
)
from durable_streams_redis.servers import Lost, Reply, Unreachable
from durable_streams_redis.settings import settings_of, split_options
from durable_streams_redis.startup import agree_on_shards, check_keys, check_servers, unreachable

_DOUBTED: Final = 100_000
_SENT: Final = 16_384
_READ_AT_ONCE: Final = 1024 * 1024


class RedisStore(Store):
    """Streams on Redis or Valkey: one server, a master that Sentinels watch, or a Cluster.

    ``source`` is a URL or a client of redis-py, which is read for its settings and left alone.
    All keys begin with ``prefix``. ``shards`` is fixed by the first process that starts on a
    prefix; None takes what is there, or 16. ``durability`` is what an acknowledgement promises, one
    of ``memory``, ``everysec``, ``always``, ``wait:N`` and ``waitaof:L,N``. ``connections`` bounds
    the pool, beside the one connection that follows the feeds (in Cluster, one for each shard).
    ``timeout`` is how many seconds a server may take to answer, ``feed_length`` and
    ``feed_seconds`` how much of each feed is kept for a process that is slow.
    """

    api = 1

    def __init__(
        self,
        source: object,
        *,
        prefix: str = "ds",
        shards: int | None = None,
        durability: str = "memory",
        connections: int = 32,
        timeout: float = 5.0,
        feed_length: int = 8192,
        feed_seconds: float = 300.0,
    ) -> None:
        self._settings = settings_of(source)
        self._prefix = check_prefix(prefix)
        self._wanted_shards = None if shards is None else check_shards(shards)
        self._durability = parse_durability(durability, timeout)
        self._connections = connections
        self._timeout = timeout
        self._feed_length = b"%d" % max(1, feed_length)
        self._feed_seconds = feed_seconds
        self._deployment: Deployment | None = None
        self._schema = Schema(prefix, 1)
        self._feeds: list[Feed] = []
        self._watchers = Watchers()
        self._in_doubt: dict[str, None] = {}
        self._sent: dict[str, None] = {}
        self._offset = time.time() - time.monotonic()
        self._repairs: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        if self._deployment is not None:
            return
        deployment = self._deployment = deploy(
            self._settings, connections=self._connections, timeout=self._timeout
        )
        try:
            await check_servers(deployment, self._durability)
            shards = await agree_on_shards(deployment, self._prefix, self._wanted_shards)
            schema = self._schema = Schema(self._prefix, shards)
            self._wanted_shards = shards
            await check_keys(deployment, schema)
            slot = schema.shards[0].slot
            asked = time.monotonic()
            self._measure(await deployment.ask(slot, pack(b"TIME")), asked)
            groups = [schema.shards] if deployment.one_server else [[s] for s in schema.shards]
            self._feeds = [self._feed(deployment, group) for group in groups]
            for feed in self._feeds:
                await feed.open()
        except Unreachable as error:
            await self.close()
            raise unreachable(error) from None
        except BaseException:
            await self.close()
            raise

    def _feed(self, deployment: Deployment, shards: Sequence[Any]) -> Feed:
        return Feed(
            deployment,
            shards,
            deliver=self._watchers.tell,
            lost=self._repair,
            measured=self._measure,
            timeout=self._timeout,
            keep_seconds=self._feed_seconds,
        )

    async def close(self) -> None:
        deployment, self._deployment = self._deployment, None
        for feed in self._feeds:
            await feed.close()
        self._feeds = []
        for task in tuple(self._repairs):
            await task
        if deployment is not None:
            await deployment.close()

    def now(self) -> int:
        return int((time.monotonic() + self._offset) * 1000)

    def _measure(self, reply: Reply, asked: float) -> None:
        """Take over the server's clock, as it was half-way between question and answer."""
        if isinstance(reply, list):
            seconds = int(reply[0]) + int(reply[1]) / 1_000_000
            self._offset = seconds - (asked + time.monotonic()) / 2

    def _repair(self) -> None:
        """A server that lost data may have lost the record of the schema as well."""
        if self._deployment is None:
            return
        task = asyncio.create_task(self._write_record(self._deployment))
        self._repairs.add(task)
        task.add_done_callback(self._repairs.discard)

    async def _write_record(self, deployment: Deployment) -> None:
        with suppress(StoreError, Unreachable):
            await agree_on_shards(deployment, self._prefix, self._wanted_shards)

    # Looking.

    def _opened(self) -> Deployment:
        if self._deployment is None:
            raise StoreError("The Redis store is not open: await open() first.")
        return self._deployment

    async def _ask(self, slot: int, command: bytes) -> Any:
        """The reply to a question; raises :class:`Unavailable`."""
        reply = await self._opened().ask(slot, command)
        if isinstance(reply, Lost):
            # A question does no harm twice, and the connection may just have been an old one.
            reply = await self._opened().ask(slot, command)
        if isinstance(reply, Exception):
            raise _unavailable(reply)
        return reply

    async def load(self, path: str, fields: Sequence[str] = ()) -> Facts | None:
        shard = self._schema.shard(path)
        reply = await self._ask(shard.slot, read_call(shard, path, "", 0, 0, *fields))
        return None if reply is None else facts_of(reply, fields)

    async def read(self, path: str, incarnation: str, start: int, limit: int) -> Slice | None:
        shard = self._schema.shard(path)
        head: Head | None = None
        parts: list[bytes] = []
        size = 0
        while True:
            some = min(limit - size, _READ_AT_ONCE)
            reply = await self._ask(
                shard.slot, read_call(shard, path, incarnation, start + size, some)
            )
            if reply is None:
                return None
            if head is None:
                # Bytes never change, so later pages belong to this first snapshot too.
                head = head_of(reply)
                limit = min(limit, max(0, head.tail - start))
            got = bytes_of(reply)
            parts.append(got)
            size += len(got)
            if size >= limit or not got:
                data = got if len(parts) == 1 else b"".join(parts)
                return Slice(head, data[:limit])

    async def scan(
        self, path: str, incarnation: str, kind: str, after: str, limit: int
    ) -> Sequence[tuple[str, bytes]]:
        shard = self._schema.shard(path)
        entity, index = shard.entity(path), shard.index_of(path, incarnation)
        found: list[tuple[str, bytes]] = []
        while len(found) < limit:
            wanted = limit - len(found)
            keys = await self._ask(
                shard.slot, _range_by_lex(index, kind.encode(), after.encode(), wanted)
            )
            if not keys:
                break
            there, *values = await self._ask(
                shard.slot, pack(b"HMGET", entity, b"i", *[b"." + key for key in keys])
            )
            if there != incarnation.encode():
                return []
            names = [key.decode() for key in keys]
            found += [
                (name, value)
                for name, value in zip(names, values, strict=True)
                if value is not None
            ]
            after = names[-1]
            if len(keys) < wanted:
                break
        return found

    async def list(self, prefix: str, after: str, limit: int) -> Sequence[tuple[str, Head]]:
        found: list[tuple[str, Head]] = []
        while len(found) < limit:
            wanted = limit - len(found)
            pages = await self._run(
                [
                    (
                        shard.slot,
                        _range_by_lex(shard.paths, prefix.encode(), after.encode(), wanted),
                    )
                    for shard in self._schema.shards
                ]
            )
            # UTF-8 sorts as its code points do.
            paths = [path.decode() for path in sorted(path for page in pages for path in page)]
            more = len(paths) >= wanted
            paths = paths[:wanted]
            heads = await self._run(
                [
                    (shard.slot, pack(b"HMGET", shard.entity(path), *HEAD_FIELDS))
                    for path, shard in ((path, self._schema.shard(path)) for path in paths)
                ]
            )
            found += [
                (path, head_of(values))
                for path, values in zip(paths, heads, strict=True)
                if values[0] is not None
            ]
            if not more:
                break
            after = paths[-1]
        return found

    async def due(self, before: int, limit: int) -> Sequence[str]:
        pages = await self._run(
            [
                (
                    shard.slot,
                    pack(
                        *(b"ZRANGEBYSCORE", shard.deadlines, b"1", b"%d" % before, b"WITHSCORES"),
                        *(b"LIMIT", b"0", b"%d" % limit),
                    ),
                )
                for shard in self._schema.shards
            ]
        )
        found = sorted(
            (float(score), path)
            for page in pages
            for path, score in zip(page[::2], page[1::2], strict=True)
        )
        return [path.decode() for _, path in found[:limit]]

    async def _run(self, requests: Sequence[Request]) -> Sequence[Any]:
        if not requests:
            return []
        replies, _ = await self._opened().run(requests)
        if any(isinstance(reply, Lost) for reply in replies):
            replies, _ = await self._opened().run(requests)
        for reply in replies:
            if isinstance(reply, Exception):
                raise _unavailable(reply)
        return replies

    # Changing.

    async def commit(self, batch: Sequence[Commit]) -> Sequence[Outcome]:
        outcomes: list[Outcome] = []
        # Two commits to one path must arrive in order, also when a server redirects the first.
        begin = 0
        paths: set[str] = set()
        for end, commit in enumerate(batch):
            if commit.path in paths:
                outcomes += await self._commit(batch[begin:end])
                begin = end
                paths.clear()
            paths.add(commit.path)
        outcomes += await self._commit(batch[begin:])
        return outcomes

    async def _commit(self, batch: Sequence[Commit], *, probe: bool = False) -> Sequence[Outcome]:
        durability = self._durability
        confirm = bool(durability.last)
        in_doubt = self._in_doubt
        doubted = [commit.id in in_doubt for commit in batch]
        requests: list[Request] = []
        for commit, before in zip(batch, doubted, strict=True):
            shard = self._schema.shard(commit.path)
            call = commit_call(
                commit,
                shard,
                self._feed_length,
                first=not before and self._is_new(commit),
                probe=probe,
                confirm=confirm,
            )
            requests.append((shard.slot, call))
        # Until it is known otherwise, also if the caller is cancelled here.
        try:
            replies, confirmations = await self._opened().run(
                requests, last=durability.last, patience=durability.patience
            )
        except BaseException:
            for commit in batch:
                self._doubt(commit)
            raise
        outcomes: list[Outcome] = []
        unconfirmed = False
        for index, commit in enumerate(batch):
            before = doubted[index]
            outcome = _outcome(commit, replies[index])
            if isinstance(outcome, Applied) and not durability.confirmed(confirmations[index]):
                outcome = Unknown("Too few servers confirmed it in time.")
                unconfirmed = True
            if isinstance(outcome, Refused) and before:
                # This try did nothing, but an earlier one may have.
                full = isinstance(replies[index], OutOfMemoryError)
                outcome = (
                    (await self._commit([commit], probe=True))[0]
                    if full and not probe
                    else Unknown(outcome.message)
                )
            if isinstance(outcome, Unknown):
                self._doubt(commit)
            elif before:
                in_doubt.pop(commit.id, None)
            outcomes.append(outcome)
        if unconfirmed:
            # Perhaps its replicas left it for a new master.
            await self._opened().refresh()
        return outcomes

    def _is_new(self, commit: Commit) -> bool:
        """Whether this store has not sent it lately."""
        sent = self._sent
        before = len(sent)
        sent[commit.id] = None
        if len(sent) > _SENT:
            del sent[next(iter(sent))]
            return True
        return len(sent) > before

    def _doubt(self, commit: Commit) -> None:
        self._in_doubt[commit.id] = None
        if len(self._in_doubt) > _DOUBTED:
            del self._in_doubt[next(iter(self._in_doubt))]

    # Watching.

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        return self._watchers.add(watcher)


def _range_by_lex(key: bytes, prefix: bytes, after: bytes, limit: int) -> bytes:
    """Members that begin with ``prefix`` and come after ``after``."""
    low = b"[" + prefix if prefix else b"-"
    if after and after >= prefix:
        low = b"(" + after
    # No byte of UTF-8 is 0xff.
    high = b"(" + prefix + b"\xff" if prefix else b"+"
    return pack(b"ZRANGEBYLEX", key, low, high, b"LIMIT", b"0", b"%d" % limit)


def _outcome(commit: Commit, reply: Reply) -> Outcome:
    if isinstance(reply, list):
        return commit_outcome(commit, reply)
    if isinstance(reply, Lost):
        return Unknown(str(reply))
    if isinstance(reply, OutOfMemoryError):
        return Refused("storage-full", "Redis has reached its memory limit.")
    return Refused("unavailable", _unavailable(reply).message)


def _unavailable(reply: Exception) -> Unavailable:
    """Why a server did not do what it was asked."""
    text = str(reply) or type(reply).__name__
    if "WRONGTYPE" in text:
        return Unavailable(
            "A key of this stream holds a value of another program: remove it.",
            code="foreign-value",
            status=500,
            retry_after=None,
        )
    if isinstance(reply, Unreachable | Lost):
        return Unavailable(f"Redis cannot be reached ({text}).")
    return Unavailable(f"Redis did not do it ({text}).")


def open_store(url: str) -> RedisStore:
    """The store for ``redis:``, ``rediss:``, ``redis+sentinel:`` and ``redis+cluster:`` URLs."""
    source, options = split_options(url)
    try:
        return RedisStore(
            source,
            prefix=options.get("prefix", "ds"),
            shards=int(options["shards"]) if "shards" in options else None,
            durability=options.get("durability", "memory"),
            connections=int(options.get("connections", "32")),
            timeout=float(options.get("timeout", "5")),
        )
    except ValueError as error:
        raise StoreError(f"An option of the Redis URL cannot be read: {error}.") from None
