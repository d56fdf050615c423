"""Guards: what must still be so, and what a commit learns when it is not."""

from durable_streams_core.entities import DELETED, FORKING, LIVE, Facts, Guard, Head
from durable_streams_core.store import Store
from durable_streams_core.testing.harness import (
    EVERY_BYTE,
    StoreHarness,
    append,
    applied,
    change,
    conflicted,
    content,
    counted,
    created,
    creation,
    loaded,
    new_head,
    removal,
    same_fields,
)

PATH = "guarded"


async def holds(store: Store, head: Head, guard: Guard) -> None:
    """The guard lets a commit through."""
    before = (await loaded(store, PATH)).head
    assert await applied(store, change(PATH, guard, head.tail, data=b"+")) == before.tail + 1


async def fails(store: Store, head: Head, guard: Guard) -> Facts:
    """The guard lets nothing of a commit through, and the commit learns the facts."""
    named = [*guard.fields, "nfirst", "nsecond"]
    before = await loaded(store, PATH, named)
    refused = change(
        PATH,
        guard,
        head.tail,
        data=b"never",
        close=True,
        state=DELETED,
        deadline=99,
        fields={"nfirst": b"never", "nsecond": None},
    )
    facts = await conflicted(store, refused)
    after = await loaded(store, PATH, named)
    assert facts is not None
    assert facts.head == after.head == before.head
    assert same_fields(facts, after.fields)
    assert after.fields == before.fields
    for kind in {*facts.counts, *after.counts, *before.counts}:
        assert counted(facts, kind) == counted(after, kind) == counted(before, kind)
    return facts


class Guards(StoreHarness):
    """Each part of a guard, holding and failing."""

    async def test_an_incarnation_must_be_the_one_that_is_there(self) -> None:
        async with self.opened() as store:
            head = await created(store, PATH)
            await holds(store, head, Guard(head.incarnation))
            await fails(store, head, Guard("another"))

    async def test_where_nothing_may_be_nothing_may_be(self) -> None:
        async with self.opened() as store:
            head = await created(store, PATH)
            await fails(store, head, Guard(None))
            again = creation(PATH, new_head())
            assert (await conflicted(store, again)) == await loaded(store, PATH)

    async def test_where_nothing_is_every_incarnation_conflicts(self) -> None:
        async with self.opened() as store:
            assert await conflicted(store, append("nowhere", new_head(), b"x")) is None
            assert await conflicted(store, removal("nowhere", new_head())) is None
            head = await created(store, PATH)
            await applied(store, removal(PATH, head))
            assert await conflicted(store, append(PATH, head, b"x")) is None
            assert await store.load(PATH) is None

    async def test_an_open_stream_must_be_open(self) -> None:
        async with self.opened() as store:
            head = await created(store, PATH)
            await holds(store, head, Guard(head.incarnation, open=True))
            await applied(store, append(PATH, head, b"", close=True))
            facts = await fails(store, head, Guard(head.incarnation, open=True))
            assert facts.head.closed
            await applied(store, change(PATH, Guard(head.incarnation), fields={"s": b"1"}))

    async def test_a_state_must_be_the_same(self) -> None:
        async with self.opened() as store:
            head = await created(store, PATH, new_head(state=FORKING))
            await holds(store, head, Guard(head.incarnation, state=FORKING))
            await fails(store, head, Guard(head.incarnation, state=LIVE))
            await applied(store, change(PATH, Guard(head.incarnation), state=LIVE))
            await holds(store, head, Guard(head.incarnation, state=LIVE))
            facts = await fails(store, head, Guard(head.incarnation, state=FORKING))
            assert facts.head.state == LIVE

    async def test_a_tail_must_be_the_same_and_zero_is_one(self) -> None:
        async with self.opened() as store:
            head = await created(store, PATH)
            await holds(store, head, Guard(head.incarnation, tail=0))
            await fails(store, head, Guard(head.incarnation, tail=0))
            await fails(store, head, Guard(head.incarnation, tail=2))
            await holds(store, head, Guard(head.incarnation, tail=1))

    async def test_a_deadline_must_be_the_same_and_zero_is_one(self) -> None:
        async with self.opened() as store:
            head = await created(store, PATH)
            await holds(store, head, Guard(head.incarnation, deadline=0))
            await fails(store, head, Guard(head.incarnation, deadline=7))
            later = change(PATH, Guard(head.incarnation, deadline=0), deadline=1_800_000_000_001)
            await applied(store, later)
            await fails(store, head, Guard(head.incarnation, deadline=0))
            await fails(store, head, Guard(head.incarnation, deadline=1_800_000_000_000))
            await holds(store, head, Guard(head.incarnation, deadline=1_800_000_000_001))

    async def test_a_field_must_have_the_very_bytes(self) -> None:
        async with self.opened() as store:
            fields = {"pone": EVERY_BYTE, "pempty": b"", "p": b"of the kind alone"}
            head = await created(store, PATH, fields=fields)
            await holds(store, head, Guard(head.incarnation, fields=fields))
            for key, value in fields.items():
                await holds(store, head, Guard(head.incarnation, fields={key: value}))
                await fails(store, head, Guard(head.incarnation, fields={key: value + b"\0"}))
                await fails(store, head, Guard(head.incarnation, fields={key: None}))
            await fails(store, head, Guard(head.incarnation, fields={"pone": EVERY_BYTE[:-1]}))
            await fails(store, head, Guard(head.incarnation, fields={**fields, "pempty": b"0"}))

    async def test_a_field_that_must_be_absent_is_not_an_empty_one(self) -> None:
        async with self.opened() as store:
            head = await created(store, PATH, fields={"pone": b"1"})
            absent = Guard(head.incarnation, fields={"ptwo": None})
            await holds(store, head, absent)
            await fails(store, head, Guard(head.incarnation, fields={"ptwo": b""}))
            await applied(store, change(PATH, absent, fields={"ptwo": b""}))
            facts = await fails(store, head, absent)
            assert facts.fields["ptwo"] == b""
            await holds(store, head, Guard(head.incarnation, fields={"ptwo": b""}))

    async def test_no_field_of_a_kind_may_be_there(self) -> None:
        async with self.opened() as store:
            head = await created(store, PATH, fields={"pone": b"1"})
            await holds(store, head, Guard(head.incarnation, none_of="f"))
            await holds(store, head, Guard(head.incarnation, none_of="fs"))
            await fails(store, head, Guard(head.incarnation, none_of="p"))
            facts = await fails(store, head, Guard(head.incarnation, none_of="fp"))
            assert counted(facts, "p") == 1
            assert counted(facts, "f") == 0
            await applied(store, change(PATH, Guard(head.incarnation), fields={"pone": None}))
            await holds(store, head, Guard(head.incarnation, none_of="fp"))

    async def test_every_part_of_a_guard_counts(self) -> None:
        async with self.opened() as store:
            head = await created(store, PATH, new_head(deadline=50), fields={"pone": b"1"})
            good = {
                "state": LIVE, "open": True, "tail": 0, "deadline": 50,
                "fields": {"pone": b"1"}, "none_of": "f",
            }  # fmt: skip
            bad = {
                "state": FORKING, "tail": 1, "deadline": 0,
                "fields": {"pone": b"1", "ptwo": b"2"}, "none_of": "p",
            }  # fmt: skip
            for part, value in bad.items():
                wrong = Guard(head.incarnation, **{**good, part: value})  # type: ignore[arg-type]
                await fails(store, head, wrong)
            await holds(store, head, Guard(head.incarnation, **good))  # type: ignore[arg-type]

    async def test_what_a_guard_does_not_name_may_change(self) -> None:
        async with self.opened() as store:
            head = await created(store, PATH, fields={"pone": b"1"})
            mine = append(PATH, head, b"mine")
            theirs = change(
                PATH, Guard(head.incarnation), data=b"theirs", deadline=5, fields={"ptwo": b"2"}
            )
            await applied(store, theirs)
            assert await applied(store, mine) == 10
            assert await content(store, PATH, head) == b"theirsmine"

    async def test_a_conflict_tells_named_fields_and_counts(self) -> None:
        async with self.opened() as store:
            fields = {"pone": b"1", "ptwo": b"2", "flink": b"3", "s": b"4"}
            head = await created(store, PATH, fields=fields)
            guard = Guard(head.incarnation, tail=9, fields={"pone": b"x", "pnone": None})
            facts = await conflicted(
                store, change(PATH, guard, fields={"flink": None, "fnone": b"new"})
            )
            assert facts is not None
            assert facts.head == head
            named = {"pone": b"1", "pnone": None, "flink": b"3", "fnone": None}
            assert same_fields(facts, named)
            assert {kind: counted(facts, kind) for kind in "pfsx"} == {
                "p": 2,
                "f": 1,
                "s": 1,
                "x": 0,
            }
