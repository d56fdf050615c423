"""Resends: the same commit again, as an engine sends it when it does not know the first outcome.

That a store answers ``Unknown`` and never ``Refused`` for what may have been done cannot be
provoked through the interface; a store proves it with faults of its own.
"""

import asyncio

from durable_streams_core.entities import DELETED, Applied, Commit, Guard, Head, Outcome
from durable_streams_core.store import Store
from durable_streams_core.testing.harness import (
    StoreHarness,
    append,
    applied,
    change,
    commit,
    conflicted,
    content,
    counted,
    created,
    creation,
    loaded,
    new_head,
    removal,
)

PATH = "resent"


async def resent(store: Store, one: Commit, head: Head) -> Outcome:
    """The answer to a commit that was sent before, with others since."""
    await applied(store, one)
    await applied(store, change(PATH, Guard(head.incarnation), data=b"since", fields={"n": b"1"}))
    before = await loaded(store, PATH, ["s", "n"])
    again = await commit(store, one)
    assert await loaded(store, PATH, ["s", "n"]) == before
    return again


class Resends(StoreHarness):
    """A commit that was applied is answered so again, with its first result, and done once."""

    async def test_a_resent_append_is_answered_with_its_first_tail(self) -> None:
        async with self.opened() as store:
            head = await created(store, PATH)
            assert await resent(store, append(PATH, head, b"once"), head) == Applied(4)
            assert await content(store, PATH, head) == b"oncesince"

    async def test_a_resend_is_recognised_though_its_guard_holds_no_more(self) -> None:
        async with self.opened() as store:
            head = await created(store, PATH)
            guard = Guard(head.incarnation, tail=0, fields={"s": None}, none_of="s")
            one = change(PATH, guard, data=b"once", fields={"s": b"1"})
            assert await resent(store, one, head) == Applied(4)

    async def test_a_resend_is_recognised_though_its_guard_holds_still(self) -> None:
        async with self.opened() as store:
            head = await created(store, PATH)
            one = change(PATH, Guard(head.incarnation), data=b"once", fields={"s": b"1"})
            assert await resent(store, one, head) == Applied(4)
            assert await commit(store, one) == Applied(4)
            assert await content(store, PATH, head) == b"oncesince"

    async def test_a_resent_creation_is_answered_applied(self) -> None:
        async with self.opened() as store:
            head = new_head(start=7)
            one = creation(PATH, head, data=b"first")
            assert await resent(store, one, head) == Applied(12)

    async def test_a_resent_close_is_answered_applied(self) -> None:
        async with self.opened() as store:
            head = await created(store, PATH, data=b"1")
            assert await resent(store, append(PATH, head, b"23", close=True), head) == Applied(3)
            head = (await loaded(store, PATH)).head
            assert head.closed

    async def test_a_resend_without_data_is_answered_applied(self) -> None:
        async with self.opened() as store:
            head = await created(store, PATH, data=b"12")
            guard = Guard(head.incarnation, deadline=0, fields={"s": None})
            one = change(PATH, guard, 2, deadline=5, fields={"s": b"1"})
            assert await resent(store, one, head) == Applied(2)
            two = change(PATH, Guard(head.incarnation, fields={"s": b"1"}), 7, fields={"s": None})
            await applied(store, two)
            await applied(store, change(PATH, Guard(head.incarnation), 7, fields={"s": b"3"}))
            assert await commit(store, two) == Applied(7)
            assert (await loaded(store, PATH, ["s"])).fields == {"s": b"3"}

    async def test_a_resent_state_change_is_answered_applied(self) -> None:
        async with self.opened() as store:
            head = await created(store, PATH)
            one = change(PATH, Guard(head.incarnation, state=head.state), state=DELETED)
            assert await resent(store, one, head) == Applied(0)

    async def test_a_resent_removal_is_answered_applied(self) -> None:
        async with self.opened() as store:
            head = await created(store, PATH, data=b"x")
            one = removal(PATH, head)
            await applied(store, one)
            assert await commit(store, one) == Applied(0)
            assert await store.load(PATH) is None

    async def test_a_resent_removal_spares_what_was_created_since(self) -> None:
        async with self.opened() as store:
            head = await created(store, PATH, data=b"x")
            one = removal(PATH, head)
            await applied(store, one)
            new = await created(store, PATH, data=b"new")
            assert await commit(store, one) == Applied(0)
            assert await content(store, PATH, new) == b"new"

    async def test_a_resent_removal_with_creation_is_answered_with_its_first_tail(self) -> None:
        async with self.opened() as store:
            old = await created(store, PATH, data=b"old")
            new = new_head()
            swap = change(PATH, Guard(old.incarnation), 0, remove=True, create=new, data=b"n")
            assert await resent(store, swap, new) == Applied(1)

    async def test_a_commit_that_met_a_conflict_may_be_applied_later(self) -> None:
        async with self.opened() as store:
            head = await created(store, PATH)
            one = change(PATH, Guard(head.incarnation, tail=3), data=b"4")
            await conflicted(store, one)
            await applied(store, append(PATH, head, b"123"))
            assert await applied(store, one) == 4
            assert await commit(store, one) == Applied(4)

    async def test_a_resend_is_recognised_among_many_since(self) -> None:
        async with self.opened() as store:
            head = await created(store, PATH)
            one = append(PATH, head, b"once", fields={"pfirst": b"1"})
            await applied(store, one)
            for _ in range(20):
                await store.commit([append(PATH, head, b"since") for _ in range(50)])
            assert await commit(store, one) == Applied(4)
            assert (await loaded(store, PATH)).head.tail == 4 + 20 * 50 * 5

    async def test_a_batch_may_mix_resends_with_what_is_new(self) -> None:
        async with self.opened() as store:
            head = await created(store, PATH)
            one, two = append(PATH, head, b"1"), append(PATH, head, b"22")
            await store.commit([one, two])
            three = append(PATH, head, b"333")
            assert list(await store.commit([two, three, one])) == [
                Applied(3), Applied(6), Applied(1),
            ]  # fmt: skip
            assert await content(store, PATH, head) == b"122333"

    async def test_resends_while_the_first_is_under_way_are_done_once(self) -> None:
        async with self.opened() as store:
            head = await created(store, PATH)
            one = append(PATH, head, b"once", fields={"p1": b"1"})
            outcomes = await asyncio.gather(*(store.commit([one]) for _ in range(8)))
            assert [outcome for (outcome,) in outcomes] == [Applied(4)] * 8
            facts = await loaded(store, PATH)
            assert facts.head.tail == 4
            assert counted(facts, "p") == 1

    async def test_what_became_of_a_cancelled_commit_can_be_found_out(self) -> None:
        async with self.opened() as store:
            head = await created(store, PATH)
            sent = [append(PATH, head, b"%d" % (n % 10)) for n in range(20)]
            tasks = [asyncio.ensure_future(store.commit([one])) for one in sent]
            for turn, task in enumerate(tasks):
                if turn % 2:
                    task.cancel()
                await asyncio.sleep(0)
            await asyncio.gather(*tasks, return_exceptions=True)
            tails = [await applied(store, one) for one in sent]
            assert sorted(tails) == list(range(1, 21))
            found = await content(store, PATH, head)
            assert len(found) == 20
            assert all(
                found[t - 1 : t] == one.delta.data for t, one in zip(tails, sent, strict=True)
            )
