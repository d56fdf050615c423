"""The life of a store: its version and clock, closing it, and opening its data again.

Recovery after a crash cannot be tested through the interface; a durable store needs crash tests of
its own.
"""

import asyncio

from durable_streams_core.entities import Applied, Facts, Guard, Refused, Unknown
from durable_streams_core.store import LocalStore, check_api
from durable_streams_core.testing.harness import (
    EVERY_BYTE,
    PATHS,
    StoreHarness,
    append,
    applied,
    change,
    commit,
    content,
    created,
    creation,
    loaded,
    new_head,
    removal,
    skip,
)

PATH = "lasting"


class Lifetime(StoreHarness):
    """Opening and closing."""

    async def test_it_speaks_this_version_of_the_interface(self) -> None:
        async with self.opened() as store:
            check_api(store)

    async def test_its_clock_gives_milliseconds(self) -> None:
        async with self.handles() as (store, other):
            first, second = store.now(), other.now()
            assert isinstance(first, int)
            assert abs(second - first) < 60_000

    async def test_a_store_that_takes_commits_finds_no_fault_in_itself(self) -> None:
        async with self.opened() as store:
            assert await store.probe() is None
            await created(store, PATH)
            assert await store.probe() is None

    async def test_closing_twice_is_closing_once(self) -> None:
        async with self.opened() as store:
            await created(store, PATH)
            await store.close()
            await store.close()

    async def test_closing_without_use(self) -> None:
        async with self.opened():
            pass

    async def test_closing_finishes_what_was_begun(self) -> None:
        async with self.opened() as store:
            head = await created(store, PATH)
            tasks = [
                asyncio.ensure_future(commit(store, append(PATH, head, b"x"))) for _ in range(9)
            ]
            await asyncio.sleep(0)
            async with asyncio.timeout(self.patience):
                await store.close()
                outcomes = await asyncio.gather(*tasks)
            assert all(isinstance(one, Applied | Refused | Unknown) for one in outcomes)

    async def test_a_local_store_answers_at_once_as_it_does_later(self) -> None:
        async with self.opened() as store:
            if not isinstance(store, LocalStore):
                raise skip("only a local store answers at once")
            head = await created(store, PATH, data=EVERY_BYTE * 1000, fields={"p": b"1"})
            assert store.peek("nowhere", ["p"]) is None
            assert store.peek(PATH, ["p", "q"]) == await store.load(PATH, ["p", "q"])
            assert store.slice(PATH, "any", 0, 1) is None
            for start, limit in ((0, 1), (100, 200_000), (255_999, 5), (256_000, 5), (256_001, 5)):
                now = store.slice(PATH, head.incarnation, start, limit)
                assert now == await store.read(PATH, head.incarnation, start, limit)

    async def test_everything_is_there_after_opening_again(self) -> None:
        async with self.opened() as first:
            heads = {path: new_head(birth=EVERY_BYTE, deadline=9) for path in PATHS}
            await first.commit(
                [
                    creation(path, head, data=path.encode(), fields={"p": EVERY_BYTE, "f1": b""})
                    for path, head in heads.items()
                ]
            )
            await applied(first, change("a", Guard(heads["a"].incarnation), 1, close=True))
            await applied(first, removal("A", heads["A"]))
            replaced = await created(first, "A", new_head(start=2**40), data=b"new")
            await applied(first, removal("~", heads["~"]))
            before: dict[str, Facts] = {
                path: await loaded(first, path, ["p", "f1", "none"])
                for path in PATHS
                if path != "~"
            }
            listed = list(await first.list("", "", 100))
            store = await self.reopen(first)
            if store is None:
                raise skip("nothing outlives this store")
            try:
                assert list(await store.list("", "", 100)) == listed
                assert await store.load("~") is None
                for path, facts in before.items():
                    assert await loaded(store, path, ["p", "f1", "none"]) == facts
                    wanted = b"new" if path == "A" else path.encode()
                    assert await content(store, path, facts.head) == wanted
                assert set(await store.due(9, 100)) == set(before) - {"A"}
                assert await store.read("A", heads["A"].incarnation, 0, 9) is None
                assert await applied(store, append("A", replaced, b"er")) == 2**40 + 5
                assert await content(store, "A", replaced) == b"newer"
                async with self.watched(store) as recorder:
                    tail = await applied(store, append("A", replaced, b"!"))
                    await recorder.until_tail(replaced, tail)
            finally:
                await store.close()

    async def test_megabytes_are_there_after_opening_again(self) -> None:
        async with self.opened() as first:
            whole = EVERY_BYTE * 12_345
            head = await created(first, PATH, data=whole)
            store = await self.reopen(first)
            if store is None:
                raise skip("nothing outlives this store")
            try:
                assert await content(store, PATH, head) == whole
                assert await applied(store, append(PATH, head, b"!")) == len(whole) + 1
                assert await content(store, PATH, head) == whole + b"!"
            finally:
                await store.close()
