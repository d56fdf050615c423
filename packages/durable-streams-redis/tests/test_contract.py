"""The store contract, on one server of each kind and on a Cluster."""

import pytest

from durable_streams_core.testing import StoreContract
from durable_streams_redis import RedisStore


class Contract(StoreContract):
    source: str
    prefix: str

    def store(self):
        return RedisStore(self.source, prefix=self.prefix)

    async def make_store(self):
        store = self.store()
        await store.open()
        return store

    async def reopen(self, store):
        await store.close()
        return await self.make_store()

    async def second_store(self, store):
        return await self.make_store()


class TestOneServer(Contract):
    @pytest.fixture(autouse=True)
    def _server(self, server, prefix):
        self.source, self.prefix = server.url, prefix


class TestCluster(Contract):
    @pytest.fixture(autouse=True)
    def _cluster(self, nodes, prefix):
        self.source = f"redis+cluster://127.0.0.1:{nodes[0].port}"
        self.prefix = prefix
