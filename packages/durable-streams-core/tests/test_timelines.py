"""Timelines: whose bytes an offset counts, across losses of a store and deleted streams."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_streams_core.entities import Delta, Head
from durable_streams_core.errors import Gone, InvalidRequest, OffsetGone, TailMoved
from durable_streams_core.offsets import BEGINNING, NO_TIMELINE, Offset, timeline_at
from durable_streams_core.operations import Append, Body, Create, Delete
from durable_streams_core.reads import check_offset
from durable_streams_core.streams import CreationRequest, Origin

ONE, TWO, THREE = (timeline_at(n) for n in (1, 2, 3))
TEXT = "text/plain"


def create(incarnation: Any = "i1", **more: Any) -> Any:
    return Create(incarnation, CreationRequest(TEXT), TEXT, **more)


def test_a_new_stream_begins_a_timeline_at_its_birth(runner: Any) -> None:
    runner.do(create())
    assert runner.head().timeline == timeline_at(runner.now)
    assert runner.head().tail_offset == Offset(timeline_at(runner.now), 0)


def test_a_stream_created_again_within_the_same_millisecond_has_a_later_timeline(
    runner: Any,
) -> None:
    seen = []
    for number in range(5):
        runner.do(create(f"i{number}"))
        seen.append(runner.head().timeline)
        runner.do(Delete())
    assert seen == sorted(set(seen))


def test_a_stream_created_again_after_the_clock_went_back_has_a_later_timeline(runner: Any) -> None:
    runner.do(create())
    before = runner.head().timeline
    runner.do(Delete())
    runner.now -= 3_600_000
    runner.do(create("i2"))
    assert runner.head().timeline > before


def test_a_stream_that_replaces_an_expired_one_in_one_commit_has_a_later_timeline(
    runner: Any,
) -> None:
    runner.do(create(ttl=1))
    before = runner.head().timeline
    runner.now += 1100
    runner.do(create("i2"))
    assert runner.head().timeline > before


def test_a_fork_keeps_its_sources_offset_at_its_start_and_goes_on_with_a_later_timeline(
    runner: Any,
) -> None:
    source = timeline_at(runner.now + 5)
    runner.do(create(origin=Origin("source", "i0"), start=4, timeline=source))
    head = runner.head()
    assert head.tail_offset == Offset(source, 4)
    assert head.timeline > source
    assert head.timeline_at(5) == head.timeline


def test_what_is_appended_after_a_loss_lies_on_another_timeline() -> None:
    head = Head("i", b"", tail=10, timeline=ONE).moved_on(TWO)
    assert head.tail_offset == Offset(ONE, 10)
    grown = head.apply(Delta(data=b"12345"))
    assert grown.tail_offset == Offset(TWO, 15)
    assert grown.timeline_at(10) == ONE
    assert grown.timeline_at(11) == TWO


def test_offsets_that_survived_a_loss_stay_valid_and_those_beyond_are_gone() -> None:
    head = Head("i", b"", tail=10, timeline=ONE).moved_on(TWO).apply(Delta(data=b"12345"))
    for offset in (BEGINNING, Offset(ONE, 0), Offset(ONE, 10), Offset(TWO, 11), Offset(TWO, 15)):
        check_offset(head, offset)
    for offset in (Offset(ONE, 11), Offset(ONE, 15), Offset(NO_TIMELINE, 3)):
        with pytest.raises(OffsetGone):
            check_offset(head, offset)
    for offset in (Offset(TWO, 16), Offset(THREE, 5)):
        with pytest.raises(InvalidRequest):
            check_offset(head, offset)


def test_two_losses_without_an_append_between_leave_one_entry() -> None:
    head = Head("i", b"", tail=10, timeline=ONE).moved_on(TWO).moved_on(THREE)
    assert head.past == ((ONE, 10),)
    assert head.timeline == THREE
    assert not head.holds(Offset(TWO, 10))


@st.composite
def lives(draw: Any) -> Any:
    """A head after appends and losses, with the offset of each tail that was told and survived."""
    head = Head("i", b"", timeline=timeline_at(0))
    told = {head.tail_offset: True}
    for number in range(1, draw(st.integers(1, 8))):
        if draw(st.booleans()):
            head = head.apply(Delta(data=b"x" * draw(st.integers(1, 5))))
            told[head.tail_offset] = True
            continue
        # The store comes back as it was at some earlier tail of the present timeline.
        begin = head.past[-1][1] if head.past else 0
        lost = draw(st.integers(begin, head.tail))
        told = {offset: there and offset.position <= lost for offset, there in told.items()}
        kept = Head("i", b"", tail=lost, timeline=head.timeline, past=head.past)
        head = kept.moved_on(timeline_at(number))
        told[head.tail_offset] = True
    return head, told


@given(lives())
def test_whatever_was_lost_an_offset_is_accepted_exactly_if_its_bytes_are_there(life: Any) -> None:
    head, told = life
    for offset, there in told.items():
        if there:
            check_offset(head, offset)
        else:
            with pytest.raises(OffsetGone):
                check_offset(head, offset)


@given(lives())
def test_offsets_of_one_stream_sort_as_its_positions_do(life: Any) -> None:
    _, told = life
    there = sorted((o for o, survived in told.items() if survived), key=lambda o: o.position)
    assert there == sorted(there)
    assert len({offset.position for offset in there}) == len(there)


def test_a_condition_on_the_tail_of_a_stream_that_was_replaced_is_gone_and_not_moved(
    runner: Any,
) -> None:
    runner.do(create())
    old = runner.do(Append(Body(b"12")))
    runner.do(Delete())
    runner.do(create("i2"))
    new = runner.do(Append(Body(b"12")))
    stale = Append(Body(b"x"), expected=Offset(old.timeline, old.tail))
    assert isinstance(runner.do(stale), OffsetGone)
    runner.do(Append(Body(b"x"), expected=Offset(new.timeline, new.tail)))
    late = Append(Body(b"x"), expected=Offset(new.timeline, new.tail))
    assert isinstance(runner.do(late), TailMoved)


def test_an_offset_that_is_gone_is_an_answer_of_its_own() -> None:
    error = OffsetGone()
    assert isinstance(error, Gone)
    assert (error.status, error.code) == (410, "offset-gone")
    assert "start again" in error.message
