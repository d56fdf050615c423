from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_streams_core.offsets import (
    BEGINNING,
    NO_TIMELINE,
    Offset,
    encode_offset,
    format_offset,
    later_timeline,
    parse_offset,
    timeline_at,
)
from durable_streams_core.protocol import MAX_SAFE_INTEGER, NOW, START

positions = st.integers(0, MAX_SAFE_INTEGER)
timelines = st.integers(0, 10**16 - 2).map(timeline_at)
offsets = st.builds(Offset, timelines, positions)


def test_a_token_has_the_shape_that_deployed_clients_know() -> None:
    assert str(BEGINNING) == "0000000000000000_0000000000000000"
    assert str(Offset(NO_TIMELINE, 1234)) == "0000000000000000_0000000000001234"
    assert str(Offset(timeline_at(1_800_000_000_000), 7)) == "0001800000000000_0000000000000007"


@given(offsets, offsets)
def test_the_order_of_tokens_is_that_of_timelines_and_then_of_positions(
    one: Any, other: Any
) -> None:
    assert (str(one) < str(other)) == (one < other)
    assert (str(one) == str(other)) == (one == other)


@given(offsets)
def test_a_token_leads_back_to_its_offset(offset: Any) -> None:
    assert parse_offset(str(offset)) == offset


@given(offsets)
def test_a_header_carries_the_same_token(offset: Any) -> None:
    assert encode_offset(offset.timeline, offset.position).decode() == str(offset)


@given(st.integers(0, 10**16 - 2), timelines)
def test_a_timeline_is_later_than_the_one_before_also_where_the_clock_went_back(
    now: Any, before: Any
) -> None:
    later = later_timeline(timeline_at(now), before)
    assert later > before
    assert later == timeline_at(max(now, int(before) + 1))


def test_sentinels_are_never_minted() -> None:
    for sentinel in (START, NOW):
        with pytest.raises(ValueError, match="not an offset"):
            parse_offset(sentinel)


GOOD = str(Offset(NO_TIMELINE, 5))


@pytest.mark.parametrize(
    "token",
    [
        "",
        "5",
        GOOD + "0",
        GOOD[:-1],
        " " + GOOD[1:],
        "+" + GOOD[1:],
        GOOD.replace("_", "-"),
        GOOD[:-1] + "a",
        GOOD[:17] + "+" + GOOD[18:],
        GOOD[:17] + "-" + GOOD[18:],
        GOOD[:17] + " " + GOOD[18:],
        GOOD[:20] + "_" + GOOD[21:],
        GOOD[:-1] + "\u0665",
        "\u0665" + GOOD[1:],
        GOOD[:-1] + "\u00b2",
        GOOD + "\n",
    ],
)
def test_anything_else_is_not_an_offset(token: Any) -> None:
    with pytest.raises(ValueError, match="not an offset"):
        parse_offset(token)


@given(st.text())
def test_what_is_parsed_was_minted(token: Any) -> None:
    try:
        offset = parse_offset(token)
    except ValueError:
        return
    assert format_offset(offset.timeline, offset.position) == token
