"""Replaces and stops servers under load, and measures what writers and followers see of it.

    python failover_hunt.py --rounds 5

Each round starts servers of its own and runs every scenario. It prints, for each, how many
acknowledged appends were lost or doubled (there must be none), the seconds from the promotion of a
new master until every stream was writable, and the share of deliveries that came more than a second
late on masters that nothing happened to. Exits with 1 when anything was lost.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field

from servers import RedisServer, cluster, eventually, sentinels

from durable_streams_core.errors import ProtocolError
from durable_streams_core.protocol import START
from durable_streams_redis.schema import Schema
from durable_streams_server import Engine

FAST = ("--repl-diskless-sync-delay", "0")
STREAMS = 24
PACE = 0.25
LATE = 1.0


def role(server: RedisServer) -> str:
    with server.client() as client:
        return str(client.info("replication")["role"])


@dataclass
class Load:
    """One writer and one follower for each stream; items carry the time at which they were due."""

    writing: Engine
    reading: Engine
    paths: list[str] = field(default_factory=lambda: [f"s{n}" for n in range(STREAMS)])
    acknowledged: dict[str, list[str]] = field(default_factory=dict)
    writable_at: dict[str, float] = field(default_factory=dict)
    delays: dict[str, list[float]] = field(default_factory=dict)
    stop: bool = False

    async def write(self, path: str) -> None:
        due = time.monotonic()
        while not self.stop:
            due += PACE
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            item = f"{due:.6f}"
            with suppress(ProtocolError):
                await self.writing.append(path, item + ";")
                self.acknowledged[path].append(item)
                self.writable_at[path] = time.monotonic()

    async def follow(self, path: str) -> None:
        offset = START
        while not self.stop:
            try:
                async for batch in self.reading.follow(path, offset):
                    now = time.monotonic()
                    offset = batch.offset
                    for item in batch.data.decode().split(";")[:-1]:
                        self.delays[path].append(now - float(item))
            except ProtocolError:
                await asyncio.sleep(PACE)

    async def run_for(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def until_writable(self, since: float) -> float:
        """Seconds from a moment until each stream has taken an append."""
        while any(self.writable_at.get(path, 0.0) < since for path in self.paths):
            await asyncio.sleep(0.01)
        return max(self.writable_at[path] for path in self.paths) - since

    async def wrong(self) -> int:
        """Acknowledged items that are not stored exactly once."""
        count = 0
        for path in self.paths:
            done = list(self.acknowledged[path])
            data, offset, more = b"", START, True
            while more:
                page = await self.writing.read(path, offset)
                data, offset, more = data + page.data, page.offset, not page.up_to_date
            stored = data.decode().split(";")
            count += sum(stored.count(item) != 1 for item in done)
        return count

    def late(self, paths: list[str]) -> float:
        delays = [delay for path in paths for delay in self.delays[path]]
        return sum(delay > LATE for delay in delays) / max(1, len(delays))


@asynccontextmanager
async def loaded(source: str) -> AsyncIterator[Load]:
    async with Engine(source) as writing, Engine(source) as reading:
        load = Load(writing, reading)
        for path in load.paths:
            load.acknowledged[path], load.delays[path] = [], []
            await writing.create(path, content_type="text/plain")
        tasks = [asyncio.ensure_future(load.write(path)) for path in load.paths]
        followers = [asyncio.ensure_future(load.follow(path)) for path in load.paths]
        try:
            yield load
        finally:
            load.stop = True
            await asyncio.gather(*tasks)
            for follower in followers:
                follower.cancel()
            await asyncio.gather(*followers, return_exceptions=True)


@contextmanager
def watched(replicas: int) -> Iterator[tuple[list[RedisServer], list[RedisServer]]]:
    servers = [RedisServer(*FAST)]
    servers += [
        RedisServer("--replicaof", f"127.0.0.1 {servers[0].port}", *FAST) for _ in range(replicas)
    ]
    try:
        for server in servers:
            server.start()
        eventually(lambda: servers[0].client().info("replication")["connected_slaves"] == replicas)
        with sentinels(servers[0], 3, replicas) as watching:
            yield servers, watching
    finally:
        for server in servers:
            server.stop()


@dataclass(frozen=True)
class Found:
    """The figures of one run of a scenario."""

    acknowledged: int
    wrong: int
    writable: float
    late: float


async def sentinel_failover(*, planned: bool, hung: bool, replicas: int, query: str) -> Found:
    with watched(replicas) as (servers, watching):
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in watching)
        async with loaded(f"redis+sentinel://{hosts}/main?{query}") as load:
            await load.run_for(2)
            if hung:
                watching[0].pause()
                await load.run_for(8)
            late = load.late(load.paths)
            if planned:
                watching[1].do("SENTINEL", "FAILOVER", "main")
            else:
                servers[0].pause()
            await asyncio.to_thread(
                eventually, lambda: any(role(each) == "master" for each in servers[1:])
            )
            writable = await load.until_writable(time.monotonic())
            servers[0].resume()
            # The old master is made a replica some seconds later: what it took until then is lost.
            await asyncio.to_thread(eventually, lambda: role(servers[0]) == "slave", 30)
            await load.until_writable(time.monotonic())
            return Found(
                sum(map(len, load.acknowledged.values())), await load.wrong(), writable, late
            )


async def cluster_failover(*, query: str) -> Found:
    with cluster(3, 3, options=FAST) as nodes:
        source = f"redis+cluster://127.0.0.1:{nodes[0].port}?{query}"
        async with loaded(source) as load:
            await load.run_for(2)
            healthy = [
                path for path in load.paths if Schema("ds", 16).shard(path).slot >= 16384 // 3
            ]
            for path in load.paths:
                load.delays[path].clear()
            nodes[0].pause()
            await asyncio.to_thread(eventually, lambda: role(nodes[3]) == "master")
            writable = await load.until_writable(time.monotonic())
            await load.run_for(3)
            late = load.late(healthy)
            nodes[0].resume()
            await asyncio.to_thread(eventually, lambda: role(nodes[0]) == "slave", 30)
            await load.until_writable(time.monotonic())
            return Found(
                sum(map(len, load.acknowledged.values())), await load.wrong(), writable, late
            )


SCENARIOS: dict[str, Callable[[], object]] = {
    "planned, 1 replica, memory": lambda: sentinel_failover(
        planned=True, hung=False, replicas=1, query=""
    ),
    "planned, 2 replicas, wait:1": lambda: sentinel_failover(
        planned=True, hung=False, replicas=2, query="durability=wait:1"
    ),
    "planned, first Sentinel hung": lambda: sentinel_failover(
        planned=True, hung=True, replicas=1, query=""
    ),
    "master hangs, 1 replica, memory": lambda: sentinel_failover(
        planned=False, hung=False, replicas=1, query=""
    ),
    "Cluster, first node hangs, memory": lambda: cluster_failover(query=""),
}


async def main() -> int:
    """Run the scenarios and print a line for each run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="part of a scenario's name")
    options = parser.parse_args()
    wrong = 0
    for _ in range(options.rounds):
        for name, scenario in SCENARIOS.items():
            if options.only not in name:
                continue
            found = await scenario()  # type: ignore[misc]
            wrong += found.wrong
            sys.stdout.write(
                f"{name:35} acknowledged {found.acknowledged:6} lost or doubled {found.wrong:5} "
                f"writable after {found.writable:5.1f} s late {found.late:6.1%}\n"
            )
            sys.stdout.flush()
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))
