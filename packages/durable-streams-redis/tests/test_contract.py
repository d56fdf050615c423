"""The store contract, on one server of each kind, on a Cluster, and on a server of yours if you
name it in `REDIS_URL`.
"""

import os
from collections.abc import Iterator
from uuid import uuid4

import pytest
import redis
from servers import RedisServer

from durable_streams_core.testing import StoreContract
from durable_streams_redis import RedisStore


class Contract(StoreContract):
    source: str
    prefix: str
    shards: int | None = None

    def store(self) -> RedisStore:
        return RedisStore(self.source, prefix=self.prefix, shards=self.shards)

    async def make_store(self) -> RedisStore:
        store = self.store()
        await store.open()
        return store

    async def reopen(self, store: RedisStore) -> RedisStore:
        await store.close()
        return await self.make_store()

    async def second_store(self, store: RedisStore) -> RedisStore:
        return await self.make_store()


class TestOneServer(Contract):
    @pytest.fixture(autouse=True)
    def _server(self, server: RedisServer, prefix: str) -> None:
        self.source, self.prefix = server.url, prefix


class TestCluster(Contract):
    shards = 4
    """Every node has some of them. Each costs a connection of its own."""

    @pytest.fixture(autouse=True)
    def _cluster(self, nodes: list[RedisServer], prefix: str) -> None:
        self.source = f"redis+cluster://127.0.0.1:{nodes[0].port}"
        self.prefix = prefix


if "REDIS_URL" in os.environ:

    class TestServerOfYours(Contract):
        @pytest.fixture(autouse=True)
        def _server(self) -> Iterator[None]:
            self.source, self.prefix = os.environ["REDIS_URL"], f"test-{uuid4().hex}"
            yield
            with redis.Redis.from_url(self.source) as client:
                for key in client.scan_iter(f"{self.prefix}:*", count=1000):
                    client.unlink(key)
