"""Deltas and batches: what a commit changes, and that each stands for itself.

That a batch is one durable write, and durable before it returns, no interface shows: a store proves
that with crashes of its own.
"""

from durable_streams_core.entities import (
    DELETED,
    LIVE,
    NO_FIELDS,
    Applied,
    Conflicted,
    Guard,
    Head,
)
from durable_streams_core.testing.harness import (
    EVERY_BYTE,
    PATHS,
    StoreHarness,
    append,
    applied,
    change,
    content,
    counted,
    created,
    creation,
    loaded,
    new_head,
    removal,
)

PATH = "changed"
MANY = 20_000


class Commits(StoreHarness):
    """Each part of a delta, alone and together; batches."""

    async def test_nothing_is_where_nothing_was_created(self) -> None:
        async with self.opened() as store:
            assert await store.load(PATH) is None
            assert await store.load(PATH, ["pone"]) is None

    async def test_what_was_created_is_there(self) -> None:
        async with self.opened() as store:
            head = new_head(birth=EVERY_BYTE, deadline=1_800_000_000_001)
            assert await applied(store, creation(PATH, head)) == 0
            facts = await loaded(store, PATH)
            assert facts.head == head
            assert facts.fields == NO_FIELDS
            assert not any(facts.counts.values())

    async def test_creation_takes_data_fields_and_closing_in_one(self) -> None:
        async with self.opened() as store:
            new = new_head(birth=b"")
            full = creation(PATH, new, data=EVERY_BYTE, close=True, fields={"s": b"1"})
            assert await applied(store, full) == 256
            facts = await loaded(store, PATH, ["s", "t"])
            assert facts.head == Head(new.incarnation, b"", 0, 256, True)
            assert facts.fields == {"s": b"1", "t": None}
            assert await content(store, PATH, new) == EVERY_BYTE

    async def test_data_goes_to_the_tail(self) -> None:
        async with self.opened() as store:
            head = await created(store, PATH)
            assert await applied(store, append(PATH, head, b"one")) == 3
            assert await applied(store, append(PATH, head, b"three")) == 8
            assert await applied(store, append(PATH, head, b"")) == 8
            assert (await loaded(store, PATH)).head == Head(head.incarnation, b"birth", 0, 8)
            assert await content(store, PATH, head) == b"onethree"

    async def test_every_part_of_a_delta_alone(self) -> None:
        async with self.opened() as store:
            head = await created(store, PATH, data=b"data")
            guard = Guard(head.incarnation)
            for part, value in (("deadline", 77), ("state", DELETED), ("deadline", 0)):
                assert await applied(store, change(PATH, guard, 4, **{part: value})) == 4
                found = (await loaded(store, PATH)).head
                assert getattr(found, part) == value
            assert await applied(store, change(PATH, guard, 4, fields={"s": b"1"})) == 4
            assert await applied(store, change(PATH, guard, 4, close=True)) == 4
            found = (await loaded(store, PATH)).head
            assert found == Head(head.incarnation, b"birth", 0, 4, True, DELETED, 0)
            assert await content(store, PATH, head) == b"data"

    async def test_all_parts_of_a_delta_at_once(self) -> None:
        async with self.opened() as store:
            head = await created(store, PATH, data=b"a", fields={"pold": b"1", "pdrop": b"2"})
            whole = change(
                PATH,
                Guard(head.incarnation),
                1,
                data=b"bc",
                close=True,
                state=DELETED,
                deadline=3,
                fields={"pold": b"changed", "pdrop": None, "pnew": b"", "fnew": EVERY_BYTE},
            )
            assert await applied(store, whole) == 3
            facts = await loaded(store, PATH, ["pold", "pdrop", "pnew", "fnew"])
            assert facts.head == Head(head.incarnation, b"birth", 0, 3, True, DELETED, 3)
            assert facts.fields == {
                "pold": b"changed", "pdrop": None, "pnew": b"", "fnew": EVERY_BYTE,
            }  # fmt: skip
            assert (counted(facts, "p"), counted(facts, "f")) == (2, 1)

    async def test_fields_are_counted_by_kind(self) -> None:
        async with self.opened() as store:
            head = await created(store, PATH, fields={"p1": b"", "p2": b"", "f1": b""})
            steps: list[tuple[dict[str, bytes | None], int, int]] = [
                ({"p1": b"again"}, 2, 1),
                ({"p3": b"new", "p1": None}, 2, 1),
                ({"p1": None, "never": None}, 2, 1),
                ({"f1": None, "f2": None}, 2, 0),
                ({"p2": None, "p3": None}, 0, 0),
                ({"p2": b"back"}, 1, 0),
            ]
            for fields, producers, links in steps:
                await applied(store, change(PATH, Guard(head.incarnation), fields=fields))
                facts = await loaded(store, PATH, list(fields))
                assert facts.fields == fields
                assert (counted(facts, "p"), counted(facts, "f")) == (producers, links)
                assert counted(facts, "n") == 0

    async def test_keys_of_fields_are_any_text(self) -> None:
        async with self.opened() as store:
            keys = ["p", "p ", "p\n\r\t", "p\0", "p:{}*[]%", *("f" + path for path in PATHS)]
            fields = {key: key.encode() for key in keys}
            head = await created(store, PATH, fields=fields)
            facts = await loaded(store, PATH, keys)
            assert facts.fields == fields
            await applied(store, change(PATH, Guard(head.incarnation, fields=fields)))

    async def test_loading_tells_only_fields_that_were_asked_for(self) -> None:
        async with self.opened() as store:
            await created(store, PATH, fields={"p1": b"1", "p2": b"2"})
            assert (await loaded(store, PATH)).fields == NO_FIELDS
            assert (await loaded(store, PATH, ["p2", "p3"])).fields == {"p2": b"2", "p3": None}

    async def test_removal_leaves_nothing(self) -> None:
        async with self.opened() as store:
            head = await created(store, PATH, data=b"old", fields={"p1": b"1", "f1": b"1"})
            assert await applied(store, removal(PATH, head)) == 0
            assert await store.load(PATH, ["p1"]) is None
            assert await store.read(PATH, head.incarnation, 0, 10) is None
            assert not await store.scan(PATH, head.incarnation, "p", "", 10)

    async def test_a_path_created_again_starts_afresh(self) -> None:
        async with self.opened() as store:
            old = new_head(deadline=9)
            old = await created(store, PATH, old, data=b"old", close=True, fields={"p1": b"1"})
            await applied(store, removal(PATH, old))
            new = await created(store, PATH, data=b"n")
            facts = await loaded(store, PATH, ["p1"])
            assert facts.head == Head(new.incarnation, b"birth", 0, 1)
            assert facts.fields == {"p1": None}
            assert not any(facts.counts.values())
            assert await content(store, PATH, new) == b"n"
            assert await store.read(PATH, old.incarnation, 0, 10) is None

    async def test_removal_and_creation_in_one_commit(self) -> None:
        async with self.opened() as store:
            fields = {"p1": b"1", "f1": b"1"}
            old = await created(store, PATH, data=b"old", close=True, fields=fields)
            new = new_head(start=70)
            swap = change(
                PATH, Guard(old.incarnation), 70,
                remove=True, create=new, data=b"new", fields={"p2": b"2"},
            )  # fmt: skip
            assert await applied(store, swap) == 73
            facts = await loaded(store, PATH, ["p1", "p2"])
            assert facts.head == Head(new.incarnation, b"birth", 70, 73)
            assert facts.fields == {"p1": None, "p2": b"2"}
            assert (counted(facts, "p"), counted(facts, "f")) == (1, 0)
            assert await content(store, PATH, new) == b"new"
            assert await store.read(PATH, old.incarnation, 0, 10) is None

    async def test_entries_of_a_batch_stand_for_themselves(self) -> None:
        async with self.opened() as store:
            heads = {path: new_head() for path in PATHS}
            await store.commit([creation(path, head) for path, head in heads.items()])
            batch = []
            for path, head in heads.items():
                batch.append(append(path, head, path.encode()))
                batch.append(append(path, new_head(), b"never"))
            outcomes = await store.commit(batch)
            assert len(outcomes) == len(batch)
            for (path, head), done, not_done in zip(
                heads.items(), outcomes[::2], outcomes[1::2], strict=True
            ):
                assert done == Applied(len(path.encode()))
                assert isinstance(not_done, Conflicted)
                assert await content(store, path, head) == path.encode()

    async def test_entries_of_a_batch_come_in_order_on_one_path_too(self) -> None:
        async with self.opened() as store:
            head = new_head()
            one, after = Guard(head.incarnation, tail=1), Guard(head.incarnation, tail=9)
            outcomes = await store.commit(
                [
                    append(PATH, head, b"too early"),
                    creation(PATH, head),
                    append(PATH, head, b"1"),
                    change(PATH, one, data=b"22", fields={"s": b"2"}),
                    change(PATH, after, data=b"never", fields={"s": b"never"}),
                    append(PATH, head, b"", close=True),
                    append(PATH, head, b"too late"),
                    removal(PATH, head),
                    removal(PATH, head),
                ]
            )
            early, *done, guarded, closed, late, gone, twice = outcomes
            assert early == Conflicted(None)
            assert done == [Applied(0), Applied(1), Applied(3)]
            assert isinstance(guarded, Conflicted)
            assert guarded.facts is not None
            assert guarded.facts.head.tail == 3
            assert guarded.facts.fields["s"] == b"2"
            assert closed == Applied(3)
            assert isinstance(late, Conflicted)
            assert late.facts is not None
            assert late.facts.head.closed
            assert gone == Applied(0)
            assert twice == Conflicted(None)
            assert await store.load(PATH) is None

    async def test_an_empty_batch_changes_nothing(self) -> None:
        async with self.opened() as store:
            assert list(await store.commit([])) == []

    async def test_thousands_of_fields_on_one_entity(self) -> None:
        async with self.opened() as store:
            fields: dict[str, bytes | None] = {f"p{n}": b"%d" % n for n in range(MANY)}
            head = await created(store, PATH, fields=fields)
            asked = [f"p{n}" for n in range(0, MANY, 999)]
            facts = await loaded(store, PATH, asked)
            assert facts.fields == {key: fields[key] for key in asked}
            assert counted(facts, "p") == MANY
            await applied(store, append(PATH, head, b"x", fields={"p1": b"", "q1": b""}))
            dropped = dict.fromkeys(fields)
            await applied(store, change(PATH, Guard(head.incarnation), fields=dropped))
            facts = await loaded(store, PATH, asked)
            assert facts.fields == dict.fromkeys(asked)
            assert counted(facts, "p") == 0
            assert counted(facts, "q") == 1

    async def test_states_do_not_hinder_a_commit_that_does_not_ask(self) -> None:
        async with self.opened() as store:
            head = await created(store, PATH, new_head(state=DELETED))
            anyway = change(PATH, Guard(head.incarnation), state=LIVE, data=b"x")
            assert await applied(store, anyway) == 1
