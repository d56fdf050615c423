"""The contract suite: a store that keeps it passes, and each broken promise is caught."""

import asyncio
import inspect
from functools import partial
from typing import Any
from unittest import SkipTest

import msgspec
import pytest

from durable_streams_core.entities import Applied, Conflicted, Facts, Slice
from durable_streams_core.errors import StoreError
from durable_streams_core.store import ImmediateStore, LocalStore, RemoteStore
from durable_streams_core.testing import StoreContract


class Remote(RemoteStore):
    """A tiny store at some distance: every verb gives way to others first."""

    api = 1

    def __init__(self, tiny: Any) -> None:
        self.tiny = tiny

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    def now(self) -> Any:
        return self.tiny.now()

    async def load(self, path: Any, fields: Any = ()) -> Any:
        await asyncio.sleep(0)
        return await self.tiny.load(path, fields)

    def look(self, path: Any, done: Any) -> None:
        facts = self.tiny.peek(path)
        asyncio.get_running_loop().call_soon(done, facts and facts.head)

    async def commit(self, batch: Any) -> Any:
        await asyncio.sleep(0)
        return await self.tiny.commit(batch)

    async def read(self, path: Any, incarnation: Any, start: Any, limit: Any) -> Any:
        await asyncio.sleep(0)
        return await self.tiny.read(path, incarnation, start, limit)

    async def scan(self, *page: Any) -> Any:
        await asyncio.sleep(0)
        return await self.tiny.scan(*page)

    async def list(self, *page: Any) -> Any:
        await asyncio.sleep(0)
        return await self.tiny.list(*page)

    async def due(self, *page: Any) -> Any:
        return await self.tiny.due(*page)

    def watch(self, watcher: Any) -> Any:
        return self.tiny.watch(watcher)


class TestALocalStoreOfItsOwn(StoreContract):
    @pytest.fixture(autouse=True)
    def _tiny(self, tiny_store: Any) -> None:
        self.tiny = tiny_store

    async def make_store(self) -> Any:
        return self.tiny()


class TestARemoteStoreThatIsShared(StoreContract):
    @pytest.fixture(autouse=True)
    def _tiny(self, tiny_store: Any) -> None:
        self.tiny = tiny_store

    async def make_store(self) -> Any:
        return Remote(self.tiny())

    async def reopen(self, store: Any) -> Any:
        await store.close()
        return Remote(self.tiny(store.tiny.shelf))

    async def second_store(self, store: Any) -> Any:
        return Remote(self.tiny(store.tiny.shelf))


async def test_a_contract_without_a_store_says_what_is_missing() -> None:
    with pytest.raises(NotImplementedError):
        async with StoreContract().opened():
            pass


async def test_what_a_look_is_told_is_raised(tiny_store: Any) -> None:
    class Away(Remote):
        def look(self, path: Any, done: Any) -> None:
            asyncio.get_running_loop().call_soon(done, StoreError("away"))

    class Contract(StoreContract):
        async def make_store(self) -> Any:
            return Away(tiny_store())

        async def second_store(self, store: Any) -> Any:
            return store

    with pytest.raises(StoreError, match="away"):
        await Contract().test_a_look_finds_all_that_was_acknowledged_before_it()


# Each of these breaks one promise of the tiny store; the decorator names a test that must fail.

BROKEN = []


def caught_by(test: Any, **options: Any) -> Any:
    def remember(breaks: Any) -> Any:
        BROKEN.append(pytest.param(breaks, test, options, id=breaks.__name__))
        return breaks

    return remember


def ignoring(**parts: Any) -> Any:
    """A store that does not look at some part of a guard."""

    def breaks(tiny: Any) -> Any:
        class Broken(tiny):
            def meets(self, entity: Any, guard: Any) -> Any:
                return super().meets(entity, msgspec.structs.replace(guard, **parts))

        return Broken

    return breaks


for name, parts, test in [
    ("open", {"open": False}, "an_open_stream_must_be_open"),
    ("state", {"state": None}, "a_state_must_be_the_same"),
    ("tail", {"tail": None}, "a_tail_must_be_the_same_and_zero_is_one"),
    ("deadline", {"deadline": None}, "a_deadline_must_be_the_same_and_zero_is_one"),
    ("fields", {"fields": {}}, "a_field_must_have_the_very_bytes"),
    ("none_of", {"none_of": ""}, "no_field_of_a_kind_may_be_there"),
]:
    function = ignoring(**parts)
    function.__name__ = f"it_ignores_the_guard_{name}"
    caught_by(test)(function)


@caught_by("a_tail_must_be_the_same_and_zero_is_one")
def a_tail_of_zero_is_taken_for_none(tiny: Any) -> Any:
    class Broken(tiny):
        def meets(self, entity: Any, guard: Any) -> Any:
            return super().meets(entity, msgspec.structs.replace(guard, tail=guard.tail or None))

    return Broken


@caught_by("a_deadline_must_be_the_same_and_zero_is_one")
def a_deadline_of_zero_is_taken_for_none(tiny: Any) -> Any:
    class Broken(tiny):
        def meets(self, entity: Any, guard: Any) -> Any:
            wide = msgspec.structs.replace(guard, deadline=guard.deadline or None)
            return super().meets(entity, wide)

    return Broken


@caught_by("a_field_that_must_be_absent_is_not_an_empty_one")
def an_empty_field_is_taken_for_an_absent_one(tiny: Any) -> Any:
    class Broken(tiny):
        def meets(self, entity: Any, guard: Any) -> Any:
            own = {} if entity is None else entity.fields
            same = all((own.get(key) or None) == (v or None) for key, v in guard.fields.items())
            return same and super().meets(entity, msgspec.structs.replace(guard, fields={}))

    return Broken


@caught_by("an_incarnation_must_be_the_one_that_is_there")
@caught_by("where_nothing_may_be_nothing_may_be")
def any_incarnation_will_do(tiny: Any) -> Any:
    class Broken(tiny):
        def meets(self, entity: Any, guard: Any) -> Any:
            if entity is not None:
                guard = msgspec.structs.replace(guard, incarnation=entity.head.incarnation)
            return super().meets(entity, guard)

    return Broken


@caught_by("what_a_guard_does_not_name_may_change")
def a_guard_is_a_version_of_the_whole(tiny: Any) -> Any:
    class Broken(tiny):
        def apply(self, commit: Any) -> Any:
            entity = self.shelf.entities.get(commit.path)
            if entity is not None and entity.head.tail != commit.known_tail:
                return self.conflict(entity, commit)
            return super().apply(commit)

    return Broken


@caught_by("a_conflict_tells_named_fields_and_counts")
def a_conflict_tells_only_what_the_guard_names(tiny: Any) -> Any:
    class Broken(tiny):
        def conflict(self, entity: Any, commit: Any) -> Any:
            return Conflicted(entity and self.facts(entity, commit.guard.fields))

    return Broken


@caught_by("a_conflict_tells_named_fields_and_counts")
def a_conflict_tells_no_counts(tiny: Any) -> Any:
    class Broken(tiny):
        def conflict(self, entity: Any, commit: Any) -> Any:
            found = super().conflict(entity, commit).facts
            return Conflicted(found and Facts(found.head, found.fields))

    return Broken


@caught_by("a_state_must_be_the_same")
def fields_are_set_before_the_guard_is_checked(tiny: Any) -> Any:
    class Broken(tiny):
        def conflict(self, entity: Any, commit: Any) -> Any:
            found = super().conflict(entity, commit)
            entity.fields.update({k: v for k, v in commit.delta.fields.items() if v})
            return found

    return Broken


@caught_by("a_resent_append_is_answered_with_its_first_tail")
@caught_by("resends_while_the_first_is_under_way_are_done_once")
def resends_are_done_again(tiny: Any) -> Any:
    class Broken(tiny):
        def recall(self, commit: Any) -> Any:
            return None

    return Broken


@caught_by("a_resend_is_recognised_though_its_guard_holds_no_more")
@caught_by("a_resend_is_recognised_among_many_since")
def only_the_last_commit_is_remembered(tiny: Any) -> Any:
    class Broken(tiny):
        def recall(self, commit: Any) -> Any:
            last = list(self.shelf.results)[-1:]
            return super().recall(commit) if commit.id in last else None

    return Broken


@caught_by("a_resend_without_data_is_answered_applied")
def a_resend_is_answered_with_the_tail_of_now(tiny: Any) -> Any:
    class Broken(tiny):
        def recall(self, commit: Any) -> Any:
            return super().recall(commit) and Applied(self.peek(commit.path).head.tail)

    return Broken


@caught_by("a_resent_removal_is_answered_applied")
def removals_are_not_remembered(tiny: Any) -> Any:
    class Broken(tiny):
        def recall(self, commit: Any) -> Any:
            return None if commit.delta.remove else super().recall(commit)

    return Broken


@caught_by("a_commit_that_met_a_conflict_may_be_applied_later")
def conflicts_are_remembered(tiny: Any) -> Any:
    class Broken(tiny):
        def conflict(self, entity: Any, commit: Any) -> Any:
            found = super().conflict(entity, commit)
            self.shelf.results[commit.id] = found
            return found

    return Broken


@caught_by("entries_of_a_batch_stand_for_themselves")
def a_batch_stops_at_its_first_conflict(tiny: Any) -> Any:
    class Broken(tiny):
        def apply_all(self, batch: Any) -> Any:
            outcomes = []
            for commit in batch:
                outcomes.append(self.apply(commit))
                if isinstance(outcomes[-1], Conflicted):
                    break
            return outcomes

    return Broken


@caught_by("entries_of_a_batch_come_in_order_on_one_path_too")
def a_batch_is_checked_before_it_is_done(tiny: Any) -> Any:
    class Broken(tiny):
        def apply_all(self, batch: Any) -> Any:
            at = {commit.path: self.shelf.entities.get(commit.path) for commit in batch}
            if len(batch) > 1 and not all(self.meets(at[c.path], c.guard) for c in batch):
                return [self.conflict(at[commit.path], commit) for commit in batch]
            return super().apply_all(batch)

    return Broken


@caught_by("removal_and_creation_in_one_commit")
@caught_by("a_path_created_again_starts_afresh")
def fields_outlive_a_removal(tiny: Any) -> Any:
    class Broken(tiny):
        def change(self, path: Any, entity: Any, delta: Any) -> Any:
            left = self.shelf.__dict__.setdefault("left", {})
            if delta.remove:
                left.update(entity.fields)
            applied = super().change(path, entity, delta)
            if delta.create is not None:
                self.shelf.entities[path].fields.update(left)
            return applied

    return Broken


@caught_by("fields_are_counted_by_kind")
def counts_only_grow(tiny: Any) -> Any:
    class Broken(tiny):
        def counts(self, entity: Any) -> Any:
            entity.seen = getattr(entity, "seen", set()) | set(entity.fields)
            entity.fields, fields = dict.fromkeys(entity.seen), entity.fields
            counts = super().counts(entity)
            entity.fields = fields
            return counts

    return Broken


@caught_by("all_parts_of_a_delta_at_once")
def data_and_close_exclude_each_other(tiny: Any) -> Any:
    class Broken(tiny):
        def change(self, path: Any, entity: Any, delta: Any) -> Any:
            if delta.data:
                delta = msgspec.structs.replace(delta, close=False)
            return super().change(path, entity, delta)

    return Broken


@caught_by("positions_beyond_32_and_up_to_53_bits")
def positions_have_32_bits(tiny: Any) -> Any:
    class Broken(tiny):
        def change(self, path: Any, entity: Any, delta: Any) -> Any:
            applied = super().change(path, entity, delta)
            return Applied(applied.tail % 2**32)

    return Broken


@caught_by("a_path_created_again_never_shows_old_bytes")
@caught_by("another_incarnation_is_not_there")
def reads_do_not_look_at_the_incarnation(tiny: Any) -> Any:
    class Broken(tiny):
        def slice(self, path: Any, incarnation: Any, start: Any, limit: Any) -> Any:
            entity = self.shelf.entities.get(path)
            return entity and super().slice(path, entity.head.incarnation, start, limit)

    return Broken


@caught_by("megabytes_in_one_commit")
def a_read_is_short_before_the_tail(tiny: Any) -> Any:
    class Broken(tiny):
        def slice(self, path: Any, incarnation: Any, start: Any, limit: Any) -> Any:
            return super().slice(path, incarnation, start, min(limit, 65_536))

    return Broken


@caught_by("head_and_bytes_are_of_one_moment", remote=True)
def head_and_bytes_are_read_apart(tiny: Any) -> Any:
    class Broken(tiny):
        async def read(self, path: Any, incarnation: Any, start: Any, limit: Any) -> Any:
            head = self.peek(path).head
            for _ in range(3):
                await asyncio.sleep(0)
            return Slice(head, self.slice(path, incarnation, start, limit).data)

    return Broken


@caught_by("head_and_bytes_are_of_one_moment", remote=True)
def head_and_fields_are_loaded_apart(tiny: Any) -> Any:
    class Broken(tiny):
        async def load(self, path: Any, fields: Any = ()) -> Any:
            head = self.peek(path).head
            for _ in range(3):
                await asyncio.sleep(0)
            return Facts(head, self.peek(path, fields).fields)

    return Broken


@caught_by("paths_come_in_order_of_code_points_at_every_page_size")
def paths_come_in_order_of_utf_16(tiny: Any) -> Any:
    class Broken(tiny):
        async def list(self, prefix: Any, after: Any, limit: Any) -> Any:
            rows = await super().list(prefix, "", 1000)
            rows = sorted(rows, key=lambda row: row[0].encode("utf-16-be"))
            return [row for row in rows if row[0] > after][:limit]

    return Broken


@caught_by("paths_with_a_prefix_from_past_any_other")
def pages_begin_with_the_last_path(tiny: Any) -> Any:
    class Broken(tiny):
        async def list(self, prefix: Any, after: Any, limit: Any) -> Any:
            rows = await super().list(prefix, "", 1000)
            return [row for row in rows if row[0] >= after][:limit]

    return Broken


@caught_by("fields_of_one_kind_in_order_of_code_points")
def fields_come_in_no_order(tiny: Any) -> Any:
    class Broken(tiny):
        async def scan(self, path: Any, incarnation: Any, kind: Any, after: Any, limit: Any) -> Any:
            return (await super().scan(path, incarnation, kind, after, limit))[::-1]

    return Broken


@caught_by("due_is_what_has_a_deadline_that_came")
def due_is_what_is_past(tiny: Any) -> Any:
    class Broken(tiny):
        async def due(self, before: Any, limit: Any) -> Any:
            return await super().due(before - 1, limit)

    return Broken


@caught_by("due_follows_every_change_of_a_deadline")
def due_keeps_old_deadlines(tiny: Any) -> Any:
    class Broken(tiny):
        async def due(self, before: Any, limit: Any) -> Any:
            shelf = self.shelf.__dict__
            return [p for p, at in shelf.get("deadlines", {}).items() if at <= before][:limit]

        def change(self, path: Any, entity: Any, delta: Any) -> Any:
            deadline = delta.deadline or (delta.create and delta.create.deadline)
            if deadline:
                self.shelf.__dict__.setdefault("deadlines", {}).setdefault(path, deadline)
            return super().change(path, entity, delta)

    return Broken


@caught_by("every_append_is_told_in_order", patience=0.01)
@caught_by("who_registers_and_then_looks_misses_nothing", patience=0.01)
def watchers_are_told_nothing(tiny: Any) -> Any:
    class Broken(tiny):
        def tell(self) -> None:
            self.shelf.untold = []

    return Broken


@caught_by("every_append_is_told_in_order", patience=0.01)
def every_third_change_is_lost(tiny: Any) -> Any:
    class Broken(tiny):
        def tell(self) -> None:
            self.shelf.untold = [
                change for change in self.shelf.untold if change.tail % 3 or not change.data
            ]
            super().tell()

    return Broken


@caught_by("who_registers_and_then_looks_misses_nothing", patience=0.01, remote=True)
def watching_begins_late(tiny: Any) -> Any:
    class Broken(tiny):
        def watch(self, watcher: Any) -> Any:
            registered = self.shelf.untold, len(self.shelf.results)

            def late(changes: Any) -> None:
                if len(self.shelf.results) > registered[1] + 3:
                    watcher(changes)

            return super().watch(late)

    return Broken


@caught_by("batches_over_many_paths_are_told_in_order_per_path")
def a_batch_is_told_backwards(tiny: Any) -> Any:
    class Broken(tiny):
        def tell(self) -> None:
            self.shelf.untold.reverse()
            super().tell()

    return Broken


@caught_by("order_holds_when_a_callback_begins_the_next_commit")
def callbacks_come_before_watchers(tiny: Any) -> Any:
    class Broken(tiny):
        def submit(self, batch: Any, done: Any) -> None:
            outcomes = self.apply_all(batch)
            changes, self.shelf.untold = self.shelf.untold, []
            done(outcomes)
            self.shelf.untold = changes
            self.tell()

    return Broken


@caught_by("order_holds_when_a_watcher_begins_the_next_commit")
def watchers_are_told_inside_each_other(tiny: Any) -> Any:
    class Broken(tiny):
        def tell(self) -> None:
            self.shelf.telling = False
            super().tell()

    return Broken


@caught_by("a_removal_is_told", patience=0.01)
def removals_are_not_told(tiny: Any) -> Any:
    class Broken(tiny):
        def changes(self, path: Any, before: Any, delta: Any) -> Any:
            return (change for change in super().changes(path, before, delta) if not change.gone)

    return Broken


@caught_by("every_append_is_told_in_order")
def it_resyncs_all_the_time(tiny: Any) -> Any:
    class Broken(tiny):
        def watch(self, watcher: Any) -> Any:
            return super().watch(lambda changes: watcher(None))

    return Broken


@caught_by("who_stopped_is_told_no_more_and_others_are")
def stopping_does_not_stop(tiny: Any) -> Any:
    class Broken(tiny):
        def watch(self, watcher: Any) -> Any:
            super().watch(watcher)
            return lambda: None

    return Broken


@caught_by("offsets_are_unique_and_rising_and_nothing_is_lost", remote=True)
def the_tail_is_read_and_written_apart(tiny: Any) -> Any:
    class Broken(tiny):
        async def commit(self, batch: Any) -> Any:
            tails = [self.peek(c.path).head.tail for c in batch if self.peek(c.path)]
            await asyncio.sleep(0)
            outcomes = await super().commit(batch)
            if not tails:
                return outcomes
            return [Applied(tail + len(c.delta.data)) for tail, c in zip(tails, batch, strict=True)]

    return Broken


@caught_by("a_guarded_counter_counts_every_turn", remote=True)
@caught_by("one_of_many_creations_wins_and_the_others_learn_of_it", remote=True)
@caught_by("nothing_follows_an_acknowledged_close", remote=True)
def guards_are_checked_before_the_commit(tiny: Any) -> Any:
    class Broken(tiny):
        async def commit(self, batch: Any) -> Any:
            conflicts = [
                None
                if self.meets(entity := self.shelf.entities.get(c.path), c.guard)
                else self.conflict(entity, c)
                for c in batch
            ]
            await asyncio.sleep(0)
            return [
                conflict or self.change(c.path, self.shelf.entities.get(c.path), c.delta)
                for conflict, c in zip(conflicts, batch, strict=True)
            ]

    return Broken


@caught_by("what_was_applied_is_seen_at_once_by_all", remote=True)
def each_store_remembers_what_it_loaded(tiny: Any) -> Any:
    class Broken(tiny):
        async def load(self, path: Any, fields: Any = ()) -> Any:
            cache = self.__dict__.setdefault("cache", {})
            return cache.setdefault(path, self.peek(path, fields))

    return Broken


@caught_by("a_removal_takes_what_came_before_and_stops_what_comes_after", remote=True)
def appends_go_to_whatever_is_there(tiny: Any) -> Any:
    class Broken(tiny):
        def meets(self, entity: Any, guard: Any) -> Any:
            if entity is not None and guard.open:
                return True
            return super().meets(entity, guard)

        def conflict(self, entity: Any, commit: Any) -> Any:
            return Conflicted(None)

        def apply(self, commit: Any) -> Any:
            if self.shelf.__dict__.setdefault("turns", 0) > 100:
                return Conflicted(None)
            self.shelf.turns += 1
            return super().apply(commit)

    return Broken


@caught_by("closing_twice_is_closing_once")
def closing_twice_fails(tiny: Any) -> Any:
    class Broken(tiny):
        async def close(self) -> None:
            assert not self.__dict__.get("closed")
            self.closed = True

    return Broken


@caught_by("a_commit_is_done_and_told_when_the_call_returns")
def watchers_hear_of_it_later(tiny: Any) -> Any:
    class Broken(tiny):
        def commit_nowait(self, batch: Any) -> Any:
            outcomes = self.apply_all(batch)
            asyncio.get_running_loop().call_soon(self.tell)
            return outcomes

    return Broken


@caught_by("closing_finishes_what_was_begun", patience=0.01)
def closing_forgets_what_was_begun(tiny: Any) -> Any:
    class Broken(tiny):
        def submit(self, batch: Any, done: Any) -> None:
            if batch[0].delta.create:
                super().submit(batch, done)

    return Broken


@caught_by("a_local_store_answers_at_once_as_it_does_later")
def slices_are_not_what_reads_are(tiny: Any) -> Any:
    class Broken(tiny):
        async def read(self, path: Any, incarnation: Any, start: Any, limit: Any) -> Any:
            return super().slice(path, incarnation, start, limit and limit - 1)

    return Broken


@caught_by("an_append_at_once_is_told_and_needs_the_very_head")
def an_append_at_once_needs_no_head(tiny: Any) -> Any:
    class Broken(tiny):
        def append_nowait(self, path: Any, head: Any, data: Any, fields: Any) -> Any:
            entity = self.shelf.entities.get(path)
            return entity and super().append_nowait(path, entity.head, data, fields)

    return Broken


@caught_by("an_append_without_a_commit_rests_on_the_facts_that_it_was_given")
def an_append_without_a_commit_looks_at_the_head_alone(tiny: Any) -> Any:
    class Broken(tiny):
        def submit_append(self, path: Any, facts: Any, *change: Any) -> Any:
            there = self.peek(path, tuple(facts.fields))
            if there is not None and there.head is facts.head:
                facts = there
            return super().submit_append(path, facts, *change)

    return Broken


@caught_by("it_speaks_this_version_of_the_interface")
def it_is_of_another_version(tiny: Any) -> Any:
    return type("Broken", (tiny,), {"api": 0})


@caught_by("everything_is_there_after_opening_again", reopen={"fields"})
@caught_by("megabytes_are_there_after_opening_again", reopen={"data"})
def a_part_is_lost_when_closed(tiny: Any) -> Any:
    return tiny


@pytest.mark.parametrize("breaks, test, options", BROKEN)
def test_a_broken_promise_is_caught(breaks: Any, test: Any, options: Any, tiny_store: Any) -> None:
    broken = breaks(tiny_store)

    class Contract(StoreContract):
        patience = options.get("patience", 30.0)

        async def make_store(self) -> Any:
            return Remote(broken()) if "remote" in options else broken()

        async def second_store(self, store: Any) -> Any:
            return Remote(broken(store.tiny.shelf)) if "remote" in options else None

        async def reopen(self, store: Any) -> Any:
            for entity in store.shelf.entities.values():
                for part in options["reopen"]:
                    setattr(entity, part, type(getattr(entity, part))())
            return store

    # A watcher may fail, and so may a task that is left behind.
    with pytest.raises((AssertionError, StoreError, TimeoutError)):
        asyncio.run(getattr(Contract(), f"test_{test}")())


def test_every_test_of_the_contract_is_async_and_says_what_it_proves() -> None:
    tests = {name for name in dir(StoreContract) if name.startswith("test_")}
    assert len(tests) > 90
    assert all(inspect.iscoroutinefunction(getattr(StoreContract, name)) for name in tests)


async def test_what_does_not_concern_a_store_is_skipped(tiny_store: Any) -> None:
    class Alone(StoreContract):
        async def make_store(self) -> Any:
            return Remote(tiny_store())

    class Committing(StoreContract):
        async def make_store(self) -> Any:
            store = tiny_store()
            store.append_nowait = partial(ImmediateStore.append_nowait, store)
            store.submit_append = partial(LocalStore.submit_append, store)
            return store

    for name in (
        "an_append_at_once_is_told_and_needs_the_very_head",
        "an_append_without_a_commit_rests_on_the_facts_that_it_was_given",
    ):
        with pytest.raises(SkipTest):
            await getattr(Committing(), f"test_{name}")()
    for name in (
        "an_append_at_once_is_told_and_needs_the_very_head",
        "an_append_without_a_commit_rests_on_the_facts_that_it_was_given",
        "everything_is_there_after_opening_again",
        "a_local_store_answers_at_once_as_it_does_later",
    ):
        with pytest.raises(SkipTest):
            await getattr(Alone(), f"test_{name}")()
