"""The table against a plain dictionary: whatever was done, it lists, counts and is due the same."""

import gc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durable_streams_core.entities import Applied, Commit, Conflicted, Delta, Guard, Head
from durable_streams_server.stores.file.write_behind import Stored
from durable_streams_server.stores.memory import Kept
from durable_streams_server.stores.table import (
    MANY,
    REMEMBERED_COMMITS,
    SMALL_CHANGE,
    Entity,
    Recent,
    Table,
)

PATHS = ["a", "a/b", "a0", "b", "ü"]

steps = st.tuples(
    st.sampled_from(PATHS),
    st.sampled_from(["create", "remove", "replace", "deadline", "fields", "list"]),
    st.integers(0, 5),
)


def deltas(verb: Any, number: Any, incarnation: Any) -> Any:
    head = Head(incarnation, b"", deadline=number)
    return {
        "create": Delta(create=head),
        "remove": Delta(remove=True),
        "replace": Delta(remove=True, create=head),
        "deadline": Delta(deadline=number),
        "fields": Delta(fields={f"p{number}": b"x", f"f{5 - number}": None}),
    }[verb]


@settings(deadline=None, derandomize=True)
@given(st.lists(steps, max_size=40))
def test_a_table_is_a_dictionary_that_also_lists_and_knows_what_is_due(history: Any) -> None:
    table = Table(Entity)
    heads: dict[str, Head] = {}
    fields: dict[str, set[str]] = {}
    for turn, (path, verb, number) in enumerate(history):
        if verb != "list" and (path in heads) == (verb != "create"):
            delta = deltas(verb, number, f"i{turn}")
            table.apply(path, delta)
            if delta.remove:
                del heads[path], fields[path]
            if delta.create is not None:
                heads[path], fields[path] = delta.create, set()
            if verb == "deadline":
                old = heads[path]
                heads[path] = Head(old.incarnation, b"", deadline=number)
            if verb == "fields":
                fields[path] = (fields[path] | {f"p{number}"}) - {f"f{5 - number}"}
        assert list(table.list("", "", 100)) == sorted(heads.items())
        assert (
            list(table.list("a", "a", 1))
            == sorted(row for row in heads.items() if row[0].startswith("a") and row[0] > "a")[:1]
        )
        due = sorted((h.deadline, p) for p, h in heads.items() if 0 < h.deadline <= 3)
        found = table.due(3, 100)
        assert sorted(found) == sorted(p for _, p in due)
        assert [heads[p].deadline for p in found] == [at for at, _ in due]
        for path_there in heads:
            facts = table.facts(path_there, [])
            assert facts is not None
            assert facts.counts.get("p", 0) == len(fields[path_there])


@settings(deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 2 * MANY)), max_size=30))
def test_an_entity_with_many_fields_is_paged_through_in_order(changes: Any) -> None:
    entity = Entity(Head("i", b""))
    fields = {f"p{number:03}": b"" for number in range(0, 4 * MANY, 2)} | {"f1": b"", "q1": b""}
    entity.set_fields(fields)
    for add, number in changes:
        entity.set_fields({f"p{number:03}": b"" if add else None})
        fields.pop(f"p{number:03}", None)
        if add:
            fields[f"p{number:03}"] = b""
        for after in ("", f"p{number:03}"):
            wanted = sorted(key for key in fields if key[0] == "p" and key > after)[:20]
            assert [key for key, _ in entity.scan("p", after, 20)] == wanted


@pytest.mark.parametrize("entity", [Entity, Kept, Stored])
def test_the_garbage_collector_does_not_look_at_entities(entity: Any) -> None:
    assert not gc.is_tracked(entity(Head("i", b"")))


def test_a_check_alone_changes_nothing() -> None:
    table = Table(Entity)
    commit = Commit("id", "a", Guard(None), Delta(create=Head("i", b"")))
    assert table.check(commit) is None
    assert table.facts("a", []) is None
    table.apply("a", commit.delta)
    assert isinstance(table.check(commit), Conflicted)


def test_bytes_ride_along_with_a_change_up_to_a_size() -> None:
    table = Table(Entity)
    table.apply("a", Delta(create=Head("i", b"")))
    for size in (SMALL_CHANGE, SMALL_CHANGE + 1):
        delta = Delta(data=b"x" * size)
        head = table.entities["a"].head
        table.apply("a", delta)
        (change,) = table.changes("a", delta, head)
        assert change.data == (delta.data if size == SMALL_CHANGE else None)
        assert change.tail == head.tail + size


def test_what_no_watcher_waits_for_is_not_told() -> None:
    table = Table(Entity)
    head = Head("i", b"")
    table.apply("a", Delta(create=head))
    for delta in (Delta(deadline=5), Delta(fields={"p": b""})):
        table.apply("a", delta)
        assert list(table.changes("a", delta, head)) == []


def test_recent_commits_are_remembered_and_old_ones_forgotten() -> None:
    recent = Recent()
    for turn in range(3 * REMEMBERED_COMMITS):
        recent.add(str(turn), Applied(turn))
        if turn >= REMEMBERED_COMMITS:
            assert recent.get(str(turn - REMEMBERED_COMMITS + 1)) is not None
    kept = [int(commit_id) for commit_id, _ in recent.items()]
    assert kept == sorted(kept)
    assert REMEMBERED_COMMITS <= len(kept) <= 2 * REMEMBERED_COMMITS
    assert recent.get("0") is None
    assert recent.get(str(kept[0])) == Applied(kept[0])
