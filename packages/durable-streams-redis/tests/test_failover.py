"""Masters that are replaced while writers write: by plan, after a crash, after a hang."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from itertools import count
from typing import Self

import aiohttp
import pytest
from processes import Client, running
from servers import RedisServer, cluster, eventually, patiently, sentinels

from durable_streams_core.errors import ProtocolError, Unavailable
from durable_streams_core.protocol import START
from durable_streams_redis import RedisStore
from durable_streams_redis.schema import Schema
from durable_streams_server import Engine

FAST = ("--repl-diskless-sync-delay", "0")


def role(server: RedisServer) -> str:
    with server.client() as client:
        return str(client.info("replication")["role"])


@contextmanager
def replicated(replicas: int) -> Iterator[list[RedisServer]]:
    """A master and its replicas, in sync."""
    master = RedisServer(*FAST)
    servers = [master]
    try:
        master.start()
        following = ("--replicaof", f"127.0.0.1 {master.port}")
        servers += [RedisServer(*following, *FAST) for _ in range(replicas)]
        for replica in servers[1:]:
            replica.start()

        def in_sync() -> bool:
            with master.client() as client:
                info = client.info("replication")
            states = [info.get(f"slave{n}", {}).get("state") for n in range(replicas)]
            return states == ["online"] * replicas

        eventually(in_sync)
        yield servers
    finally:
        for server in servers:
            server.stop()


@contextmanager
def watched(replicas: int, count: int = 3) -> Iterator[tuple[list[RedisServer], list[RedisServer]]]:
    """A master with replicas, and Sentinels that know them all."""
    with replicated(replicas) as servers, sentinels(servers[0], count, replicas) as watching:
        yield servers, watching


def url(watching: list[RedisServer], **options: str) -> str:
    hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in watching)
    query = "&".join(f"{name}={value}" for name, value in options.items())
    return f"redis+sentinel://{hosts}/main?{query}"


class Writers:
    """One writer for each of some streams, until the end of the block; each item is unique."""

    def __init__(self, engine: Engine, streams: int = 6) -> None:
        self._engine = engine
        self.acknowledged: dict[str, list[int]] = {f"s{n}": [] for n in range(streams)}
        self._progress = asyncio.Event()
        self._stop = False

    async def __aenter__(self) -> Self:
        for path in self.acknowledged:
            await patiently(partial(self._engine.create, path, content_type="text/plain"))
        self._tasks = [asyncio.ensure_future(self._write(path)) for path in self.acknowledged]
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._stop = True
        await asyncio.gather(*self._tasks)

    async def _write(self, path: str) -> None:
        n = 0
        while not self._stop:
            n += 1
            try:
                await self._engine.append(path, f"{n};")
            except ProtocolError as error:
                assert error.status in (503, 504)
                await asyncio.sleep(0.02)
            else:
                self.acknowledged[path].append(n)
                self._progress.set()

    async def more(self, appends: int = 20) -> None:
        """Return once every stream has taken more."""
        wanted = {path: len(done) + appends for path, done in self.acknowledged.items()}
        while any(len(done) < wanted[path] for path, done in self.acknowledged.items()):
            self._progress.clear()
            await self._progress.wait()

    async def lost(self, source: str, prefix: str) -> list[tuple[str, int]]:
        """Acknowledged items that the servers at a URL do not hold, or hold twice."""
        missing = []
        done = {path: list(items) for path, items in self.acknowledged.items()}
        async with Engine(RedisStore(source, prefix=prefix)) as engine:
            for path, items in done.items():
                stored = Counter((await everything(engine, path)).decode().split(";"))
                missing += [(path, n) for n in items if stored[str(n)] != 1]
        return missing


async def everything(engine: Engine, path: str) -> bytes:
    """The data of a stream, up to its tail at some moment, once its server answers."""
    data, offset = b"", START
    while True:
        page = await patiently(partial(engine.read, path, offset))
        data += page.data
        offset = page.offset
        if page.up_to_date:
            return data


@asynccontextmanager
async def writing(source: str, streams: int = 6) -> AsyncIterator[tuple[Engine, Writers]]:
    async with Engine(source) as engine, Writers(engine, streams) as writers:
        yield engine, writers


async def promoted(servers: list[RedisServer]) -> RedisServer:
    """The replica that was made a master, as soon as it is one."""

    def found() -> RedisServer | None:
        return next((each for each in servers[1:] if role(each) == "master"), None)

    return await asyncio.to_thread(eventually, found)


@pytest.mark.parametrize("replicas, durability", [(1, "memory"), (2, "wait:1")])
async def test_a_planned_failover_loses_nothing_that_was_acknowledged(
    replicas: int, durability: str, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The old master takes writes for some seconds more, and would lose them all."""
    with watched(replicas) as (servers, watching):
        source = url(watching, prefix=prefix, durability=durability)
        async with writing(source) as (_, writers):
            await writers.more()
            await asyncio.to_thread(watching[0].do, "SENTINEL", "FAILOVER", "main")
            master = await promoted(servers)
            await writers.more()
            assert await writers.lost(master.url, prefix) == []
        # Another failover might lose something: the replica that had not confirmed may take over.
        assert ("loses acknowledged appends" in caplog.text) == (durability == "wait:1")


async def test_a_master_that_hangs_and_comes_back_is_not_believed(prefix: str) -> None:
    """It does what it was sent before, though another one has taken over."""
    with watched(1) as (servers, watching):
        async with writing(url(watching, prefix=prefix, timeout="20")) as (_, writers):
            await writers.more()
            servers[0].pause()
            master = await promoted(servers)
            servers[0].resume()
            await writers.more()
            assert await writers.lost(master.url, prefix) == []


async def test_a_sentinel_with_old_notified_listed_first_delays_nobody(prefix: str) -> None:
    """It names the old master, which is a replica of the new one."""
    with watched(1) as (servers, watching):
        old_notified, rest = watching[0], watching[1:]
        old_notified.pause()
        await asyncio.to_thread(rest[0].do, "SENTINEL", "FAILOVER", "main")
        master = await promoted(servers)
        await asyncio.to_thread(eventually, lambda: role(servers[0]) == "slave", 30)
        for sentinel in rest:
            # Or they would tell it.
            await asyncio.to_thread(
                eventually,
                lambda sentinel=sentinel: (
                    sentinel.do("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main")[1]
                    == str(master.port).encode()
                ),
            )
            sentinel.pause()
        with sentinels(servers[0], 1) as stranger:
            # One that was never told, and that makes no failover of its own.
            stranger[0].do("SENTINEL", "SET", "main", "down-after-milliseconds", "600000")
            rest[0].resume()
            order = [stranger[0], old_notified, rest[0]]
            async with writing(url(order, prefix=prefix, timeout="2")) as (_, writers):
                await writers.more()
                assert await writers.lost(master.url, prefix) == []
        for sentinel in (old_notified, *rest):
            sentinel.resume()


async def test_a_sentinel_that_hangs_listed_first_delays_nobody(prefix: str) -> None:
    with watched(1) as (servers, watching):
        watching[0].pause()
        source = url(watching, prefix=prefix, timeout="600")
        # Waiting for it once would be longer than this.
        async with asyncio.timeout(60), writing(source) as (_, writers):
            await writers.more()
            await asyncio.to_thread(watching[1].do, "SENTINEL", "FAILOVER", "main")
            master = await promoted(servers)
            await writers.more()
            assert await writers.lost(master.url, prefix) == []
        watching[0].resume()


async def test_a_cluster_node_that_hangs_delays_no_other_node_s_streams(prefix: str) -> None:
    """The first one of the URL, master of a third of the slots, with a long time limit."""
    with cluster(3, options=("--cluster-require-full-coverage", "no")) as nodes:
        source = f"redis+cluster://127.0.0.1:{nodes[0].port}?prefix={prefix}&timeout=600"
        async with Engine(source) as engine:
            slow, fast = [], []
            for path in (f"s{n}" for n in range(24)):
                await engine.create(path, content_type="text/plain")
                (slow if Schema(prefix, 16).shard(path).slot < 16384 // 3 else fast).append(path)
            assert slow
            nodes[0].pause()
            stuck = [asyncio.ensure_future(engine.append(path, "late;")) for path in slow]
            unread = [asyncio.ensure_future(engine.read(path)) for path in slow]
            async with asyncio.timeout(60):
                for turn in range(20):
                    await asyncio.gather(*(engine.append(path, f"{turn};") for path in fast))
                # Questions to the node that hangs end soon, whatever the time limit is.
                for answer in await asyncio.gather(*unread, return_exceptions=True):
                    assert isinstance(answer, Unavailable)
            nodes[0].resume()
            appended = await asyncio.gather(*stuck, return_exceptions=True)
            for path, result in zip(slow, appended, strict=True):
                # Refused where the stream had to be looked up first; otherwise it was sent.
                refused = isinstance(result, Unavailable)
                assert refused or not isinstance(result, BaseException)
                assert await everything(engine, path) == (b"" if refused else b"late;")


async def test_streams_of_a_cluster_are_writable_soon_after_a_promotion(prefix: str) -> None:
    """The master that hangs owes replies to many commits, and each commit could wait for its time
    limit.
    """
    with cluster(3, 3, options=FAST) as nodes:
        source = f"redis+cluster://127.0.0.1:{nodes[0].port}?prefix={prefix}&timeout=600"
        async with writing(source, streams=16) as (_, writers):
            await writers.more()
            nodes[0].pause()
            await asyncio.to_thread(eventually, lambda: role(nodes[3]) == "master")
            async with asyncio.timeout(60):
                await writers.more()
            nodes[0].resume()
            await writers.more()
            assert await writers.lost(f"redis+cluster://127.0.0.1:{nodes[1].port}", prefix) == []


async def test_a_master_that_dies_loses_nothing_that_its_replica_confirmed(prefix: str) -> None:
    with watched(1) as (servers, watching):
        source = url(watching, prefix=prefix, durability="wait:1", timeout="1")
        async with writing(source) as (_, writers):
            await writers.more()
            await asyncio.to_thread(servers[0].kill)
            master = await promoted(servers)
            # As a replica of its successor, which needs one to confirm anything.
            await asyncio.to_thread(servers[0].start, "--replicaof", f"127.0.0.1 {master.port}")
            await writers.more()
            # The Sentinels say who: on a busy machine it may have been replaced again.
            assert await writers.lost(url(watching), prefix) == []


async def test_a_process_that_is_killed_loses_nothing_that_it_acknowledged(
    valkey: RedisServer, prefix: str
) -> None:
    done: list[int] = []
    enough = asyncio.Event()
    async with AsyncExitStack() as stack:
        first = stack.enter_context(running(f"{valkey.url}?prefix={prefix}"))
        second = stack.enter_context(running(f"{valkey.url}?prefix={prefix}"))
        client = await stack.enter_async_context(Client([first.url, second.url]))
        await client("PUT", "p", at=0, Content_Type="text/plain")

        async def write() -> None:
            with suppress(aiohttp.ClientError):
                for n in count():
                    status, *_ = await client("POST", "p", f"{n};", at=0, Content_Type="text/plain")
                    assert status == 204
                    done.append(n)
                    if len(done) == 50:
                        enough.set()

        writer = asyncio.ensure_future(write())
        await enough.wait()
        first.kill()
        await writer
        stored = (await client("GET", "p", at=1))[2].decode().split(";")[:-1]
        assert [int(item) for item in stored][: len(done)] == done
        assert len(stored) <= len(done) + 1
