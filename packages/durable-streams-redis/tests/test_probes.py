"""A probe of the Redis store says whether a commit would be stored now."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from servers import RedisServer

from durable_streams_core.entities import Applied, Commit, Delta, Guard, Head, Refused
from durable_streams_redis import RedisStore, probes


@asynccontextmanager
async def opened(url: str, prefix: str, durability: str = "memory") -> AsyncIterator[RedisStore]:
    store = RedisStore(url, prefix=prefix, durability=durability, timeout=60)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


def creation(path: str) -> Commit:
    return Commit(f"create-{path}", path, Guard(None), Delta(create=Head(f"i{path}", b"")))


async def until_fault(store: RedisStore, code: str) -> Refused:
    """The answer with this code; other codes may come first."""
    while True:
        refused = await store.probe()
        if refused is not None and refused.code == code:
            return refused
        await asyncio.sleep(0)


async def until_ready(store: RedisStore) -> None:
    while await store.probe() is not None:
        await asyncio.sleep(0)


async def test_a_probe_changes_nothing(valkey: RedisServer, prefix: str) -> None:
    async with opened(valkey.url, prefix) as store:
        before = set(valkey.do("KEYS", f"{prefix}:*"))
        assert await store.probe() is None
        assert set(valkey.do("KEYS", f"{prefix}:*")) == before


async def test_every_shard_of_a_cluster_is_asked(nodes: list[RedisServer], prefix: str) -> None:
    url = f"redis+cluster://127.0.0.1:{nodes[0].port}"
    async with opened(url, prefix) as store:
        assert await store.probe() is None


async def test_a_server_that_died_is_away_until_it_is_back(prefix: str) -> None:
    with RedisServer() as server:
        async with opened(server.url, prefix) as store:
            server.kill()
            refused = await until_fault(store, "store-away")
            assert "Redis cannot be reached" in refused.message
            server.start()
            async with asyncio.timeout(60):
                await until_ready(store)


async def test_full_memory_is_noticed_while_nobody_writes(prefix: str) -> None:
    with RedisServer() as server:
        async with opened(server.url, prefix) as store:
            server.do("CONFIG", "SET", "maxmemory", "1mb")
            refused = await until_fault(store, "storage-full")
            assert "memory limit" in refused.message
            (outcome,) = await store.commit([creation("a")])
            assert isinstance(outcome, Refused)
            server.do("CONFIG", "SET", "maxmemory", "0")
            await until_ready(store)
            (outcome,) = await store.commit([creation("b")])
            assert isinstance(outcome, Applied)


async def test_too_few_replicas_are_noticed(prefix: str) -> None:
    with RedisServer() as server:
        async with opened(server.url, prefix) as store:
            server.do("CONFIG", "SET", "min-replicas-to-write", "1")
            refused = await until_fault(store, "store-failed")
            assert "NOREPLICAS" in refused.message.upper()
            server.do("CONFIG", "SET", "min-replicas-to-write", "0")
            await until_ready(store)


async def test_an_acknowledgement_that_no_replica_gives_is_noticed(prefix: str) -> None:
    with RedisServer() as server:
        async with opened(server.url, prefix, "wait:1") as store:
            refused = await until_fault(store, "replicas-missing")
            assert "wait:1" in refused.message


async def test_a_user_who_may_not_ask_is_not_a_fault(valkey: RedisServer, prefix: str) -> None:
    valkey.do("ACL", "SETUSER", "limited", "on", ">secret", "~*", "&*", "+@all", "-lpushx")
    url = f"redis://limited:secret@127.0.0.1:{valkey.port}"
    async with opened(url, prefix) as store:
        assert await store.probe() is None


async def test_a_store_that_is_not_open_takes_nothing(valkey: RedisServer, prefix: str) -> None:
    refused = await RedisStore(valkey.url, prefix=prefix).probe()
    assert refused is not None
    assert "open" in refused.message


async def test_a_feed_that_does_not_catch_up_is_a_fault(
    valkey: RedisServer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "BEHIND_SECONDS", -1.0)
    async with opened(valkey.url, prefix) as store:
        refused = await store.probe()
        assert refused is not None
        assert refused.code == "feed-behind"
