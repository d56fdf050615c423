from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_streams_core.entities import Head
from durable_streams_core.errors import InvalidRequest
from durable_streams_core.offsets import BEGINNING, Offset, timeline_at
from durable_streams_core.reads import (
    check_in_range,
    etag,
    etag_matches,
    inside_message,
    page_cache_control,
    parse_read_offset,
)

HEAD = Head("c0ffee", b"")
FIFTH = Offset(timeline_at(9), 5)
TAG = f"c0ffee:0:{FIFTH}"


def test_offsets_that_a_read_may_start_from() -> None:
    assert parse_read_offset("-1") == parse_read_offset(str(BEGINNING)) == BEGINNING
    assert parse_read_offset("now") is None
    assert parse_read_offset(str(FIFTH)) == FIFTH


@pytest.mark.parametrize("token", ["", "0", "-2", "NOW", "77", "\n", "../etc", "0" * 33])
def test_other_offsets_are_refused_with_a_reason(token: str) -> None:
    with pytest.raises(InvalidRequest, match="Stream-Next-Offset") as caught:
        parse_read_offset(token)
    assert caught.value.code == "invalid-offset"


def test_an_offset_past_the_tail_is_refused_with_a_reason() -> None:
    check_in_range(5, 5)
    with pytest.raises(InvalidRequest) as caught:
        check_in_range(6, 5)
    assert caught.value.code == "offset-past-tail"


def test_an_offset_inside_a_message_gives_a_reason_and_not_500() -> None:
    error = inside_message()
    assert (error.status, error.code) == (400, "offset-inside-message")


def test_a_path_created_again_never_answers_304_for_its_old_bytes() -> None:
    assert etag(HEAD, 0, FIFTH, False) == f'"{TAG}"'
    assert etag(HEAD, 0, FIFTH, False, more=True) == f'"{TAG}:more"'
    assert etag(HEAD, 0, FIFTH, False) != etag(Head("beef", b""), 0, FIFTH, False)


def test_a_page_of_bytes_that_replace_lost_ones_has_another_tag() -> None:
    later = Offset(timeline_at(10), 5)
    assert etag(HEAD, 0, FIFTH, False) != etag(HEAD, 0, later, False)


offsets = st.builds(Offset, st.integers(0, 2).map(timeline_at), st.integers(0, 20))
pages = st.tuples(
    st.text("ab", min_size=1), st.integers(0, 20), offsets, st.booleans(),
    st.sampled_from(["", "gzip", "br"]),
)  # fmt: skip


@given(pages, pages)
def test_different_pages_have_different_tags(one: Any, other: Any) -> None:
    tags = [etag(Head(name, b""), *rest) for name, *rest in (one, other)]
    assert (tags[0] == tags[1]) == (one == other)


@pytest.mark.parametrize(
    "header, matches",
    [
        ("*", True),
        (" * ", True),
        (f'"{TAG}"', True),
        (f'W/"{TAG}"', True),
        (f'"other", "{TAG}"', True),
        (f'"other" ,W/"{TAG}" ', True),
        (f'"{TAG}:c"', False),
        (f'"{TAG}-gzip"', False),
        (TAG, False),
        ("", False),
        (",", False),
    ],
)
def test_if_none_match_is_compared_weakly(header: Any, matches: bool) -> None:
    assert etag_matches(header, etag(HEAD, 0, FIFTH, False)) is matches


def test_pages_are_cached_by_all_or_by_the_reader_alone() -> None:
    assert page_cache_control(public=True) == "public, max-age=60, stale-while-revalidate=300"
    assert page_cache_control(public=False).startswith("private, ")
