from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from durable_streams_core.cursors import MAX_JITTER_SECONDS, live_cursor
from durable_streams_core.protocol import CURSOR_EPOCH_SECONDS

EPOCH = CURSOR_EPOCH_SECONDS * 1000


def test_a_cursor_counts_intervals_of_twenty_seconds() -> None:
    assert live_cursor(EPOCH, None, 1) == "0"
    assert live_cursor(EPOCH + 19_999, None, 1) == "0"
    assert live_cursor(EPOCH + 20_000, None, 1) == "1"


def test_everybody_gets_the_same_cursor_within_an_interval() -> None:
    assert live_cursor(EPOCH + 100_000, None, 7) == live_cursor(EPOCH + 119_999, "3", 3600) == "5"


def test_a_client_that_is_as_far_is_moved_on() -> None:
    assert live_cursor(EPOCH + 100_000, "5", 1) == "6"
    assert live_cursor(EPOCH + 100_000, "5", 3600) == "185"
    assert live_cursor(EPOCH + 100_000, "1000", 40) == "1002"


@given(
    st.integers(EPOCH, EPOCH + 10**12),
    st.lists(st.tuples(st.integers(-100_000, 100_000), st.integers(1, MAX_JITTER_SECONDS))),
)
def test_cursor_not_monotonic_so_that_two_caches_bounce_a_client_between_them(
    now: Any, answers: Any
) -> None:
    """However far the clocks of servers lie apart, what a client echoes is always passed."""
    cursor = live_cursor(now, None, 1)
    for skew, jitter in answers:
        newer = live_cursor(now + skew, cursor, jitter)
        assert int(newer) > int(cursor)
        cursor = newer


@given(st.text())
@example("9" * 16)
@example("-5")
@example("\u0665")
@example("1e3")
@example("")
def test_a_cursor_that_is_none_of_ours_is_answered_with_one_that_is(asked: Any) -> None:
    answer = live_cursor(EPOCH + 100_000, asked, 20)
    assert answer.isascii()
    assert answer.isdigit()
