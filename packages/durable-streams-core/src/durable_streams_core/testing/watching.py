"""Watching: who registers, then looks, then waits, misses nothing.

A watcher may be told more than is new, never less. That a store says ``resync`` where it may have
missed something cannot be provoked through the interface; a store proves it with faults of its
own. Here nothing goes wrong, and so nothing may be missed and no resync told.
"""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial

from durable_streams_core.entities import (
    DELETED,
    FORKING,
    LIVE,
    Applied,
    Change,
    Conflicted,
    Facts,
    Guard,
    Head,
    Outcome,
)
from durable_streams_core.store import ImmediateStore, LocalStore, Store, as_future
from durable_streams_core.testing.harness import (
    Recorder,
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

PATH = "watched"


def check_order(changes: Sequence[Change], whole: bytes, known: int = 0) -> None:
    """Check that the changes of one incarnation follow each other from ``known`` without a gap."""
    for one in changes:
        if one.data is not None:
            begin = one.tail - len(one.data)
            assert begin <= known, f"bytes {known} to {begin} are missing"
            assert one.data == whole[begin : one.tail]
        known = max(known, one.tail)
    tails = [one.tail for one in changes]
    assert tails == sorted(tails)


class Watching(StoreHarness):
    """What :meth:`Store.watch` tells.

    Long because it has a test for each promise of that method.
    """

    async def test_every_append_is_told_in_order(self) -> None:
        async with (
            self.handles() as (store, other),
            self.watched(store) as here,
            self.watched(other) as there,
        ):
            head = await created(store, PATH)
            whole = b""
            for n in range(30):
                data = b"%d," % n
                whole += data
                await applied(store, append(PATH, head, data))
            for recorder in (here, there):
                await recorder.until_tail(head, len(whole))
                told = recorder.of(PATH)
                assert {one.incarnation for one in told} == {head.incarnation}
                assert not any(one.closed or one.gone for one in told)
                check_order(told, whole)

    async def test_batches_over_many_paths_are_told_in_order_per_path(self) -> None:
        async with self.handles() as (store, other), self.watched(other) as recorder:
            heads = {f"watched/{n}": new_head() for n in range(10)}
            batch = [creation(path, head) for path, head in heads.items()]
            for n in range(20):
                batch += [append(path, head, b"%02d" % n) for path, head in heads.items()]
            await store.commit(batch)
            whole = b"".join(b"%02d" % n for n in range(20))
            for path, head in heads.items():
                await recorder.until_tail(head, len(whole))
                check_order(recorder.of(path), whole)

    async def test_data_that_rides_along_is_the_data(self) -> None:
        async with self.handles() as (store, other), self.watched(other) as recorder:
            head = await created(store, PATH)
            whole = b""
            for size in (0, 1, 100, 1024, 1025, 64 * 1024, 64 * 1024 + 1, 1 << 20, 3):
                data = b"%d" % (size % 10) * size
                whole += data
                await applied(store, append(PATH, head, data))
            await recorder.until_tail(head, len(whole))
            check_order(recorder.of(PATH), whole)

    async def test_a_close_is_told_with_the_data_before_it(self) -> None:
        async with self.handles() as (store, other), self.watched(other) as recorder:
            head = await created(store, PATH)
            await applied(store, append(PATH, head, b"last", close=True))
            await recorder.until(lambda one: one.closed)
            (closed,) = [one for one in recorder.of(PATH) if one.closed]
            assert (closed.tail, closed.gone) == (4, False)
            assert closed.data in (b"last", None)

    async def test_a_close_without_data_is_told(self) -> None:
        async with self.handles() as (store, other), self.watched(other) as recorder:
            head = await created(store, PATH, data=b"data")
            await applied(store, append(PATH, head, b"", close=True))
            await recorder.until(lambda one: one.incarnation == head.incarnation and one.closed)

    async def test_a_stream_created_closed_is_told(self) -> None:
        async with self.handles() as (store, other), self.watched(other) as recorder:
            head = await created(store, PATH, data=b"all", close=True)
            await recorder.until_tail(head, 3)
            await recorder.until(lambda one: one.closed)

    async def test_a_removal_is_told(self) -> None:
        async with self.handles() as (store, other), self.watched(other) as recorder:
            head = await created(store, PATH, data=b"data")
            await applied(store, removal(PATH, head))
            await recorder.until_gone(head)
            assert recorder.of(PATH)[-1].gone

    async def test_a_soft_delete_is_told_as_gone(self) -> None:
        async with self.handles() as (store, other), self.watched(other) as recorder:
            head = await created(store, PATH, data=b"data")
            await applied(store, change(PATH, Guard(head.incarnation), 4, state=DELETED))
            await recorder.until_gone(head)

    async def test_a_fork_is_told_as_served_once_it_is(self) -> None:
        async with self.handles() as (store, other), self.watched(other) as recorder:
            head = await created(store, PATH, new_head(start=5, state=FORKING), data=b"data")
            await applied(store, change(PATH, Guard(head.incarnation), 9, state=LIVE))
            await recorder.until(lambda one: one.incarnation == head.incarnation and not one.gone)
            told = recorder.of(PATH)
            assert not told[-1].gone
            assert told[-1].tail == 9

    async def test_a_replacement_is_told_as_gone_and_then_as_new(self) -> None:
        async with self.handles() as (store, other), self.watched(other) as recorder:
            old = await created(store, PATH, data=b"old")
            new = new_head()
            swap = change(PATH, Guard(old.incarnation), remove=True, create=new, data=b"new")
            await applied(store, swap)
            await recorder.until_tail(new, 3)
            told = [(one.incarnation, one.gone) for one in recorder.of(PATH)]
            gone = told.index((old.incarnation, True))
            assert (old.incarnation, False) not in told[gone:]
            assert (new.incarnation, False) not in told[:gone]
            assert (new.incarnation, False) in told[gone:]

    async def test_what_was_told_can_be_seen(self) -> None:
        async with self.handles() as (store, other), self.watched(other) as recorder:
            head = await created(store, PATH)
            for n in range(20):
                await applied(store, append(PATH, head, b"x"))
                await recorder.until_tail(head, n + 1)
                assert (await loaded(other, PATH)).head.tail >= recorder.of(PATH)[-1].tail

    async def test_conflicts_and_resends_tell_nothing_new(self) -> None:
        async with self.handles() as (store, other), self.watched(other) as recorder:
            head = await created(store, PATH)
            one = append(PATH, head, b"1")
            await applied(store, one)
            await store.commit([one, append(PATH, new_head(), b"never"), append(PATH, head, b"2")])
            await recorder.until_tail(head, 2)
            check_order(recorder.of(PATH), b"12")

    async def test_who_registers_and_then_looks_misses_nothing(self) -> None:
        async with self.handles() as (store, other):
            head = await created(store, PATH)
            total = 80
            writing = asyncio.ensure_future(_write(store, head, total))
            looks: list[tuple[Recorder, int]] = []
            async with AsyncExitStack() as stack:
                guide = await stack.enter_async_context(self.watched(other))
                for goal in range(0, total + 1, 8):
                    if goal:
                        await guide.until_tail(head, goal)
                    recorder = await stack.enter_async_context(self.watched(other))
                    looks.append((recorder, (await loaded(other, PATH)).head.tail))
                await writing
                whole = await content(other, PATH, head)
                for recorder, seen in looks:
                    if seen < total:
                        await recorder.until_tail(head, total)
                    check_order(recorder.of(PATH), whole, seen)

    async def test_who_stopped_is_told_no_more_and_others_are(self) -> None:
        async with self.opened() as store:
            quiet, recorder = Recorder(self.patience), Recorder(self.patience)
            stop_quiet, stop = store.watch(quiet), store.watch(recorder)
            head = await created(store, PATH)
            await quiet.until_tail(head, 0)
            stop_quiet()
            stop_quiet()
            before = len(quiet.changes)
            await applied(store, append(PATH, head, b"more"))
            await recorder.until_tail(head, 4)
            stop()
            assert len(quiet.changes) == before

    async def test_a_watcher_may_stop_while_it_is_told(self) -> None:
        async with self.opened() as store, self.watched(store) as recorder:
            told: list[Change] = []

            def once(changes: Sequence[Change] | None) -> None:
                assert changes
                told.extend(changes)
                stop()

            stop = store.watch(once)
            async with self.watched(store) as last:
                head = await created(store, PATH)
                await last.until_tail(head, 0)
                await recorder.until_tail(head, 0)
                before = len(told)
                assert before
                await applied(store, append(PATH, head, b"x"))
                await last.until_tail(head, 1)
                assert len(told) == before

    async def test_cancelled_commits_are_told_if_they_were_applied(self) -> None:
        async with self.handles() as (store, other), self.watched(other) as recorder:
            head = await created(store, PATH)
            for turns in range(8):
                task = asyncio.ensure_future(store.commit([append(PATH, head, b"%d" % turns)]))
                for _ in range(turns % 4):
                    await asyncio.sleep(0)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            await applied(store, append(PATH, head, b"end"))
            tail = (await loaded(store, PATH)).head.tail
            await recorder.until_tail(head, tail)
            check_order(recorder.of(PATH), await content(store, PATH, head))

    async def test_order_holds_when_a_callback_begins_the_next_commit(self) -> None:
        """For a :class:`LocalStore`: an engine begins the next batch in ``done``."""
        async with self.opened() as store, self.watched(store) as recorder:
            if not isinstance(store, LocalStore):
                raise skip("only a local store calls back")
            local = store
            head = await created(local, PATH)
            finished = asyncio.Event()
            left = [b"%d" % n for n in range(9)]

            def done(outcomes: Sequence[object]) -> None:
                assert len(outcomes) == 1
                if left:
                    local.submit([append(PATH, head, left.pop())], done)
                else:
                    finished.set()

            local.submit([append(PATH, head, b"9")], done)
            async with asyncio.timeout(self.patience):
                await finished.wait()
            await recorder.until_tail(head, 10)
            check_order(recorder.of(PATH), b"9876543210")

    async def test_order_holds_when_a_watcher_begins_the_next_commit(self) -> None:
        """For a :class:`LocalStore`: a commit made by a watcher is told after the first."""
        async with self.opened() as store:
            if not isinstance(store, LocalStore):
                raise skip("only a local store commits at once")
            local = store
            one, two = new_head(), new_head()
            left = [b"1", b"2", b"3"]

            def follow(_: Sequence[Change] | None) -> None:
                if left:
                    batch = [append("two", two, left[0]), append(PATH, one, left.pop(0))]
                    local.submit(batch, lambda _: None)

            stop = local.watch(follow)
            async with self.watched(local) as recorder:
                await local.commit([creation(PATH, one), creation("two", two)])
                for path, head in ((PATH, one), ("two", two)):
                    await recorder.until_tail(head, 3)
                    check_order(recorder.of(path), b"123")
            stop()

    async def test_a_commit_is_done_and_told_when_the_call_returns(self) -> None:
        """For an :class:`ImmediateStore`: the engine asks it without a queue."""
        async with self.opened() as store:
            if not isinstance(store, ImmediateStore):
                raise skip("only an immediate store commits within the call")
            recorder: list[Change] = []
            stop = store.watch(lambda changes: recorder.extend(changes or ()))
            head = new_head()
            assert list(store.commit_nowait([creation(PATH, head)])) == [Applied(0)]
            assert list(store.commit_nowait([append(PATH, head, b"x")])) == [Applied(1)]
            assert [change.tail for change in recorder] == [0, 1]
            facts = store.peek(PATH)
            assert facts is not None
            assert facts.head.tail == 1
            stop()

    async def test_an_append_at_once_is_told_and_needs_the_very_head(self) -> None:
        """For a :class:`ImmediateStore` that implements :meth:`ImmediateStore.append_nowait`."""
        async with self.opened() as store:
            if not isinstance(store, ImmediateStore):
                raise skip("only an immediate store appends within the call")
            await store.commit([creation(PATH, new_head(), data=b"a")])
            first = store.peek(PATH)
            assert first is not None
            recorder: list[Change] = []
            stop = store.watch(lambda changes: recorder.extend(changes or ()))
            if not store.append_nowait(PATH, first.head, b"bc", {"p1": b"x"}):
                raise skip("this store has every append committed")
            assert not store.append_nowait(PATH, first.head, b"d", {"p1": b"y"})
            assert not store.append_nowait("elsewhere", first.head, b"d", {})
            stop()
            facts = store.peek(PATH, ["p1"])
            assert facts is not None
            assert facts.head == first.head.grown(2)
            assert facts.fields == {"p1": b"x"}
            assert facts.counts.get("p") == 1
            found = store.slice(PATH, first.head.incarnation, 0, 10)
            assert found is not None
            assert found.data == b"abc"
            timeline = first.head.timeline
            assert recorder == [
                Change(PATH, first.head.incarnation, 3, data=b"bc", timeline=timeline)
            ]

    async def test_an_append_without_a_commit_rests_on_the_facts_that_it_was_given(self) -> None:
        """For a :class:`LocalStore` that implements :meth:`LocalStore.submit_append`."""
        async with self.opened() as store:
            if not isinstance(store, LocalStore):
                raise skip("only a local store takes an append without a commit")
            head = await created(store, PATH, data=b"a")
            facts = store.peek(PATH, ["p1"])
            assert facts is not None
            recorder: list[Change] = []
            stop = store.watch(lambda changes: recorder.extend(changes or ()))

            async def tried(facts: Facts, data: bytes, value: bytes) -> Outcome:
                future: asyncio.Future[Outcome]
                begin = partial(store.submit_append, PATH, facts, data, {"p1": value})
                future, begun = as_future(begin)
                if not begun:
                    raise skip("this store has every append committed")
                return await future

            timeline = facts.head.timeline
            outcomes = await asyncio.gather(tried(facts, b"bc", b"x"), tried(facts, b"d", b"y"))
            after = store.peek(PATH, ["p1"])
            assert list(outcomes) == [Applied(3, timeline), Conflicted(after)]
            assert after is not None
            assert after.head == facts.head.grown(2)
            assert after.fields == {"p1": b"x"}
            assert after.counts.get("p") == 1
            found = store.slice(PATH, head.incarnation, 0, 10)
            assert found is not None
            assert found.data == b"abc"
            assert recorder == [Change(PATH, head.incarnation, 3, data=b"bc", timeline=timeline)]

            await applied(store, change(PATH, Guard(head.incarnation), fields={"p1": b"z"}))
            assert await tried(after, b"d", b"y") == Conflicted(store.peek(PATH, ["p1"]))
            await applied(store, removal(PATH, head))
            assert await tried(after, b"d", b"y") == Conflicted(None)
            stop()


async def _write(store: Store, head: Head, total: int) -> None:
    for n in range(total):
        await applied(store, append(PATH, head, b"%d" % (n % 10)))
        await asyncio.sleep(0)
