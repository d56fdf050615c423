"""The store: the verbs of :class:`durable_streams_core.store.Store` on a Redis deployment.

See ``docs/redis.md`` for what lies where, and what each durability survives.
"""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
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
from durable_streams_core.metrics import Metric
from durable_streams_core.store import RemoteStore, Watcher, Watchers
from durable_streams_redis.deploy import deploy
from durable_streams_redis.deployments import Deployment, Request
from durable_streams_redis.durability import parse_durability
from durable_streams_redis.feeds import Feed
from durable_streams_redis.looks import Looks
from durable_streams_redis.meter import RedisMeter
from durable_streams_redis.probes import probe_servers
from durable_streams_redis.schema import Schema, Shard, check_prefix, check_shards
from durable_streams_redis.scripts import (
    HEAD_FIELDS,
    HeadReply,
    ReadReply,
    commit_call,
    commit_outcome,
    facts_of,
    head_of,
    is_for_the_other_form,
    is_of_another_timeline,
    pack,
    read_call,
)
from durable_streams_redis.servers import Lost, Reply, Retired, Server, Unreachable
from durable_streams_redis.settings import settings_of, split_options
from durable_streams_redis.startup import check_keys, check_server, check_servers, unreachable
from durable_streams_redis.timelines import Timelines, agree_on_shards

Packed = Callable[..., Request]
"""Packs a commit of a batch, given its index and whether it may be ``plain``."""

_DOUBTED: Final = 100_000
_SENT: Final = 16_384
_READ_AT_ONCE: Final = 1024 * 1024
_STARTS: Final = 3
"""How often a start is tried whose connection breaks."""
_STRAGGLER_SECONDS: Final = 1.0
"""How long commits to one server of a Cluster hold up those to the others."""
_SLOW_SECONDS: Final = 2.0
"""How long commits that no server answers hold up those that come after them."""
_RENEWALS: Final = 3
"""How often a commit is packed anew for another timeline."""


class RedisStore(RemoteStore):
    """Streams on Redis or Valkey: one server, a master that Sentinels watch, or a Cluster.

    ``source`` is a URL or a client of redis-py, which is read for its settings and left alone.
    All keys begin with ``prefix``. ``shards`` is fixed by the first process that starts on a
    prefix; None takes what is there, or 16. ``durability`` is what an acknowledgement promises, one
    of ``memory``, ``everysec``, ``always``, ``wait:N`` and ``waitaof:L,N``. ``connections`` bounds
    the pool, beside the one connection that follows the feeds (in Cluster, one for each shard).
    ``timeout`` is how many seconds a server may take to answer, ``feed_length`` and
    ``feed_seconds`` how much of each feed is kept for a process that is slow.

    Long because it implements every verb of the interface over one set of connections, and a
    commit's doubts are settled in the same place as they begin.
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
        self.visible_early = bool(self._durability.last)
        self._connections = connections
        self._timeout = timeout
        self._feed_length = b"%d" % max(1, feed_length)
        self._feed_seconds = feed_seconds
        self._meter = RedisMeter()
        self._forget()

    def _forget(self) -> None:
        """Begin as a store that was never opened."""
        self._process = os.getpid()
        self._deployment: Deployment | None = None
        self._timelines: Timelines | None = None
        self._schema = Schema(self._prefix, 1)
        self._looks: Looks | None = None
        self._feeds: list[Feed] = []
        self._watchers = Watchers()
        self._in_doubt: dict[str, None] = {}
        self._sent: tuple[set[str], set[str]] = set(), set()
        self._under_way: dict[str, asyncio.Task[dict[str, Outcome]]] = {}
        self._offset = time.time() - time.monotonic()

    async def open(self) -> None:
        """Connect and check the servers; raises :class:`StoreError` with a sentence to act on.

        A connection that breaks in the middle is tried again. In a process that was forked from one
        where the store was open, it is opened anew: connections are never shared.
        """
        if self._process != os.getpid():
            self._forget()
        if self._deployment is not None:
            return
        for attempt in range(_STARTS):
            try:
                await self._open()
                return
            except Unreachable as error:
                await self.close()
                if attempt + 1 == _STARTS or not _is_broken(error):
                    raise unreachable(error) from None
            except BaseException:
                await self.close()
                raise

    async def _open(self) -> None:
        deployment = self._deployment = deploy(
            self._settings,
            connections=self._connections,
            timeout=self._timeout,
            meter=self._meter,
        )
        await check_servers(deployment, self._durability)
        shards = await agree_on_shards(deployment, self._prefix, self._wanted_shards)
        schema = self._schema = Schema(self._prefix, shards)
        await check_keys(deployment, schema)
        self._timelines = Timelines(deployment, self._prefix, schema, self.now)
        deployment.on_new_run = self._meet
        await deployment.admit_again()
        asked = time.monotonic()
        self._measure(await deployment.send(schema.shards[0].slot, pack(b"TIME")), asked)
        self._looks = Looks(deployment, self.load)
        groups = [schema.shards] if deployment.one_server else [[s] for s in schema.shards]
        self._feeds = [self._feed(deployment, group) for group in groups]
        for feed in self._feeds:
            await feed.open()

    async def _meet(self, server: Server, run: str) -> None:
        """Before commands are sent to a server process that is new to this store.

        It may be configured in another way than the one before: a replica that took over, or a
        restart with another file. Raises :class:`Unreachable`.
        """
        deployment, timelines = self._deployment, self._timelines
        assert deployment is not None
        assert timelines is not None
        aside = deployment.aside(server.address)
        try:
            await check_server(aside, self._durability)
        except StoreError as error:
            raise Unreachable(str(error)) from None
        finally:
            await aside.close()
        await timelines.begin(server, run)

    def _feed(self, deployment: Deployment, shards: Sequence[Shard]) -> Feed:
        return Feed(
            deployment,
            shards,
            deliver=self._watchers.tell,
            renew=self._renew,
            measured=self._measure,
            meter=self._meter,
            timeout=self._timeout,
            keep_seconds=self._feed_seconds,
        )

    async def close(self) -> None:
        """Finish what is under way and disconnect; safe to call twice."""
        if self._process != os.getpid():
            self._forget()
        await asyncio.gather(*set(self._under_way.values()), return_exceptions=True)
        deployment, self._deployment = self._deployment, None
        if self._looks is not None:
            await self._looks.close()
        for feed in self._feeds:
            await feed.close()
        self._feeds = []
        if deployment is not None:
            await deployment.close()

    def metrics(self) -> Sequence[Metric]:
        return self._meter.metrics()

    def now(self) -> int:
        return int((time.monotonic() + self._offset) * 1000)

    def _measure(self, reply: Reply, asked: float) -> None:
        """Take over the server's clock, as it was half-way between question and answer."""
        if isinstance(reply, list):
            seconds = int(reply[0]) + int(reply[1]) / 1_000_000
            self._offset = seconds - (asked + time.monotonic()) / 2

    async def _renew(self, shard: Shard, *, lost: bool = False) -> None:
        """See which timeline a shard has now. Raises :class:`Unreachable`."""
        assert self._timelines is not None
        try:
            async with asyncio.timeout(self._timeout):
                await self._timelines.renew(shard, lost=lost)
        except TimeoutError:
            raise Unreachable("the timeline of a shard was not told in time") from None

    # Looking.

    def _opened(self) -> Deployment:
        if self._deployment is None or self._process != os.getpid():
            raise StoreError("The Redis store is not open in this process: await open() first.")
        return self._deployment

    def _readable(self) -> Deployment:
        """The deployment, unless the servers were set up anew in another way."""
        if self._timelines is not None and self._timelines.trouble is not None:
            raise Unavailable(str(self._timelines.trouble))
        return self._opened()

    async def _query(self, slot: int, command: bytes) -> Any:
        """The reply to a question; raises :class:`Unavailable`."""
        reply = await self._readable().send(slot, command)
        if isinstance(reply, Lost | Retired):
            # A question does no harm twice. The connection may just have been broken before, or
            # the server been replaced after this one was chosen.
            reply = await self._readable().send(slot, command)
        if isinstance(reply, Exception):
            raise _unavailable(reply)
        return reply

    def look(self, path: str, done: Callable[[Head | Exception | None], None]) -> None:
        self._readable()
        assert self._looks is not None
        self._looks.add(self._schema.shard(path), path, done)

    async def load(self, path: str, fields: Sequence[str] = ()) -> Facts | None:
        shard = self._schema.shard(path)
        reply = await self._query(shard.slot, read_call(shard, path, "", 0, 0, *fields))
        return None if reply is None else facts_of(shard, ReadReply.of(reply), fields)

    async def read(self, path: str, incarnation: str, start: int, limit: int) -> Slice | None:
        shard = self._schema.shard(path)
        head: Head | None = None
        parts: list[bytes] = []
        size = 0
        while True:
            some = min(limit - size, _READ_AT_ONCE)
            reply = await self._query(
                shard.slot, read_call(shard, path, incarnation, start + size, some)
            )
            if reply is None:
                return None
            page = ReadReply.of(reply)
            if head is None:
                # Bytes never change, so later pages belong to this first snapshot too.
                head = head_of(shard, page.head)
                limit = min(limit, max(0, head.tail - start))
            parts.append(page.data)
            size += len(page.data)
            if size >= limit or not page.data:
                data = page.data if len(parts) == 1 else b"".join(parts)
                return Slice(head, data[:limit])

    async def scan(
        self, path: str, incarnation: str, kind: str, after: str, limit: int
    ) -> Sequence[tuple[str, bytes]]:
        shard = self._schema.shard(path)
        entity, index = shard.entity(path), shard.index_of(path, incarnation)
        found: list[tuple[str, bytes]] = []
        while len(found) < limit:
            wanted = limit - len(found)
            keys = await self._query(
                shard.slot, _range_by_lex(index, kind.encode(), after.encode(), wanted)
            )
            if not keys:
                break
            there, *values = await self._query(
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
            pages = await self._query_all(
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
            heads = await self._query_all(
                [
                    (shard.slot, pack(b"HMGET", shard.entity(path), *HEAD_FIELDS))
                    for path, shard in ((path, self._schema.shard(path)) for path in paths)
                ]
            )
            found += [
                (path, head_of(self._schema.shard(path), HeadReply(*values)))
                for path, values in zip(paths, heads, strict=True)
                if values[0] is not None
            ]
            if not more:
                break
            after = paths[-1]
        return found

    async def due(self, before: int, limit: int) -> Sequence[str]:
        pages = await self._query_all(
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

    async def _query_all(self, requests: Sequence[Request]) -> Sequence[Any]:
        if not requests:
            return []
        replies, _ = await self._readable().send_all(requests)
        if any(isinstance(reply, Lost) for reply in replies):
            replies, _ = await self._readable().send_all(requests)
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
                outcomes += await self._commit_together(batch[begin:end])
                begin = end
                paths.clear()
            paths.add(commit.path)
        outcomes += await self._commit_together(batch[begin:])
        return outcomes

    async def _commit_together(self, batch: Sequence[Commit]) -> Sequence[Outcome]:
        """Commit to different paths. In a Cluster nobody waits long for a server that hangs: what
        it was sent stays under way, and is found there when it is sent again.
        """
        deployment = self._opened()
        if deployment.one_server or not batch:
            return await self._commit(batch)
        parts: dict[Server | None, list[Commit]] = {}
        for commit in batch:
            if commit.id not in self._under_way:
                parts.setdefault(await self._server_of(commit), []).append(commit)
        for part in parts.values():
            task = asyncio.create_task(self._commit_part(part))
            self._under_way.update(dict.fromkeys([commit.id for commit in part], task))
        tasks = [self._under_way[commit.id] for commit in batch]
        try:
            _, late = await asyncio.wait(
                set(tasks), timeout=_SLOW_SECONDS, return_when=asyncio.FIRST_COMPLETED
            )
            if late and len(late) < len(set(tasks)):
                await asyncio.wait(late, timeout=_STRAGGLER_SECONDS)
        except asyncio.CancelledError:
            # They go on, and nobody here hears how they end.
            for commit in batch:
                self._doubt(commit)
            raise
        outcomes: list[Outcome] = []
        for commit, task in zip(batch, tasks, strict=True):
            if task.done():
                outcomes.append(task.result()[commit.id])
            else:
                self._doubt(commit)
                outcomes.append(Unknown("The server has not answered yet."))
        return outcomes

    async def _server_of(self, commit: Commit) -> Server | None:
        try:
            return await self._opened().server_of(self._schema.shard(commit.path).slot)
        except Unreachable:
            return None

    async def _commit_part(self, part: Sequence[Commit]) -> dict[str, Outcome]:
        """The outcomes of commits to one server, by id."""
        try:
            outcomes = await self._commit(part)
        finally:
            for commit in part:
                self._under_way.pop(commit.id, None)
        return {commit.id: outcome for commit, outcome in zip(part, outcomes, strict=True)}

    async def _commit(self, batch: Sequence[Commit], *, probe: bool = False) -> Sequence[Outcome]:
        durability = self._durability
        confirm = bool(durability.last)
        in_doubt = self._in_doubt
        doubted = [commit.id in in_doubt for commit in batch]
        first = [
            not before and self._is_new(commit)
            for commit, before in zip(batch, doubted, strict=True)
        ]

        def packed(index: int, *, plain: bool) -> Request:
            commit = batch[index]
            shard = self._schema.shard(commit.path)
            call = commit_call(
                commit,
                shard,
                self._feed_length,
                first=first[index],
                probe=probe,
                confirm=confirm,
                plain=plain,
            )
            return shard.slot, call

        self._meter.batches.observe(len(batch))
        # Until it is known otherwise, also if the caller is cancelled here.
        try:
            replies, confirmations = await self._send_commits(batch, packed)
        except BaseException:
            for commit in batch:
                self._doubt(commit)
            raise
        outcomes: list[Outcome] = []
        unconfirmed = False
        for index, commit in enumerate(batch):
            before = doubted[index]
            outcome = _outcome(commit, self._schema.shard(commit.path), replies[index])
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
            self._opened().discover_soon()
        return outcomes

    async def _send_commits(
        self, batch: Sequence[Commit], packed: Packed
    ) -> tuple[Sequence[Reply], Sequence[Reply]]:
        """The replies and confirmations; packs again what has to be sent in another form, or for
        another timeline of its shard.
        """
        durability = self._durability
        replies: list[Reply] = [None] * len(batch)
        confirmations: list[Reply] = [None] * len(batch)
        left = list(range(len(batch)))
        plain = True
        for _ in range(_RENEWALS):
            some, confirmed = await self._opened().send_all(
                [packed(index, plain=plain) for index in left],
                last=durability.last,
                patience=durability.patience,
            )
            for index, reply, confirmation in zip(left, some, confirmed, strict=True):
                replies[index], confirmations[index] = reply, confirmation
            old = [index for index in left if is_of_another_timeline(replies[index])]
            left = [index for index in left if is_for_the_other_form(replies[index])]
            plain = False
            try:
                for shard in {self._schema.shard(batch[index].path) for index in old}:
                    await self._renew(shard)
                left += old
            except Unreachable as error:
                for index in old:
                    replies[index] = error
            if not left:
                break
        return replies, confirmations

    def _is_new(self, commit: Commit) -> bool:
        """Whether this store does not remember that it sent it."""
        newer, older = self._sent
        if commit.id in newer or commit.id in older:
            return False
        newer.add(commit.id)
        if len(newer) >= _SENT:
            self._sent = set(), newer
        return True

    def _doubt(self, commit: Commit) -> None:
        self._in_doubt[commit.id] = None
        if len(self._in_doubt) > _DOUBTED:
            del self._in_doubt[next(iter(self._in_doubt))]

    async def probe(self) -> Refused | None:
        try:
            deployment = self._readable()
        except (StoreError, Unavailable) as error:
            return Refused("store-failed", str(error))
        return await probe_servers(deployment, self._schema.shards, self._feeds, self._durability)

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


def _is_broken(error: Unreachable) -> bool:
    """Whether a server was there but its connection broke, which a new one may mend."""
    text = str(error.__cause__ or "closed").lower()
    return "reset" in text or "closed" in text


def _outcome(commit: Commit, shard: Shard, reply: Reply) -> Outcome:
    if isinstance(reply, list | bytes):
        return commit_outcome(commit, shard, reply)
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
    if text.startswith("HOLE"):
        return Unavailable(
            "Redis has lost bytes of this stream: restore its data, or delete the stream.",
            code="stream-damaged",
            status=500,
            retry_after=None,
        )
    if isinstance(reply, Unreachable | Lost):
        return Unavailable(f"Redis cannot be reached ({text}).")
    return Unavailable(f"Redis did not do it ({text}).")


def open_store(url: str) -> RedisStore:
    """The store for ``redis:``, ``rediss:``, ``redis+sentinel:`` and ``redis+cluster:`` URLs.

    Raises :class:`StoreError` for a URL that cannot be understood.
    """
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
