"""The contract suite: one class that any store subclasses to prove what it promises.

    class TestRocksStore(StoreContract):
        @pytest.fixture(autouse=True)
        def _directory(self, tmp_path):
            self.url = f"rocks:{tmp_path}"

        async def make_store(self):
            store = RocksStore(self.url)
            await store.open()
            return store

Tests are async methods, as pytest-asyncio runs them in its auto mode. They are chapters by what
they prove; each chapter says at its top what cannot be proven through the interface.
"""

from contextlib import suppress

with suppress(ImportError):
    import pytest

    # Else a failing assertion would not show what it compared.
    for _chapter in (
        *("stage", "guards", "commits", "resends", "reading", "listing"),
        *("watching", "races", "timelines", "lifetime"),
    ):
        pytest.register_assert_rewrite(f"{__name__}.{_chapter}")

from durable_streams_core.testing.contract import StoreContract

__all__ = ["StoreContract"]
