"""The memory store keeps the contract that every store keeps."""

from typing import Any

import pytest

from durable_streams_core.errors import StoreError
from durable_streams_core.registry import create_store
from durable_streams_core.testing import StoreContract
from durable_streams_server.stores.memory import MemoryStore


class TestMemoryStore(StoreContract):
    async def make_store(self) -> Any:
        store = MemoryStore()
        await store.open()
        return store


def test_it_is_found_by_its_url() -> None:
    assert isinstance(create_store("memory:"), MemoryStore)
    assert isinstance(create_store("MEMORY:"), MemoryStore)


@pytest.mark.parametrize("url", ["memory:./data", "memory://host", "memory:?x=1"])
def test_a_url_that_promises_more_is_refused(url: str) -> None:
    with pytest.raises(StoreError, match="Use memory: alone"):
        create_store(url)


def test_its_clock_can_be_set() -> None:
    assert MemoryStore(clock=lambda: 42).now() == 42
