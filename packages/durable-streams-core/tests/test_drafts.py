"""Drafts: the guard holds what was used and no more, the delta what changes and no more."""

from typing import Any

import pytest

from durable_streams_core.drafts import Draft, Growth
from durable_streams_core.entities import LIVE, Applied, Conflicted, Delta, Facts, Guard, Head
from durable_streams_core.offsets import Offset, timeline_at
from durable_streams_core.operations import (
    Append,
    Body,
    Create,
    Delete,
    Expire,
    ProducerClaim,
    Touch,
)
from durable_streams_core.streams import CreationRequest

TEXT = "text/plain"
BORN = timeline_at(1_800_000_000_000)
"""When the runner's clock begins."""


def create(incarnation: Any = "i1", **more: Any) -> Any:
    return Create(incarnation, CreationRequest(TEXT), TEXT, **more)


def append(data: Any = b"x", **more: Any) -> Any:
    return Append(Body(data), **more)


@pytest.fixture
def stream(runner: Any) -> Any:
    runner.do(create())
    return runner


def commit_of(runner: Any, *operations: Any) -> Any:
    draft, _ = runner.draft(*operations)
    return draft.commit(runner.new_id)


def test_a_plain_append_is_guarded_by_incarnation_state_and_openness_alone(stream: Any) -> None:
    commit = commit_of(stream, append(b"a"), append(b"b"))
    assert commit.guard == Guard("i1", state=LIVE, open=True)
    assert commit.delta == Delta(data=b"ab")
    assert commit.known_tail == 0


def test_a_producers_append_is_guarded_by_its_own_entry(stream: Any) -> None:
    stream.do(append(producer=ProducerClaim("p", 0, 0)))
    commit = commit_of(stream, append(producer=ProducerClaim("p", 0, 1), seq=b"1"))
    assert set(commit.guard.fields) == {"pp", "s"}
    assert commit.guard.fields["s"] is None
    assert (commit.guard.tail, commit.guard.deadline, commit.guard.none_of) == (None, None, "")


def test_only_who_insists_on_the_tail_is_guarded_by_it(stream: Any) -> None:
    stream.do(append(b"12"))
    assert commit_of(stream, append(expected=Offset(BORN, 2))).guard.tail == 2
    assert commit_of(stream, append(), append(expected=Offset(BORN, 3))).guard.tail == 2


def test_a_delete_is_guarded_by_the_absence_of_forks(stream: Any) -> None:
    commit = commit_of(stream, Delete())
    assert commit.guard == Guard("i1", state=LIVE, none_of="f")
    assert commit.delta == Delta(remove=True)


def test_an_expiry_is_guarded_by_the_deadline_it_saw(runner: Any) -> None:
    runner.do(create(ttl=1))
    runner.now += 1100
    commit = commit_of(runner, Expire())
    assert commit.guard.deadline == runner.now
    assert commit_of(runner, create("i2")).guard.deadline == runner.now


def test_a_creation_is_guarded_by_nothing_being_there(runner: Any) -> None:
    commit = commit_of(runner, create(start=9, body=Body(b"12")), append())
    assert commit.guard == Guard(None)
    assert commit.delta.create.tail == commit.known_tail == 9
    assert commit.delta.data == b"12x"


def test_what_changes_nothing_is_no_commit(stream: Any) -> None:
    stream.do(append(close=True))
    for operation in (append(), append(b"", close=True), create("i2", closed=True), Touch()):
        assert not stream.draft(operation)[0].changes


def test_delete_and_create_in_one_draft_are_one_swap(stream: Any) -> None:
    stream.do(append(b"old"))
    draft, answers = stream.draft(append(b"!"), Delete(), create("i2"), append(b"new"))
    assert [type(answer).__name__ for answer in answers] == [
        "Appended",
        "Removed",
        "Created",
        "Appended",
    ]
    assert draft.removed.incarnation == "i1"
    commit = draft.commit(stream.new_id)
    assert commit.guard == Guard("i1", state=LIVE, open=True, tail=3, none_of="f")
    assert commit.delta.remove
    assert commit.delta.data == b"new"
    assert stream.commit(draft).tail == 3
    assert stream.data() == b"new"


def test_positions_told_before_a_removal_in_the_same_draft_are_right(stream: Any) -> None:
    draft, (appended, _) = stream.draft(append(b"12"), Delete())
    stream.do(append(b"x"))
    assert isinstance(stream.commit(draft), Conflicted)
    appended, _ = stream.do(append(b"12"), Delete())
    assert appended.tail == 3


def test_what_was_created_and_deleted_in_one_draft_never_was(runner: Any) -> None:
    draft, _ = runner.draft(create(), append(), Delete())
    assert not draft.changes
    assert draft.removed is None


def test_delete_create_and_delete_again_is_one_removal(stream: Any) -> None:
    draft, _ = stream.draft(Delete(), create("i2"), append(), Delete())
    assert stream.commit(draft) == Applied(0)
    assert stream.head() is None


def test_a_swap_on_a_stream_closed_meanwhile_conflicts_if_it_began_with_an_append(
    stream: Any,
) -> None:
    draft, _ = stream.draft(append(), Delete(), create("i2"))
    stream.do(append(b"", close=True))
    assert isinstance(stream.commit(draft), Conflicted)


def test_later_operations_see_what_earlier_ones_did(stream: Any) -> None:
    one = append(b"1", producer=ProducerClaim("p", 0, 0), seq=b"1")
    answers = stream.do(one, one, append(close=True), append(b"late"))
    assert [getattr(answer, "duplicate", "closed") for answer in answers] == [
        False,
        True,
        False,
        "closed",
    ]
    assert stream.data() == b"1x"


def test_facts_after_are_what_the_store_has_then(stream: Any) -> None:
    keys = ("pp", "pq", "s")
    for operations in (
        (append(b"1", producer=ProducerClaim("p", 0, 0), seq=b"1"),),
        (append(b"2", producer=ProducerClaim("p", 0, 1)), append(b"3", close=True)),
        (Delete(), create("i2", ttl=5), append(b"4", seq=b"1")),
        (Touch(),),
    ):
        draft, _ = stream.draft(*operations)
        stream.commit(draft)
        after, stored = draft.facts_after(draft.tail), stream.facts(*keys)
        assert after.head == stored.head
        assert after.fields.items() <= stored.fields.items()
        assert {k: n for k, n in after.counts.items() if n} == dict(stored.counts)
    draft, _ = stream.draft(Delete())
    assert draft.facts_after(0) is None


def test_facts_after_count_what_was_removed() -> None:
    facts = Facts(Head("i", b""), {"p1": b"", "p2": None}, {"p": 1, "f": 2})
    draft = Draft("path", facts)
    draft.set_field("p1", None)
    draft.set_field("p2", b"")
    draft.set_field("p2", b"again")
    draft.set_field("f1", b"")
    assert draft.facts_after(0).counts == {"p": 1, "f": 3}


def test_removing_what_is_not_there_changes_nothing() -> None:
    draft = Draft("path", None)
    draft.remove()
    assert not draft.changes
    assert draft.removed is None


def test_a_copy_goes_on_alone(stream: Any) -> None:
    draft, _ = stream.draft(append(b"one", seq=b"1"))
    trial = draft.copy()
    append(b"two", seq=b"2").decide(trial, stream.now)
    assert (draft.tail, trial.tail) == (3, 6)
    kept, tried = draft.commit(stream.new_id).delta, trial.commit(stream.new_id).delta
    assert (kept.data, tried.data) == (b"one", b"onetwo")
    assert kept.fields != tried.fields


def test_growth_is_what_the_store_keeps_more() -> None:
    stored = Facts(Head("i", b"", 100, 130))
    assert Draft("a", None).growth == Growth(0, 0)
    draft = Draft("a", stored)
    assert draft.growth == Growth(0, 0)
    draft.append(b"12345")
    assert draft.growth == Growth(5, 0)
    draft.remove()
    assert draft.growth == Growth(-30, -1)
    draft.create(Head("j", b"", 50, 50))
    draft.append(b"1")
    assert draft.growth == Growth(-29, 0)
    fresh = Draft("a", None)
    fresh.create(Head("j", b"", 50, 50))
    assert fresh.growth == Growth(0, 1)
