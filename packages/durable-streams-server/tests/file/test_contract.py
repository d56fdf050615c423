"""The file store keeps every promise of a store."""

from pathlib import Path

import pytest

from durable_streams_core.store import Store
from durable_streams_core.testing import StoreContract
from durable_streams_server.stores.file import FileStore


class TestFileStore(StoreContract):
    @pytest.fixture(autouse=True)
    def directory(self, tmp_path: Path) -> None:
        self.path = tmp_path / "data"

    async def make_store(self) -> Store:
        store = FileStore(self.path)
        await store.open()
        return store

    async def reopen(self, store: Store) -> Store:
        await store.close()
        return await self.make_store()
