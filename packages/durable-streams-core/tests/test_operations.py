"""Every rule that changes a stream: what each operation answers, refuses and changes."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from durable_streams_core.content import Kind
from durable_streams_core.drafts import Draft
from durable_streams_core.entities import DELETED, FORKING, LIVE, Delta, Facts, Head
from durable_streams_core.errors import (
    Conflict,
    Fenced,
    Gone,
    InvalidRequest,
    NotFound,
    PreconditionFailed,
    ProtocolError,
    SequenceGap,
    StreamClosed,
    TailMoved,
)
from durable_streams_core.offsets import Offset, later_timeline, timeline_at
from durable_streams_core.operations import (
    RECHECK_MILLISECONDS,
    Append,
    Appended,
    Body,
    Confirm,
    Create,
    Delete,
    Expire,
    ForgetProducers,
    Hold,
    Link,
    ProducerClaim,
    Reap,
    Removed,
    Touch,
    Unconfirmed,
    Undo,
    Unlink,
)
from durable_streams_core.streams import (
    Birth,
    CreationRequest,
    ForkLink,
    Origin,
    ProducerEntry,
    birth_of,
    decode_link,
    encode,
    link_key,
    linked_fork,
)

TEXT = "text/plain"
BORN = timeline_at(1_800_000_000_000)
"""When the runner's clock begins."""
NEXT = later_timeline(BORN, BORN)
"""The timeline of the second stream that the store creates."""
JSON = "application/json"


def create(incarnation: Any = "i1", content_type: Any = TEXT, body: Any = b"", **more: Any) -> Any:
    requested = {key: more[key] for key in ("ttl", "expires_at") if key in more}
    return Create(
        incarnation,
        CreationRequest(content_type, **requested),
        content_type,
        body=Body(body),
        **more,
    )


def append(data: Any = b"x", **more: Any) -> Any:
    return Append(Body(data), **more)


def produce(epoch: Any, number: Any, /, data: Any = b"x", name: Any = "p", **more: Any) -> Any:
    return append(data, producer=ProducerClaim(name, epoch, number), **more)


def at(position: Any) -> Any:
    """An offset of a stream that was created when the runner's clock began."""
    return Offset(BORN, position)


def appended(*parts: Any, timeline: Any = BORN) -> Any:
    """The answer of such a stream."""
    return replace(Appended(*parts), timeline=timeline)


CLOSE = Append(Body(b""), close=True)


def test_a_conditional_deletion_needs_the_very_stream_and_its_tail(stream: Any) -> None:
    stream.do(append(b"x"))
    for wanted in (Delete("i0"), Delete(tail=at(0)), Delete("i1", Offset(timeline_at(1), 1))):
        raised(stream, wanted, PreconditionFailed, "precondition-failed")
    assert stream.do(Delete("i1", at(1))).head is not None


def test_an_existing_only_creation_ensures_and_creates_nothing(runner: Any) -> None:
    only = replace(create(), existing_only=True)
    raised(runner, only, PreconditionFailed)
    runner.do(create())
    assert not runner.do(only).new


@pytest.fixture
def stream(runner: Any) -> Any:
    """A runner with an open text stream."""
    assert runner.do(create()).new
    return runner


def raised(runner: Any, operation: Any, error: Any, code: Any = None) -> Any:
    """The error that an operation ends in, which changes nothing."""
    before = runner.facts(*operation.fields)
    answer = runner.do(operation)
    assert type(answer) is error
    assert code in (None, answer.code)
    assert runner.facts(*operation.fields) == before
    return answer


# Appending (§5.2)


def test_an_append_adds_to_the_tail_and_tells_it(stream: Any) -> None:
    assert stream.do(append(b"one")) == appended(3, False)
    assert stream.do(append(b"three", content_type="TEXT/plain")) == appended(8, False)
    assert stream.data() == b"onethree"


def test_an_append_to_nothing_is_not_found(runner: Any) -> None:
    raised(runner, append(), NotFound, "not-found")


def test_an_append_needs_data(stream: Any) -> None:
    raised(stream, append(b""), InvalidRequest, "empty-body")


def test_an_append_of_another_type_is_refused(stream: Any) -> None:
    raised(stream, append(content_type=JSON), Conflict, "content-type-mismatch")
    raised(stream, append(content_type="nonsense"), InvalidRequest, "invalid-content-type")


def test_json_is_flattened_one_level(runner: Any) -> None:
    runner.do(create(content_type=JSON, body=b"[]"))
    assert runner.do(append(b"[1,[2]]")) == appended(8, False)
    assert runner.data() == b"1,\n[2],\n"
    raised(runner, append(b"[]"), InvalidRequest, "empty-array")
    raised(runner, append(b"{"), InvalidRequest, "invalid-json")


def test_a_value_is_one_message_even_if_it_is_an_array(runner: Any) -> None:
    runner.do(create(content_type=JSON))
    runner.do(Append(Body(b"[1,2]", value=True)))
    assert runner.data() == b"[1,2],\n"


def test_only_json_streams_take_values(stream: Any) -> None:
    raised(stream, Append(Body(b"1", value=True)), InvalidRequest, "not-a-json-stream")


def test_a_body_is_worked_out_once() -> None:
    body = Body(b"[1]")
    assert body.stored(Kind.JSON) is body.stored(Kind.JSON)
    assert body.stored(Kind.TEXT) == b"[1]"
    assert body.stored(Kind.JSON) == b"1,\n"


# Closing (§5.3)


def test_closing_is_final_and_idempotent(stream: Any) -> None:
    stream.do(append(b"data"))
    assert stream.do(CLOSE) == appended(4, True)
    assert stream.do(CLOSE) == appended(4, True)
    assert stream.head().closed


def test_a_last_append_closes_in_the_same_commit(stream: Any) -> None:
    assert stream.do(append(b"last", close=True)) == appended(4, True)
    assert (stream.head().tail, stream.head().closed) == (4, True)


@pytest.mark.parametrize(
    "late", [append(), append(close=True), append(b""), append(content_type=JSON), produce(0, 0),
             append(seq=b"1"), append(expected=at(9)), produce(0, 0, b"", close=True)],
)  # fmt: skip
def test_a_closed_stream_says_so_before_anything_else(stream: Any, late: Any) -> None:
    stream.do(append(b"data", close=True))
    error = raised(stream, late, StreamClosed, "stream-closed")
    assert error.tail.position == 4


# Stream-Seq (§5.2)


def test_stream_seq_must_rise_compared_as_bytes(stream: Any) -> None:
    stream.do(append(seq=b"09"))
    stream.do(append(seq=b"1"))
    stream.do(append(seq=b"10"))
    for seq in (b"10", b"1", b"09", b""):
        raised(stream, append(seq=seq), Conflict, "sequence-regression")
    stream.do(append())
    assert stream.do(append(seq="ü".encode())) == appended(5, False)


# If-Match, an extension


def test_an_append_may_insist_on_the_tail(stream: Any) -> None:
    assert stream.do(append(b"12", expected=at(0))) == appended(2, False)
    assert raised(stream, append(expected=at(0)), TailMoved).offset.endswith("2")
    assert stream.do(append(expected=at(2))) == appended(3, False)
    assert stream.do(append(expected=at(3)), append(expected=at(4)))[1] == appended(5, False)


# Idempotent producers (§5.2.1)


def test_a_producer_begins_at_zero_in_any_epoch(stream: Any) -> None:
    assert stream.do(produce(7, 0)) == appended(1, False, False, 7, 0)
    assert stream.do(produce(0, 0, name="other")) == appended(2, False, False, 0, 0)
    gap = raised(stream, produce(0, 1, name="third"), SequenceGap)
    assert (gap.expected, gap.received) == (0, 1)


def test_a_batch_stored_before_is_answered_so_and_not_stored_again(stream: Any) -> None:
    stream.do(produce(0, 0, b"a"))
    stream.do(produce(0, 1, b"b"))
    for seq in (0, 1):
        assert stream.do(produce(0, seq, b"again")) == appended(2, False, True, 0, 1)
    assert stream.data() == b"ab"


def test_a_producer_that_skips_a_number_learns_which(stream: Any) -> None:
    stream.do(produce(0, 0))
    gap = raised(stream, produce(0, 2), SequenceGap)
    assert (gap.expected, gap.received) == (1, 2)


def test_a_new_epoch_fences_the_old_one(stream: Any) -> None:
    stream.do(produce(0, 0))
    raised(stream, produce(1, 1), InvalidRequest, "epoch-starts-at-zero")
    assert stream.do(produce(1, 0)) == appended(2, False, False, 1, 0)
    assert raised(stream, produce(0, 1), Fenced).epoch == 1


def test_a_producer_that_closed_learns_again_that_it_did(stream: Any) -> None:
    stream.do(produce(0, 0, b"a"))
    closed = stream.do(produce(0, 1, b"b", close=True))
    assert closed == appended(2, True, False, 0, 1)
    for seq in (0, 1):
        assert stream.do(produce(0, seq, b"b", close=True)) == appended(2, True, True, 0, 1)
    for late in (
        produce(0, 2),
        produce(1, 0),
        produce(1, 5),
        produce(0, 9),
        produce(3, 4, name="x"),
    ):
        raised(stream, late, StreamClosed)
    stream.do(produce(0, 0))


def test_an_old_epoch_is_fenced_on_a_closed_stream_too(stream: Any) -> None:
    stream.do(produce(3, 0, close=True))
    raised(stream, produce(2, 0), Fenced)


def test_a_producer_may_close_without_data(stream: Any) -> None:
    assert stream.do(produce(0, 0, b"", close=True)) == appended(0, True, False, 0, 0)
    assert stream.do(produce(0, 0, b"", close=True)) == appended(0, True, True, 0, 0)


def test_producer_state_is_written_in_the_same_commit_as_its_data(stream: Any) -> None:
    draft, _ = stream.draft(produce(0, 0, b"data", seq=b"5", close=True))
    delta = draft.commit(stream.new_id).delta
    assert delta.data == b"data"
    assert delta.close
    assert set(delta.fields) == {"pp", "s"}


def test_a_refused_append_leaves_its_producer_where_it_was(stream: Any) -> None:
    stream.do(produce(0, 0, seq=b"5"))
    for bad in (produce(0, 1, seq=b"5"), produce(0, 1, b""), produce(0, 1, content_type=JSON),
                produce(0, 1, expected=at(0))):  # fmt: skip
        assert isinstance(stream.do(bad), Exception)
    assert stream.do(produce(0, 1, seq=b"6")) == appended(2, False, False, 0, 1)


def test_idle_producers_are_forgotten_unless_they_were_used_since(stream: Any) -> None:
    stream.do(produce(0, 0), produce(0, 0, name="q"))
    seen = stream.facts("pp", "pq").fields
    stream.now += 1
    stream.do(produce(0, 1, name="q"))
    stream.do(ForgetProducers("other", list(seen.items())))
    assert None not in stream.facts("pp", "pq").fields.values()
    stream.do(ForgetProducers("i1", list(seen.items())))
    fields = stream.facts("pp", "pq").fields
    assert fields["pp"] is None
    assert fields["pq"] is not None
    stream.do(Delete())
    stream.do(ForgetProducers("i1", list(seen.items())))


# Creating (§5.1)


def test_a_new_stream_is_empty_open_and_lives_for_ever(runner: Any) -> None:
    created = runner.do(create())
    assert (created.new, created.tail, created.closed) == (True, 0, False)
    assert created.head == runner.head()
    assert (runner.head().state, runner.head().deadline) == (LIVE, 0)
    assert birth_of(runner.head()) == Birth(TEXT, runner.now, CreationRequest(TEXT))


def test_a_stream_may_be_created_with_data_and_closed(runner: Any) -> None:
    created = runner.do(create(body=b"all", closed=True))
    assert (created.new, created.tail, created.closed) == (True, 3, True)
    assert (runner.data(), runner.head().closed) == (b"all", True)


def test_a_creation_with_bad_content_creates_nothing(runner: Any) -> None:
    raised(runner, create(content_type=JSON, body=b"{"), InvalidRequest, "invalid-json")
    raised(runner, create(content_type="nonsense"), InvalidRequest, "invalid-content-type")
    assert runner.head() is None


def test_the_same_creation_again_finds_what_is_there(runner: Any) -> None:
    runner.do(create(ttl=60, body=b"first"))
    head = runner.head()
    again = runner.do(create("i2", "Text/PLAIN; charset=utf-8", b"ignored", ttl=60))
    assert (again.new, again.head, again.tail, again.closed) == (False, head, 5, False)
    assert runner.head() == head


def test_no_type_asked_is_the_default_one(runner: Any) -> None:
    octets = "application/octet-stream"
    runner.do(Create("i1", CreationRequest(), octets))
    assert not runner.do(Create("i2", CreationRequest(octets), octets)).new
    assert not runner.do(Create("i2", CreationRequest(), octets)).new


@pytest.mark.parametrize(
    "other",
    [create("i2", JSON, ttl=60), create("i2"), create("i2", ttl=61), create("i2", ttl=60, closed=True),
     create("i2", expires_at=4_000_000_000_000), Create("i2", CreationRequest(ttl=60), "x/y", 60),
     Create("i2", CreationRequest(TEXT, 60, forked_from="src"), TEXT, 60, origin=Origin("src", "s")),
     Create("i2", CreationRequest(TEXT, 60, fork_offset=0), TEXT, 60),
     Create("i2", CreationRequest(TEXT, 60, fork_sub_offset=1), TEXT, 60)],
)  # fmt: skip
def test_another_creation_conflicts(runner: Any, other: Any) -> None:
    runner.do(create(ttl=60))
    raised(runner, other, Conflict, "configuration-mismatch")


def test_a_creation_compares_closure_with_what_is_so_now(runner: Any) -> None:
    runner.do(create())
    runner.do(CLOSE)
    raised(runner, create("i2"), Conflict, "configuration-mismatch")
    assert runner.do(create("i2", closed=True)).closed


def test_the_creation_as_it_was_asked_is_what_counts_and_not_what_took_effect(runner: Any) -> None:
    requested = CreationRequest(None, None, None, "src", 3)
    fork = Create("i1", requested, TEXT, 60, None, False, Body(b""), Origin("src", "s1"), 3)
    runner.do(fork)
    runner.do(Confirm("i1"))
    assert not runner.do(
        Create("i2", requested, TEXT, 99, None, origin=Origin("src", "s2"), start=3)
    ).new


# Lives (§5.1)


def test_a_sliding_life_is_renewed_by_writes_and_touches(runner: Any) -> None:
    runner.do(create(ttl=10))
    for operation in (append(), Touch(), append(), Touch()):
        runner.now += 9_999
        runner.do(operation)
    runner.now += 11_000
    raised(runner, append(), NotFound)


def test_a_life_is_renewed_only_when_a_tenth_of_it_has_passed(runner: Any) -> None:
    runner.do(create(ttl=10))
    runner.now += 1000
    assert not runner.draft(Touch())[0].changes
    runner.now += 1
    assert runner.draft(Touch())[0].changes


def test_reads_of_what_needs_no_renewal_write_nothing(runner: Any) -> None:
    assert not runner.draft(Touch())[0].changes
    runner.do(create())
    assert not runner.draft(Touch())[0].changes
    runner.do(Delete())
    runner.do(create(expires_at=runner.now + 5))
    assert not runner.draft(Touch())[0].changes
    runner.now += 5
    assert not runner.draft(Touch())[0].changes


def test_a_fixed_end_is_not_moved_by_use(runner: Any) -> None:
    runner.do(create(expires_at=runner.now + 5000))
    runner.now += 4999
    runner.do(append())
    runner.now += 1
    raised(runner, append(), NotFound)
    raised(runner, Delete(), NotFound)


def test_expired_streams_can_be_created_again_and_begin_afresh(runner: Any) -> None:
    runner.do(create(ttl=10), produce(0, 0, b"old", seq=b"9", close=True))
    runner.now += 11_000
    created = runner.do(create("i2", body=b"new"))
    assert created.new
    facts = runner.facts("pp", "s")
    assert facts.fields == {"pp": None, "s": None}
    assert (facts.head.incarnation, facts.head.closed, runner.data()) == ("i2", False, b"new")


def test_an_expired_stream_that_cannot_be_created_again_is_swept_all_the_same(runner: Any) -> None:
    runner.do(create(ttl=10))
    runner.now += 11_000
    assert isinstance(runner.do(create("i2", JSON, b"{")), InvalidRequest)
    assert runner.head() is None


def test_only_a_life_that_is_over_expires(runner: Any) -> None:
    assert runner.do(Expire()) == Removed(None)
    runner.do(create(ttl=10))
    head = runner.head()
    runner.now += 10_999
    assert runner.do(Expire()) == Removed(None)
    runner.now += 1
    assert runner.do(Expire()) == Removed(head)
    assert runner.head() is None


def test_expiry_gives_way_to_a_renewal_that_it_did_not_see(runner: Any) -> None:
    runner.do(create(ttl=10))
    runner.now += 10_999
    renew, _ = runner.draft(Touch())
    runner.now += 1
    expire, _ = runner.draft(Expire())
    runner.commit(renew)
    assert type(runner.commit(expire)).__name__ == "Conflicted"
    assert runner.do(append()) == appended(1, False)


def test_a_renewal_in_the_same_draft_counts(runner: Any) -> None:
    runner.do(create(ttl=10))
    runner.now += 10_999
    draft, _ = runner.draft(append(b"kept"))
    runner.now += 1
    assert runner.answer(Expire(), draft) == Removed(None)
    assert runner.answer(append(b"!"), draft) == appended(5, False)
    assert not runner.answer(create("i2", ttl=10), draft).new


def test_a_head_alone_tells_whether_a_life_is_over(runner: Any) -> None:
    runner.do(create(expires_at=runner.now + 5))
    head = runner.head()
    assert head.live_at(runner.now + 4)
    assert not head.live_at(runner.now + 5)
    for state in (FORKING, DELETED):
        assert not replace(head, state=state).live_at(runner.now + 4)
    assert replace(head, deadline=0).live_at(runner.now + 5)


# Deleting (§5.4)


def test_a_deleted_stream_is_gone_with_all_it_held(stream: Any) -> None:
    head = stream.head()
    assert stream.do(Delete()) == Removed(head)
    raised(stream, Delete(), NotFound)
    assert stream.do(create("i2")).new


# Forks (§4.2)


def fork(
    path: Any = "fork",
    incarnation: Any = "f1",
    source: Any = "path",
    source_incarnation: Any = "i1",
    start: Any = 2,
    **more: Any,
) -> Any:
    requested = CreationRequest(forked_from=source, fork_offset=start)
    origin = Origin(source, source_incarnation)
    return Create(incarnation, requested, TEXT, origin=origin, start=start, **more)


def link(incarnation: Any = "f1", source: Any = "i1", path: Any = "fork", position: Any = 2) -> Any:
    return Link(path, source, ForkLink(incarnation, position))


@pytest.fixture
def source(stream: Any) -> Any:
    """A runner with a stream of four bytes and a pending link of a fork at position 2."""
    stream.do(append(b"data"))
    assert stream.do(link()) is True
    return stream


@pytest.fixture
def forked(source: Any) -> Any:
    """A runner with that fork confirmed."""
    source.do(fork(), path="fork")
    assert source.do(Hold("fork", "f1")) is True
    assert source.do(Confirm("f1"), path="fork") is True
    return source


def test_a_link_names_its_fork_whatever_the_path() -> None:
    assert linked_fork(link_key("a:b/c", "f1")) == "a:b/c"


def test_a_fork_begins_where_it_leaves_its_source(forked: Any) -> None:
    head = forked.head("fork")
    assert (head.start, head.tail, head.state, head.closed) == (2, 2, LIVE, False)
    assert forked.do(append(b"own"), path="fork") == appended(5, False, timeline=NEXT)
    assert forked.data("fork") == b"own"


def test_a_link_is_pending_and_then_held(source: Any) -> None:
    key = link_key("fork", "f1")
    assert decode_link(source.facts(key).fields[key]) == ForkLink("f1", 2, False)
    assert source.do(Hold("fork", "f1"))
    assert source.do(Hold("fork", "f1"))
    assert decode_link(source.facts(key).fields[key]) == ForkLink("f1", 2, True)


def test_a_link_is_only_for_the_source_that_was_looked_at(stream: Any) -> None:
    assert stream.do(link(source="i0")) is False
    stream.do(Delete())
    raised(stream, link(), NotFound)


def test_an_unconfirmed_fork_is_served_to_nobody(source: Any) -> None:
    source.do(fork(), path="fork")
    assert source.head("fork").state == FORKING
    for operation in (append(), CLOSE, Delete(), link(), create(), fork()):
        assert type(source.do(operation, path="fork")) is Unconfirmed
    assert source.do(Touch(), path="fork") is None
    source.now += RECHECK_MILLISECONDS
    assert source.do(Expire(), path="fork") == Removed(None)
    assert type(source.do(create(), path="fork")) is Unconfirmed


def test_an_unconfirmed_fork_is_looked_at_again_soon(source: Any) -> None:
    source.do(fork(), path="fork")
    assert source.head("fork").deadline == source.now + RECHECK_MILLISECONDS


def test_a_fork_whose_link_was_dropped_is_undone(source: Any) -> None:
    source.do(fork(), path="fork")
    assert source.do(Unlink("fork", "f1")) is False
    assert source.do(Hold("fork", "f1")) is False
    assert source.do(Undo("other"), path="fork") is False
    assert source.do(Undo("f1"), path="fork") is True
    assert source.head("fork") is None
    assert source.do(Undo("f1"), path="fork") is False
    assert source.do(Confirm("f1"), path="fork") is False


def test_a_confirmed_fork_can_not_be_undone(forked: Any) -> None:
    assert forked.do(Undo("f1"), path="fork") is False
    assert forked.do(Confirm("f1"), path="fork") is False


@pytest.mark.parametrize(
    "lifetime, wanted",
    [({}, 0), ({"ttl": 10}, 11_000), ({"expires_at": 1_800_000_099_000}, 99_000)],
)
def test_a_fork_lives_from_its_confirmation(source: Any, lifetime: Any, wanted: int) -> None:
    source.do(fork(**lifetime), path="fork")
    source.now += RECHECK_MILLISECONDS * 2
    elapsed = RECHECK_MILLISECONDS * 2 if "ttl" in lifetime else 0
    assert source.do(Confirm("f1"), append(), path="fork")[0] is True
    deadline = source.head("fork").deadline
    assert deadline == (wanted and 1_800_000_000_000 + elapsed + wanted)


def test_a_fork_with_an_end_that_passed_is_never_served(source: Any) -> None:
    source.do(fork(expires_at=source.now - 1), path="fork")
    source.do(Confirm("f1"), path="fork")
    assert type(source.do(append(), path="fork")) is NotFound


def test_a_source_with_forks_is_deleted_softly(forked: Any) -> None:
    assert forked.do(Delete()) == Removed(None)
    head = forked.head()
    assert (head.state, head.deadline) == (DELETED, forked.now + RECHECK_MILLISECONDS)
    for operation in (append(), CLOSE, Delete(), link("f2")):
        assert type(forked.do(operation)) is Gone
    raised(forked, create("i2"), Conflict, "soft-deleted")
    assert forked.do(Touch()) is None
    assert forked.data() == b"data"


def test_a_source_that_expires_is_kept_for_its_forks(runner: Any) -> None:
    runner.do(create(ttl=10), append(b"data"), link())
    runner.now += 11_000
    assert runner.do(Expire()) == Removed(None)
    assert runner.head().state == DELETED
    runner.now += 10**9
    assert runner.do(Expire()) == Removed(None)
    raised(runner, create("i2"), Conflict, "soft-deleted")


def test_a_source_whose_fork_was_linked_in_the_same_draft_is_kept(stream: Any) -> None:
    assert stream.do(link(), Delete()) == [True, Removed(None)]
    assert stream.head().state == DELETED


def test_a_soft_deleted_source_goes_with_its_last_link(forked: Any) -> None:
    forked.do(link("f2", path="fork2"))
    forked.do(Delete())
    assert forked.do(Unlink("fork", "f1")) is True
    forked.now += 5
    assert forked.do(Reap()) == Removed(None)
    assert forked.head().deadline == forked.now + RECHECK_MILLISECONDS
    assert forked.do(Unlink("fork2", "f2")) is True
    head = forked.head()
    assert forked.do(Reap()) == Removed(head)
    assert forked.do(Reap()) == Removed(None)
    assert forked.do(Unlink("fork2", "f2")) is False


def test_a_live_source_is_never_reaped(source: Any) -> None:
    assert source.do(Reap()) == Removed(None)
    assert source.head().state == LIVE


def test_a_rejected_fork_leaves_no_reference(forked: Any) -> None:
    """Two tries at one fork have a link each; who loses drops the loser's."""
    forked.do(link("f2"))
    assert type(forked.do(fork("fork", "f2", start=1), path="fork")) is Conflict
    forked.do(Unlink("fork", "f2"))
    fields = forked.facts(link_key("fork", "f1"), link_key("fork", "f2")).fields
    assert list(map(bool, fields.values())) == [True, False]


def test_fork_put_is_idempotent_under_retry(forked: Any) -> None:
    assert not forked.do(fork("fork", "f2"), path="fork").new
    assert forked.head("fork").incarnation == "f1"


def test_a_link_that_was_held_since_the_sweeper_looked_is_kept(source: Any) -> None:
    seen = ForkLink("f1", 2)
    source.do(fork(), path="fork")
    source.do(Hold("fork", "f1"))
    source.do(Unlink("fork", "f1", seen))
    key = link_key("fork", "f1")
    assert decode_link(source.facts(key).fields[key]) == ForkLink("f1", 2, True)
    source.do(Unlink("fork", "f1", ForkLink("f1", 2, True)))
    assert source.facts(key).fields[key] is None


def test_a_link_made_while_the_source_is_deleted_conflicts_with_the_removal(stream: Any) -> None:
    """Neither a fork without its source's bytes, nor a link in nothing."""
    for first, second in ((link(), Delete()), (Delete(), link())):
        one, _ = stream.draft(first)
        other, _ = stream.draft(second)
        assert type(stream.commit(one)).__name__ == "Applied"
        assert type(stream.commit(other)).__name__ == "Conflicted"
        stream.do(Unlink("fork", "f1"))


def test_a_fork_has_no_producers_and_no_stream_seq_of_its_source(stream: Any) -> None:
    stream.do(produce(5, 0, b"data", seq=b"9"), link())
    stream.do(fork(), path="fork")
    stream.do(Confirm("f1"), path="fork")
    assert stream.do(produce(0, 0, seq=b"1"), path="fork") == appended(
        3, False, False, 0, 0, timeline=NEXT
    )


def test_a_body_that_is_one_value_is_one_message_even_if_it_is_an_array() -> None:
    assert Body(b"[1,2]", value=True).stored(Kind.JSON) == b"[1,2],\n"
    assert Body(b"[1,2]").stored(Kind.JSON) == b"1,\n2,\n"


def test_a_creation_request_names_the_offset_where_a_fork_leaves_its_source() -> None:
    request = CreationRequest(forked_from="source")
    assert request.fork_from is None
    offset = Offset(timeline_at(5), 7)
    assert request.forked_at(offset).fork_from == offset
    assert request.forked_at(offset).forked_at(None) == request


def test_text_is_one_string_on_a_json_stream() -> None:
    assert Body('"é'.encode(), text=True).stored(Kind.JSON) == '"\\"é",\n'.encode()


# Appends that need no draft.

small_heads = st.builds(
    Head,
    st.just("i1"),
    st.builds(
        lambda kind, ttl: encode(Birth(kind, 0, ttl=ttl)),
        st.sampled_from((TEXT, JSON)),
        st.sampled_from((None, 1)),
    ),
    tail=st.integers(0, 3),
    closed=st.booleans(),
    state=st.sampled_from((LIVE, LIVE, FORKING, DELETED)),
    deadline=st.sampled_from((0, 100, 1100, 2200)),
    timeline=st.just(BORN),
    past=st.sampled_from(((), ((NEXT, 1),))),
)
any_append = st.builds(
    Append,
    st.builds(
        Body,
        st.sampled_from((b"", b"1", b"[]", b"[1,2]", b"no JSON")),
        value=st.booleans(),
        text=st.booleans(),
    ),
    st.sampled_from((None, TEXT, JSON)),
    st.booleans(),
    st.sampled_from((None, b"2")),
    st.one_of(
        st.none(), st.builds(ProducerClaim, st.just("p"), st.integers(0, 2), st.integers(0, 3))
    ),
    st.sampled_from((None, Offset(BORN, 3))),
)


entries = st.one_of(
    st.none(),
    st.builds(
        lambda epoch, seq: encode(ProducerEntry(epoch, seq, 0)),
        st.integers(0, 2),
        st.integers(0, 2),
    ),
)


@given(small_heads, any_append, entries, st.sampled_from((0, 100, 1100)))
def test_an_append_that_needs_no_draft_is_decided_as_with_one(
    head: Head, operation: Append, entry: bytes | None, now: int
) -> None:
    def outcome(decide: Any) -> Any:
        try:
            return decide()
        except (ProtocolError, Unconfirmed) as error:
            return type(error), str(error), getattr(error, "code", None)

    known = {key: entry if key == "pp" else None for key in operation.fields}
    facts = Facts(head, known)
    draft = Draft("a", facts)
    decided = outcome(lambda: operation.decide(draft, now))
    added = outcome(lambda: operation.added_to(facts, now))
    if added is None:
        return
    if isinstance(added[0], bytes):
        data, fields = added
        claim = operation.producer
        epoch, seq = (-1, -1) if claim is None else (claim.epoch, claim.seq)
        assert draft.commit(lambda: "").delta == Delta(data=data, fields=fields)
        assert decided == Appended(head.tail + len(data), False, False, epoch, seq, head.timeline)
        assert head.grown(len(data)) == head.apply(Delta(data=data))
    else:
        assert decided == added


@pytest.mark.parametrize("lifetime", [{}, {"deadline": 100}])
def test_an_ordinary_append_needs_no_draft(lifetime: Any) -> None:
    head = Head("i1", encode(Birth(TEXT, 0)), **lifetime)
    assert append(b"xy").added_to(Facts(head), 99) == (b"xy", {})


def test_the_next_batch_of_a_producer_needs_no_draft() -> None:
    facts = Facts(Head("i1", encode(Birth(TEXT, 0))), {"pp": encode(ProducerEntry(1, 7, 5))})
    added = produce(1, 8, b"xy").added_to(facts, 99)
    assert added == (b"xy", {"pp": encode(ProducerEntry(1, 8, 99))})


@pytest.mark.parametrize("claim", [(1, 7), (1, 9), (0, 8), (2, 0)])
def test_any_other_batch_of_a_producer_needs_a_draft(claim: Any) -> None:
    known = {"pp": encode(ProducerEntry(1, 7, 5))}
    facts = Facts(Head("i1", encode(Birth(TEXT, 0))), known)
    assert produce(*claim, b"xy").added_to(facts, 99) is None
    assert produce(*claim, b"xy").added_to(Facts(facts.head, {"pp": None}), 99) is None
