"""Races: what stays true however many commit at once, from this store and a second one."""

import asyncio

from durable_streams_core.entities import Applied, Conflicted, Facts, Guard, Head
from durable_streams_core.store import Store
from durable_streams_core.testing.harness import (
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
)

PATH = "raced"
WRITERS = 16
TURNS = 15


class Races(StoreHarness):
    """Many writers on one path."""

    async def test_offsets_are_unique_and_rising_and_nothing_is_lost(self) -> None:
        async with self.handles() as stores:
            head = await created(stores[0], PATH)
            written: dict[int, bytes] = {}

            async def write(writer: int) -> None:
                last = 0
                for turn in range(TURNS):
                    data = b"<%d:%d>" % (writer, turn)
                    tail = await applied(stores[writer % 2], append(PATH, head, data))
                    assert tail >= last + len(data)
                    assert tail not in written
                    written[tail] = data
                    last = tail

            await asyncio.gather(*map(write, range(WRITERS)))
            assert len(written) == WRITERS * TURNS
            whole = b"".join(written[tail] for tail in sorted(written))
            for store in stores:
                assert await content(store, PATH, head) == whole
            assert max(written) == len(whole)

    async def test_what_was_applied_is_seen_at_once_by_all(self) -> None:
        async with self.handles() as stores:
            head = await created(stores[0], PATH)
            assert (await loaded(stores[1], PATH)).head == head
            for turn in range(10):
                here, there = stores[turn % 2], stores[1 - turn % 2]
                tail = await applied(here, append(PATH, head, b"x", fields={"s": b"%d" % turn}))
                facts = await loaded(there, PATH, ["s"])
                assert facts.head.tail == tail
                assert facts.fields == {"s": b"%d" % turn}
                assert await content(there, PATH, head) == b"x" * tail

    async def test_a_guarded_counter_counts_every_turn(self) -> None:
        """A conflict brings the facts to decide again with, without another look."""
        async with self.handles() as stores:
            head = await created(stores[0], PATH, fields={"n": b"0"})

            async def count(writer: int) -> None:
                store = stores[writer % 2]
                facts: Facts | None = await store.load(PATH, ["n"])
                done = 0
                while done < 5:
                    assert facts is not None
                    old = facts.fields["n"]
                    assert old is not None
                    new = b"%d" % (int(old) + 1)
                    guard = Guard(head.incarnation, fields={"n": old})
                    outcome = await commit(store, change(PATH, guard, fields={"n": new}))
                    if isinstance(outcome, Conflicted):
                        facts = outcome.facts
                    else:
                        assert isinstance(outcome, Applied)
                        done += 1
                        facts = await store.load(PATH, ["n"])

            await asyncio.gather(*map(count, range(8)))
            assert (await loaded(stores[0], PATH, ["n"])).fields == {"n": b"40"}

    async def test_one_of_many_creations_wins_and_the_others_learn_of_it(self) -> None:
        async with self.handles() as stores:
            heads = [new_head() for _ in range(WRITERS)]
            outcomes = await asyncio.gather(
                *(commit(stores[n % 2], creation(PATH, head)) for n, head in enumerate(heads))
            )
            winners = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, Applied)]
            assert len(winners) == 1
            (winner,) = winners
            for outcome in outcomes[:winner] + outcomes[winner + 1 :]:
                assert isinstance(outcome, Conflicted)
                assert outcome.facts is not None
                assert outcome.facts.head == heads[winner]

    async def test_nothing_follows_an_acknowledged_close(self) -> None:
        async with self.handles() as stores:
            for delay in range(6):
                await _close_among_appends(stores, f"raced/{delay}", delay)

    async def test_a_removal_takes_what_came_before_and_stops_what_comes_after(self) -> None:
        async with self.handles() as stores:
            for turn in range(5):
                old, new = await created(stores[0], PATH), new_head()
                await asyncio.gather(
                    *(_append_until_gone(stores[n % 2], old) for n in range(4)),
                    _replace(stores[turn % 2], old, new),
                )
                assert (await loaded(stores[0], PATH)).head.tail == 3
                assert await content(stores[1], PATH, new) == b"new"
                await applied(stores[1], removal(PATH, new))

    async def test_many_paths_at_once(self) -> None:
        async with self.handles() as stores:

            async def live(n: int) -> None:
                store, path = stores[n % 2], f"raced/{n}"
                head = await created(store, path, fields={"p": b"%d" % n})
                for turn in range(5):
                    assert await applied(store, append(path, head, b"%d" % turn)) == turn + 1
                assert await content(store, path, head) == b"01234"

            await asyncio.gather(*map(live, range(40)))
            assert len(await stores[1].list("raced/", "", 100)) == 40


async def _close_among_appends(stores: tuple[Store, Store], path: str, delay: int) -> None:
    head = await created(stores[0], path)
    kept: dict[int, bytes] = {}

    async def write(writer: int) -> None:
        for turn in range(TURNS):
            data = b"<%d:%d>" % (writer, turn)
            outcome = await commit(stores[writer % 2], append(path, head, data))
            if isinstance(outcome, Conflicted):
                assert outcome.facts is not None
                assert outcome.facts.head.closed
                return
            assert isinstance(outcome, Applied)
            kept[outcome.tail] = data

    async def close() -> int:
        for _ in range(delay):
            await asyncio.sleep(0)
        return await applied(stores[1], append(path, head, b"end", close=True))

    end, *_ = await asyncio.gather(close(), *map(write, range(WRITERS)))
    found = (await loaded(stores[0], path)).head
    assert found.closed
    assert found.tail == end
    assert all(tail < end for tail in kept)
    kept[end] = b"end"
    whole = b"".join(kept[tail] for tail in sorted(kept))
    assert await content(stores[0], path, head) == whole


async def _append_until_gone(store: Store, head: Head) -> None:
    while True:
        outcome = await commit(store, append(PATH, head, b"old"))
        if isinstance(outcome, Conflicted):
            return
        await asyncio.sleep(0)


async def _replace(store: Store, old: Head, new: Head) -> None:
    for _ in range(5):
        await asyncio.sleep(0)
    guard = Guard(old.incarnation)
    await applied(store, change(PATH, guard, remove=True, create=new, data=b"new"))
