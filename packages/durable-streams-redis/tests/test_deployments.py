"""Clusters that fail over and move slots, and masters that Sentinels replace."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Self

import pytest
import redis
import redis.asyncio
from servers import (
    BINARIES,
    VALKEY,
    RedisServer,
    cluster,
    eventually,
    open_impatient,
    patiently,
    sentinels,
)

from durable_streams_core.entities import (
    Applied,
    Change,
    Commit,
    Delta,
    Guard,
    Head,
    Outcome,
    Refused,
    Unknown,
)
from durable_streams_core.errors import NotFound, ProtocolError, StoreError
from durable_streams_core.protocol import START
from durable_streams_redis import RedisStore
from durable_streams_redis.schema import Schema, shard_tags
from durable_streams_server import Engine


@asynccontextmanager
async def opened(source: object, prefix: str, **options: Any) -> AsyncIterator[RedisStore]:
    store = RedisStore(source, prefix=prefix, **options)
    await open_impatient(store)
    try:
        yield store
    finally:
        await store.close()


def creation(path: str) -> Commit:
    return Commit(f"create {path}", path, Guard(None), Delta(create=Head("one", b"birth")))


def append(path: str, data: bytes, commit_id: str) -> Commit:
    return Commit(commit_id, path, Guard("one", open=True), Delta(data=data))


async def settled(store: RedisStore, commit: Commit) -> Outcome:
    """The outcome of a commit that is sent until it is known and not refused."""
    while True:
        (outcome,) = await store.commit([commit])
        if not isinstance(outcome, Unknown | Refused):
            return outcome
        await asyncio.sleep(0.05)


def url(nodes: list[RedisServer]) -> str:
    return f"redis+cluster://127.0.0.1:{nodes[0].port}"


class Load:
    """Writers that note what they were told, and a follower for each stream, over an engine."""

    def __init__(self, engine: Engine, streams: int = 8) -> None:
        self.engine = engine
        self.paths = [f"s{n}" for n in range(streams)]
        self.stored = {path: [] for path in self.paths}
        self.seen = dict.fromkeys(self.paths, b"")
        self.refused = []
        self.progress = asyncio.Event()
        self._stop = False

    async def __aenter__(self) -> Self:
        for path in self.paths:
            await patiently(partial(self.engine.create, path, content_type="text/plain"))
        self._readers = [asyncio.ensure_future(self._read(path)) for path in self.paths]
        self._writers = [asyncio.ensure_future(self._write(path)) for path in self.paths]
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._stop = True
        await asyncio.gather(*self._writers)
        if kind is None:
            for path in self.paths:
                await patiently(partial(self.engine.close_stream, path))
            await asyncio.gather(*self._readers)
        for reader in self._readers:
            reader.cancel()

    async def _write(self, path: str) -> None:
        n = 0
        while not self._stop:
            n += 1
            try:
                await self.engine.append(path, f"{n};")
            except ProtocolError as error:
                self.refused.append((path, n, error.status))
                await asyncio.sleep(0.02)
            else:
                self.stored[path].append(n)
                self.progress.set()

    async def _read(self, path: str) -> None:
        offset = START
        while True:
            try:
                async for batch in self.engine.follow(path, offset):
                    self.seen[path] += batch.data
                    offset = batch.offset
                return
            except NotFound:
                # The tail went back: what was seen and never confirmed is lost.
                self.seen[path], offset = b"", START
            except ProtocolError as error:
                assert error.status == 503
                await asyncio.sleep(0.02)

    async def more(self) -> None:
        """Return once every stream has taken more."""
        before = {path: len(stored) for path, stored in self.stored.items()}
        while any(len(self.stored[path]) <= before[path] for path in self.paths):
            self.progress.clear()
            await self.progress.wait()

    def check(self) -> None:
        """Each stored item was seen once and in order, and nothing that was refused with 503."""
        for path in self.paths:
            seen = [int(item) for item in self.seen[path].decode().split(";")[:-1]]
            assert seen == sorted(set(seen))
            assert set(self.stored[path]) <= set(seen)
            refused = {n for where, n, status in self.refused if where == path and status == 503}
            assert not refused & set(seen)


def until_master(node: RedisServer) -> None:
    def is_master() -> bool:
        with node.client() as client:
            return client.info("replication")["role"] == "master"

    eventually(is_master)


async def test_all_nodes_are_used(nodes: list[RedisServer], prefix: str) -> None:
    async with opened(url(nodes), prefix) as store:
        outcomes = await store.commit([creation(f"p{n}") for n in range(100)])
        assert outcomes == [Applied(0)] * 100
        for node in nodes:
            assert any(key.startswith(prefix.encode()) for key in node.do("KEYS", "*"))
        slots = {shard.slot * 16 // 16384 for shard in Schema(prefix, 16).shards}
        assert slots == set(range(16))


def test_shards_lie_evenly_over_the_slots() -> None:
    for count in (1, 3, 16, 100):
        assert len(set(shard_tags(count))) == count


@pytest.mark.parametrize("kind", [redis.RedisCluster, redis.asyncio.RedisCluster])
async def test_a_cluster_client_is_read_for_its_settings(
    nodes: list[RedisServer],
    prefix: str,
    kind: type[redis.RedisCluster | redis.asyncio.RedisCluster],
) -> None:
    client = kind(host="127.0.0.1", port=nodes[1].port, decode_responses=True)
    if kind is redis.asyncio.RedisCluster:
        await client.initialize()
    async with opened(client, prefix) as store:
        await store.commit([creation("p")])
        assert (await store.load("p")).head.incarnation == "one"
    if kind is redis.RedisCluster:
        client.close()
    else:
        await client.aclose()


async def test_a_whole_cluster_that_is_down(prefix: str) -> None:
    with pytest.raises(StoreError, match="cannot be reached"):
        await RedisStore("redis+cluster://127.0.0.1:1,127.0.0.1:2", prefix=prefix).open()


async def test_a_server_that_is_no_cluster(valkey: RedisServer, prefix: str) -> None:
    source = f"redis+cluster://127.0.0.1:{valkey.port}"
    with pytest.raises(StoreError, match="cluster support disabled"):
        await RedisStore(source, prefix=prefix).open()


@pytest.mark.parametrize("kind", list(BINARIES))
async def test_cluster_failover_under_load(kind: str, prefix: str) -> None:
    """With WAIT 1, nothing acknowledged is lost when a master dies and its replica takes over."""
    options = ("--appendonly", "no", "--repl-diskless-sync-delay", "0")
    with cluster(3, 3, binary=BINARIES[kind], options=options) as started:
        store = RedisStore(url(started), prefix=prefix, durability="wait:1", timeout=1.0)
        await open_impatient(store)
        async with Engine(store) as engine, Load(engine) as load:
            await load.more()
            await asyncio.to_thread(started[1].kill)
            await asyncio.to_thread(until_master, started[4])
            # As a replica of its successor, which needs one to confirm anything.
            await asyncio.to_thread(started[1].start)
            await load.more()
            await load.more()
        load.check()


async def test_a_manual_failover_loses_nothing_even_in_memory(prefix: str) -> None:
    with cluster(3, 3, options=("--repl-diskless-sync-delay", "0")) as started:
        async with Engine(RedisStore(url(started), prefix=prefix)) as engine, Load(engine) as load:
            await load.more()
            await asyncio.to_thread(started[4].do, "CLUSTER", "FAILOVER")
            await asyncio.to_thread(until_master, started[4])
            await load.more()
        load.check()


async def test_a_failover_that_lost_changes_is_a_resync(prefix: str) -> None:
    with cluster(3, 3, options=("--repl-diskless-sync-delay", "0")) as started:
        async with opened(url(started), prefix, shards=3, timeout=1.0) as store:
            heard = []
            notified = asyncio.Event()

            def watcher(changes: Sequence[Change] | None) -> None:
                heard.append(changes)
                notified.set()

            store.watch(watcher)
            path = next(
                path
                for path in (f"p{n}" for n in range(100))
                if Schema(prefix, 3).shard(path) is not None
                and Schema(prefix, 3).shard(path).slot * 3 // 16384 == 1
            )
            assert await settled(store, creation(path)) == Applied(0)
            key = Schema(prefix, 3).shard(path).entity(path)
            replica = started[4].client()
            replica.execute_command("READONLY")
            eventually(lambda: replica.exists(key))
            started[4].pause()
            # Nothing more is on its way to it.
            started[1].do("CLIENT", "KILL", "TYPE", "REPLICA")
            assert await settled(store, append(path, b"lost", "lost")) == Applied(4)
            while len(heard) < 2:
                notified.clear()
                await notified.wait()
            await asyncio.to_thread(started[1].kill)
            started[4].resume()
            while None not in heard:
                notified.clear()
                await notified.wait()
            assert (await patiently(partial(store.load, path))).head.tail == 0
            assert (await settled(store, append(path, b"new", "new"))).tail == 3
            replica.close()


def move_slot(source: object, target: RedisServer, slot: int) -> None:
    """The classic way, key by key, as `redis-cli --cluster reshard` does it."""
    ids = {node.port: node.do("CLUSTER", "MYID").decode() for node in (source, target)}
    target.do("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source.port])
    source.do("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target.port])
    while True:
        keys = source.do("CLUSTER", "GETKEYSINSLOT", slot, 10)
        if not keys:
            break
        source.do("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
    for node in (target, source):
        node.do("CLUSTER", "SETSLOT", slot, "NODE", ids[target.port])


@pytest.mark.parametrize("kind", list(BINARIES))
async def test_slots_migrate_under_load(kind: str, prefix: str) -> None:
    with cluster(3, binary=BINARIES[kind]) as started:
        async with Engine(RedisStore(url(started), prefix=prefix)) as engine, Load(engine) as load:
            await load.more()
            for path in load.paths[:3]:
                slot = Schema(prefix, 16).shard(path).slot
                owner = started[slot * 3 // 16384]
                other = started[(slot * 3 // 16384 + 1) % 3]
                if slot in moved(owner):
                    continue
                await asyncio.to_thread(move_slot, owner, other, slot)
                await load.more()
        load.check()


def moved(owner: RedisServer) -> set[int]:
    """Slots in the range of a node that it serves no more."""
    found = set()
    for line in owner.do("CLUSTER", "NODES").decode().splitlines():
        if "myself" in line:
            served = [part for part in line.split()[8:] if not part.startswith("[")]
            numbers = set()
            for part in served:
                first, _, last = part.partition("-")
                numbers |= set(range(int(first), int(last or first) + 1))
            low, high = min(numbers), max(numbers)
            found = set(range(low, high + 1)) - numbers
    return found


async def test_atomic_slot_migration_under_load(prefix: str) -> None:
    """Valkey 9 moves a slot as a whole: nobody is refused for longer than a moment."""
    with cluster(3, binary=VALKEY) as started:
        async with Engine(RedisStore(url(started), prefix=prefix)) as engine, Load(engine) as load:
            await load.more()
            slot = Schema(prefix, 16).shard(load.paths[0]).slot
            index = slot * 3 // 16384
            source, target = started[index], started[(index + 1) % 3]
            name = target.do("CLUSTER", "MYID").decode()
            source.do("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", name)
            await asyncio.to_thread(eventually, lambda: slot in moved(source))
            await load.more()
        load.check()
        assert not [refusal for refusal in load.refused if refusal[2] != 503]


async def test_a_sentinel_s_master(prefix: str) -> None:
    options = ("--repl-diskless-sync-delay", "0")
    with (
        RedisServer(*options) as master,
        RedisServer("--replicaof", f"127.0.0.1 {master.port}", *options) as replica,
    ):
        eventually(lambda: replica.client().info("replication")["master_link_status"] == "up")
        with sentinels(master, 3, replicas=1) as watching:
            source = "redis+sentinel://" + ",".join(f"127.0.0.1:{s.port}" for s in watching)
            store = RedisStore(f"{source}/main", prefix=prefix, durability="wait:1", timeout=1.0)
            await open_impatient(store)
            async with Engine(store) as engine, Load(engine) as load:
                await load.more()
                await asyncio.to_thread(watching[0].do, "SENTINEL", "FAILOVER", "main")
                await asyncio.to_thread(until_master, replica)
                async with asyncio.timeout(60):
                    await load.more()
            load.check()


async def test_a_sentinel_that_does_not_know_the_service(valkey: RedisServer, prefix: str) -> None:
    with sentinels(valkey, 1) as watching:
        port = watching[0].port
        with pytest.raises(StoreError, match="knows no master of 'other'"):
            await RedisStore(f"redis+sentinel://127.0.0.1:{port}/other", prefix=prefix).open()
        client = redis.asyncio.Sentinel([("127.0.0.1", port)]).master_for("main")
        async with opened(client, prefix) as store:
            await store.commit([creation("p")])
        await client.aclose()
        replicas = redis.asyncio.Sentinel([("127.0.0.1", port)]).slave_for("main")
        with pytest.raises(StoreError, match="for replicas"):
            RedisStore(replicas)
