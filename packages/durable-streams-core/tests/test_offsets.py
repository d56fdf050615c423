import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_streams_core.offsets import encode_offset, format_offset, parse_offset
from durable_streams_core.protocol import MAX_SAFE_INTEGER, NOW, START

positions = st.integers(0, MAX_SAFE_INTEGER)


def test_a_token_has_the_shape_that_deployed_clients_know():
    assert format_offset(0) == "0000000000000000_0000000000000000"
    assert format_offset(1234) == "0000000000000000_0000000000001234"


@given(positions, positions)
def test_the_order_of_tokens_is_the_order_of_positions(one, other):
    assert (format_offset(one) < format_offset(other)) == (one < other)
    assert (format_offset(one) == format_offset(other)) == (one == other)


@given(positions)
def test_a_token_leads_back_to_its_position(position):
    assert parse_offset(format_offset(position)) == position


@given(positions)
def test_a_header_carries_the_same_token(position):
    assert encode_offset(position).decode() == format_offset(position)


def test_sentinels_are_never_minted():
    for sentinel in (START, NOW):
        with pytest.raises(ValueError, match="not an offset"):
            parse_offset(sentinel)


GOOD = format_offset(5)


@pytest.mark.parametrize(
    "token",
    [
        "",
        "5",
        GOOD + "0",
        GOOD[:-1],
        " " + GOOD[1:],
        "1" + GOOD[1:],
        GOOD.replace("_", "-"),
        GOOD[:-1] + "a",
        GOOD[:17] + "+" + GOOD[18:],
        GOOD[:17] + "-" + GOOD[18:],
        GOOD[:17] + " " + GOOD[18:],
        GOOD[:20] + "_" + GOOD[21:],
        GOOD[:-1] + "\u0665",
        GOOD[:-1] + "\u00b2",
        GOOD + "\n",
    ],
)
def test_anything_else_is_no_offset(token):
    with pytest.raises(ValueError, match="not an offset"):
        parse_offset(token)


@given(st.text())
def test_what_is_parsed_was_minted(token):
    try:
        position = parse_offset(token)
    except ValueError:
        return
    assert format_offset(position) == token
