"""Reads: a slice of one incarnation's own bytes, with the head it belongs to."""

import asyncio

from durable_streams_core.entities import Guard, Head, Slice
from durable_streams_core.protocol import MAX_SAFE_INTEGER
from durable_streams_core.store import RemoteStore, Store
from durable_streams_core.testing.harness import (
    EVERY_BYTE,
    PATHS,
    StoreHarness,
    append,
    applied,
    change,
    content,
    created,
    creation,
    loaded,
    new_head,
    removal,
    skip,
)

PATH = "read"


def pattern(length: int) -> bytes:
    """Bytes in which no two places look alike for long."""
    return b"".join(n.to_bytes(4) for n in range(length // 4 + 1))[:length]


async def look(store: RemoteStore, path: str) -> Head | None:
    """The head that a look finds; raises the error that it is told."""
    future: asyncio.Future[Head | None] = asyncio.get_running_loop().create_future()

    def done(found: Head | Exception | None) -> None:
        if isinstance(found, Exception):
            future.set_exception(found)
        else:
            future.set_result(found)

    store.look(path, done)
    return await future


class Reading(StoreHarness):
    """What :meth:`Store.read` answers."""

    async def test_a_slice_at_every_place_and_of_every_length(self) -> None:
        async with self.opened() as store:
            whole = EVERY_BYTE[:40]
            head = await created(store, PATH, data=whole[:7])
            for start in range(7, 40, 11):
                await applied(store, append(PATH, head, whole[start : start + 11]))
            head = (await loaded(store, PATH)).head
            for start in range(41):
                for limit in (1, 2, 7, 39, 40, 41, 1000):
                    found = await store.read(PATH, head.incarnation, start, limit)
                    assert found == Slice(head, whole[start : start + limit])

    async def test_a_look_finds_all_that_was_acknowledged_before_it(self) -> None:
        """For a :class:`RemoteStore`: the engine serves a page again if this head allows it."""
        async with self.handles() as (store, other):
            if not isinstance(other, RemoteStore):
                raise skip("only a remote store can look")
            assert await look(other, PATH) is None
            head = await created(store, PATH)
            for n in range(1, 20):
                await applied(store, append(PATH, head, b"x"))
                # Some at once, of this path and another.
                first, absent, second = await asyncio.gather(
                    look(other, PATH), look(other, "absent"), look(other, PATH)
                )
                assert absent is None
                assert first == second == (await loaded(store, PATH)).head
                assert first.tail == n
            guard = Guard(head.incarnation)
            await applied(store, change(PATH, guard, 19, close=True, deadline=9))
            found = await look(other, PATH)
            assert found == (await loaded(store, PATH)).head
            assert (found.closed, found.deadline) == (True, 9)
            await applied(store, removal(PATH, head))
            assert await look(other, PATH) is None
            again = await created(store, PATH)
            assert await look(other, PATH) == again

    async def test_an_entity_without_bytes(self) -> None:
        async with self.opened() as store:
            head = await created(store, PATH)
            assert await store.read(PATH, head.incarnation, 0, 10) == Slice(head, b"")

    async def test_past_the_tail_is_only_the_head(self) -> None:
        async with self.opened() as store:
            head = await created(store, PATH, data=b"four")
            assert await store.read(PATH, head.incarnation, 4, 10) == Slice(head, b"")
            assert await store.read(PATH, head.incarnation, 5, 10) == Slice(head, b"")
            assert await store.read(PATH, head.incarnation, MAX_SAFE_INTEGER, 10) == Slice(
                head, b""
            )

    async def test_another_incarnation_is_not_there(self) -> None:
        async with self.opened() as store:
            assert await store.read(PATH, "any", 0, 10) is None
            await created(store, PATH, data=b"data")
            assert await store.read(PATH, "any", 0, 10) is None

    async def test_a_path_created_again_never_shows_old_bytes(self) -> None:
        async with self.opened() as store:
            heads: list[Head] = []
            for turn in range(5):
                head = await created(store, PATH, data=b"%d" % turn * (10 - turn))
                assert await content(store, PATH, head) == b"%d" % turn * (10 - turn)
                for old in heads:
                    assert await store.read(PATH, old.incarnation, 0, 100) is None
                heads.append(head)
                await applied(store, removal(PATH, head))

    async def test_equal_incarnations_do_not_share_across_paths(self) -> None:
        async with self.opened() as store:
            heads = {path: new_head() for path in PATHS}
            await store.commit(
                [creation(path, head, data=path.encode()) for path, head in heads.items()]
            )
            for path, head in heads.items():
                assert await content(store, path, head) == path.encode()

    async def test_positions_beyond_32_and_up_to_53_bits(self) -> None:
        async with self.opened() as store:
            for start in (2**31 - 3, 2**32 - 3, 2**40 + 1, 2**53 - 9):
                path = f"far/{start}"
                head = await created(store, path, new_head(start=start))
                assert head == Head(head.incarnation, b"birth", start, start)
                assert await applied(store, append(path, head, b"1234")) == start + 4
                assert await applied(store, append(path, head, b"5678")) == start + 8
                head = (await loaded(store, path)).head
                assert (head.start, head.tail) == (start, start + 8)
                for skipped in range(9):
                    found = await store.read(path, head.incarnation, start + skipped, 3)
                    assert found == Slice(head, b"12345678"[skipped : skipped + 3])
                assert await content(store, path, head, 5) == b"12345678"

    async def test_megabytes_in_one_commit(self) -> None:
        async with self.opened() as store:
            whole = pattern(5 * 1024 * 1024 + 13)
            head = await created(store, PATH, data=whole[:1000])
            await applied(store, append(PATH, head, whole[1000:]))
            assert await content(store, PATH, head, 8 * 1024 * 1024) == whole
            assert await content(store, PATH, head, 777_777) == whole
            for start in (0, 999, 65_535, 65_536, 1_048_577, len(whole) - 1):
                for limit in (1, 65_537):
                    found = await store.read(PATH, head.incarnation, start, limit)
                    assert found is not None
                    assert found.data == whole[start : start + limit]

    async def test_megabytes_in_many_commits(self) -> None:
        async with self.opened() as store:
            whole = pattern(1024 * 1024)
            head = await created(store, PATH)
            parts = [whole[n : n + 2611] for n in range(0, len(whole), 2611)]
            await store.commit([append(PATH, head, part) for part in parts])
            assert await content(store, PATH, head) == whole
            assert await content(store, PATH, head, 100_001) == whole

    async def test_head_and_bytes_are_of_one_moment(self) -> None:
        async with self.handles() as (store, other):
            head = await created(store, PATH)
            writing = asyncio.ensure_future(_write_numbers(store, head))
            seen = 0
            while True:
                found = await other.read(PATH, head.incarnation, 0, 1 << 20)
                assert found is not None
                assert len(found.data) == found.head.tail >= seen
                seen = found.head.tail
                assert found.data == b"".join(b"%04d" % n for n in range(seen // 4))
                facts = await loaded(other, PATH, ["n"])
                assert facts.fields["n"] == (b"%d" % facts.head.tail if facts.head.tail else None)
                if found.head.closed:
                    assert seen == 4 * 60
                    break
                await asyncio.sleep(0)
            await writing

    async def test_cancelled_reads_and_loads_do_no_harm(self) -> None:
        async with self.opened() as store:
            whole = pattern(300_000)
            head = await created(store, PATH, data=whole, fields={"p1": b"1"})
            for turns in range(6):
                waiting = [
                    asyncio.ensure_future(store.read(PATH, head.incarnation, 0, 1 << 20)),
                    asyncio.ensure_future(store.load(PATH, ["p1"])),
                    asyncio.ensure_future(store.scan(PATH, head.incarnation, "p", "", 5)),
                    asyncio.ensure_future(store.list("", "", 5)),
                    asyncio.ensure_future(store.due(1, 5)),
                ]
                for _ in range(turns):
                    await asyncio.sleep(0)
                for task in waiting:
                    task.cancel()
                await asyncio.gather(*waiting, return_exceptions=True)
            assert (await loaded(store, PATH, ["p1"])).fields == {"p1": b"1"}
            assert await content(store, PATH, head) == whole


async def _write_numbers(store: Store, head: Head) -> None:
    for n in range(60):
        at = {"n": b"%d" % (4 * n + 4)}
        await applied(store, append(PATH, head, b"%04d" % n, close=n == 59, fields=at))
        await asyncio.sleep(0)
