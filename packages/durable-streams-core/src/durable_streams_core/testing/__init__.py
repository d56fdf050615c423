"""The contract suite: one class that any store subclasses to prove what it promises.

    class TestRocksStore(StoreContract):
        @pytest.fixture(autouse=True)
        def _directory(self, tmp_path):
            self.url = f"rocks:{tmp_path}"

        async def make_store(self):
            store = RocksStore(self.url)
            await store.open()
            return store

Tests are async methods, as pytest-asyncio runs them in its auto mode. Each module
holds one part of the contract, and says at its top what cannot be tested through the interface.
"""

from contextlib import suppress

with suppress(ImportError):
    import pytest

    # Else a failing assertion would not show what it compared.
    for _part in (
        *("harness", "guards", "commits", "resends", "reading", "listing"),
        *("watching", "races", "timelines", "lifetime"),
    ):
        pytest.register_assert_rewrite(f"{__name__}.{_part}")

from durable_streams_core.testing.contract import StoreContract

__all__ = ["StoreContract"]
