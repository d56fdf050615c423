"""Timelines: the offsets of a path only rise, and every tail is told with its timeline.

How a store behaves after it lost acknowledged bytes cannot be tested through the interface; a store
that can lose some needs tests of its own.
"""

import asyncio

from durable_streams_core.entities import Applied, Conflicted, Guard
from durable_streams_core.offsets import NO_TIMELINE, Offset, later_timeline, timeline_at
from durable_streams_core.store import Store
from durable_streams_core.testing.harness import (
    StoreHarness,
    append,
    applied,
    change,
    commit,
    created,
    creation,
    loaded,
    new_head,
    removal,
    skip,
)

PATH = "timeline"
EARLY, LATE = timeline_at(1_000), timeline_at(2_000)


async def timeline_of(store: Store, path: str) -> bytes:
    """The timeline of what is appended next."""
    return (await loaded(store, path)).head.timeline


class Timelines(StoreHarness):
    """:attr:`Delta.timeline` and :attr:`Head.timeline`."""

    async def test_an_entity_has_the_timeline_that_was_asked_for_or_a_later_one(self) -> None:
        async with self.opened() as store:
            head = new_head()
            outcome = await commit(store, creation(PATH, head, timeline=EARLY, data=b"data"))
            given = await timeline_of(store, PATH)
            assert given >= EARLY
            assert outcome == Applied(4, given)
            assert (await loaded(store, PATH)).head.tail_offset == Offset(given, 4)
            assert await commit(store, append(PATH, head, b"more")) == Applied(8, given)

    async def test_no_two_entities_get_the_same_timeline(self) -> None:
        async with self.handles() as (store, other):
            paths = [f"alike/{n}" for n in range(40)]
            batch = [creation(path, new_head(), timeline=EARLY) for path in paths]
            await store.commit(batch[:10])
            await asyncio.gather(*(commit(other, one) for one in batch[10:25]))
            await asyncio.gather(*(commit(store, one) for one in batch[25:]))
            given = [await timeline_of(store, path) for path in paths]
            assert len(set(given)) == len(given)
            assert min(given) >= EARLY

    async def test_without_being_asked_an_entity_keeps_what_its_head_says(self) -> None:
        async with self.opened() as store:
            old = await created(store, PATH, new_head(timeline=LATE))
            assert old.timeline == LATE
            await applied(store, removal(PATH, old))
            assert (await created(store, PATH, new_head(timeline=EARLY))).timeline == EARLY
            assert (await created(store, "other")).timeline == NO_TIMELINE

    async def test_a_path_created_again_gets_a_later_timeline_whatever_is_asked_for(self) -> None:
        async with self.handles() as (store, other):
            latest = NO_TIMELINE
            for asked in (LATE, LATE, EARLY, NO_TIMELINE, timeline_at(3_000)):
                head = new_head()
                outcome = await commit(store, creation(PATH, head, timeline=asked))
                timeline = await timeline_of(other, PATH)
                assert outcome == Applied(0, timeline)
                assert timeline >= later_timeline(asked, latest)
                latest = timeline
                await applied(other, removal(PATH, head))

    async def test_a_swap_gets_a_later_timeline_too(self) -> None:
        async with self.opened() as store:
            old = await created(store, PATH, new_head(timeline=LATE))
            swap = change(
                PATH, Guard(old.incarnation), remove=True, create=new_head(), timeline=EARLY
            )
            await applied(store, swap)
            assert await timeline_of(store, PATH) > LATE

    async def test_lives_of_a_path_in_one_batch_have_timelines_that_rise(self) -> None:
        async with self.opened() as store:
            first, second, third = new_head(), new_head(), new_head()
            outcomes = await store.commit(
                [
                    creation(PATH, first, timeline=EARLY, data=b"1"),
                    removal(PATH, first),
                    creation(PATH, second, timeline=EARLY, data=b"2"),
                    removal(PATH, second),
                    creation(PATH, third, timeline=EARLY, data=b"3"),
                ]
            )
            told = [one.timeline for one in outcomes if isinstance(one, Applied)]
            assert told[::2] == sorted(set(told[::2]))
            assert told[1::2] == [NO_TIMELINE, NO_TIMELINE]
            assert await timeline_of(store, PATH) == told[-1]

    async def test_a_resend_is_answered_with_the_timeline_that_it_was_given(self) -> None:
        async with self.opened() as store:
            await applied(store, removal(PATH, await created(store, PATH, new_head(timeline=LATE))))
            head = new_head()
            first = creation(PATH, head, timeline=EARLY, data=b"1")
            second = append(PATH, head, b"2")
            outcomes = [await commit(store, first), await commit(store, second)]
            assert [await commit(store, first), await commit(store, second)] == outcomes

    async def test_the_past_of_a_fork_is_kept_and_told(self) -> None:
        async with self.handles() as (store, other):
            past = ((EARLY, 5), (LATE, 7))
            fork = new_head(start=7, past=past)
            asked = timeline_at(3_000)
            assert await commit(store, creation(PATH, fork, timeline=asked)) == Applied(7, LATE)
            found = (await loaded(other, PATH)).head
            assert found.past == past
            assert found.timeline >= asked
            close = change(PATH, Guard(fork.incarnation), 7, close=True)
            assert await commit(store, close) == Applied(7, LATE)

    async def test_what_is_appended_to_a_fork_lies_on_its_own_timeline(self) -> None:
        async with self.handles() as (store, other), self.watched(other) as recorder:
            fork = new_head(start=7, timeline=LATE, past=((EARLY, 7),))
            await applied(store, creation(PATH, fork))
            assert await commit(store, append(PATH, fork, b"own")) == Applied(10, LATE)
            await recorder.until_tail(fork, 10)
            told = {(one.tail, one.timeline) for one in recorder.of(PATH)}
            assert told == {(7, EARLY), (10, LATE)}
            assert (await loaded(other, PATH)).head.tail_offset == Offset(LATE, 10)

    async def test_changes_are_told_with_their_timeline(self) -> None:
        async with self.handles() as (store, other), self.watched(other) as recorder:
            old = await created(store, PATH, new_head(timeline=EARLY), data=b"old")
            await applied(store, removal(PATH, old))
            new = new_head()
            await applied(store, creation(PATH, new, timeline=EARLY, data=b"newer"))
            await recorder.until_tail(new, 5)
            later = await timeline_of(store, PATH)
            told = [(one.incarnation, one.timeline) for one in recorder.of(PATH)]
            assert set(told) == {(old.incarnation, EARLY), (new.incarnation, later)}

    async def test_conflicts_and_lists_show_timelines(self) -> None:
        async with self.opened() as store:
            head = await created(store, PATH, new_head(timeline=LATE, past=((EARLY, 0),)))
            outcome = await commit(store, append(PATH, new_head(), b"never"))
            assert isinstance(outcome, Conflicted)
            assert outcome.facts is not None
            assert outcome.facts.head == head
            assert list(await store.list("", "", 10)) == [(PATH, head)]

    async def test_timelines_survive_opening_again(self) -> None:
        async with self.opened() as first:
            kept = await created(
                first, "kept", new_head(start=7, timeline=LATE, past=((EARLY, 7),))
            )
            gone = await created(first, PATH, new_head(timeline=LATE))
            await applied(first, removal(PATH, gone))
            store = await self.reopen(first)
            if store is None:
                raise skip("nothing outlives this store")
            try:
                assert (await loaded(store, "kept")).head == kept
                await applied(store, creation(PATH, new_head(), timeline=EARLY))
                assert await timeline_of(store, PATH) > LATE
            finally:
                await store.close()
