from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from durable_streams_core.errors import InvalidRequest
from durable_streams_core.expiry import (
    MAX_TTL_SECONDS,
    first_deadline,
    format_time,
    is_past,
    parse_expires_at,
    parse_ttl,
    renewal_due,
    sliding_deadline,
    two_lifetimes,
)

NOW = 1_800_000_000_000
ttls = st.integers(0, MAX_TTL_SECONDS)


@pytest.mark.parametrize("value", ["0", "1", "3600", str(MAX_TTL_SECONDS)])
def test_a_ttl_is_whole_seconds(value: Any) -> None:
    assert parse_ttl(value) == int(value)


@pytest.mark.parametrize(
    "value",
    ["", "+1", "-1", "01", "00", "1.5", "1.0", "1e3", "3.6e3", " 1", "1 ", "1_0", "0x1", "\u0661",
     "one", "1\n", str(MAX_TTL_SECONDS + 1), "9" * 5000],
)  # fmt: skip
def test_a_ttl_is_nothing_else(value: Any) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_ttl(value)
    assert caught.value.code == "invalid-ttl"


@pytest.mark.parametrize(
    "value, wanted",
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:00.001Z", 1),
        ("1970-01-01t00:00:01z", 1000),
        ("1970-01-01 00:00:01Z", 1000),
        ("1970-01-01T01:30:00+01:30", 0),
        ("1969-12-31T23:00:00-01:00", 0),
        ("1969-12-31T23:59:59Z", -1000),
        ("2030-01-31T12:00:00.123456789Z", 1_896_091_200_123),
        ("2030-01-31T12:00:00.5Z", 1_896_091_200_500),
        ("2030-01-31T12:00:00.123456789012Z", 1_896_091_200_123),
        ("1990-12-31T23:59:60Z", 662_688_000_000),
        ("1990-12-31T15:59:60-08:00", 662_688_000_000),
        ("2016-06-30T23:59:60.5Z", 1_467_331_200_500),
        ("2017-01-01T01:29:60+01:30", 1_483_228_800_000),
        ("2024-02-29T00:00:00Z", 1_709_164_800_000),
        ("9999-12-31T23:59:59Z", 253_402_300_799_000),
        ("9999-12-31T23:59:59+00:01", 253_402_300_739_000),
        ("0001-01-01T00:00:00Z", -62_135_596_800_000),
        ("0001-01-01T00:00:00-23:59", -62_135_510_460_000),
    ],
)
def test_a_timestamp_is_that_of_rfc_3339(value: str, wanted: int) -> None:
    assert parse_expires_at(value) == wanted


@pytest.mark.parametrize(
    "value",
    ["", "tomorrow", "2030-01-31", "2030-01-31T12:00Z", "2030-01-31T12:00:00", "20300131T120000Z",
     "2030-13-01T00:00:00Z", "2030-02-30T00:00:00Z", "2023-02-29T00:00:00Z", "2030-01-31T24:00:00Z",
     "2030-01-31T12:60:00Z", "2030-01-31T12:00:61Z", "2030-01-31T12:00:00+24:00",
     "2030-01-31T12:00:00+01:60", "2030-01-31T12:00:00.Z", "2030-01-31T12:00:00,5Z",
     "9999-12-31T23:59:59-00:01", "9999-12-31T23:59:60Z", "9999-12-31T23:59:60-00:01", "0001-01-01T00:00:00+00:01",
     "2030-01-31T12:00:60Z", "2030-12-31T12:59:60Z", "2030-12-31T23:59:60+01:00",
     "2030-11-30T23:59:60Z", "2030-06-30T23:58:60Z",
     "2030-01-31T12:00:00Z\n", " 2030-01-31T12:00:00Z", "0000-01-01T00:00:00Z",
     "2030-01-31T12:00:00+0100", "\u0662030-01-31T12:00:00Z", "+2030-01-31T12:00:00Z", "1893456000"],
)  # fmt: skip
def test_a_timestamp_is_nothing_else(value: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_expires_at(value)
    assert caught.value.code == "invalid-expires-at"


@given(
    st.datetimes(),
    st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes))),
    st.text("0123456789", max_size=40),
)
def test_an_accepted_timestamp_can_be_written_again(
    moment: datetime, zone: timezone, digits: str
) -> None:
    """It is shown by HEAD for as long as the stream lives."""
    written = moment.replace(microsecond=0, tzinfo=zone).isoformat()
    value = f"{written[:19]}.{digits}{written[19:]}" if digits else written
    try:
        at = parse_expires_at(value)
    except InvalidRequest:
        with pytest.raises(OverflowError):
            moment.replace(tzinfo=zone).astimezone(UTC)
    else:
        assert parse_expires_at(format_time(at)) == at


@given(st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30)))  # noqa: DTZ001
def test_a_timestamp_formatted_is_parsed_as_the_same(moment: Any) -> None:
    at = int(moment.replace(tzinfo=UTC, microsecond=0).timestamp()) * 1000
    assert parse_expires_at(format_time(at)) == at
    assert format_time(at).endswith("Z")


def test_a_life_without_limits_has_no_deadline() -> None:
    assert first_deadline(None, None, NOW) == 0
    assert not is_past(0, NOW)


def test_a_deadline_has_come_at_its_very_millisecond() -> None:
    assert not is_past(NOW, NOW - 1)
    assert is_past(NOW, NOW)
    assert is_past(NOW, NOW + 1)


@pytest.mark.parametrize("at", [0, -1, -62_135_683_140_000, 1])
def test_expiring_before_the_clock_began_is_not_living_for_ever(at: int) -> None:
    assert is_past(first_deadline(None, at, NOW), NOW)


def test_a_ttl_of_zero_is_over_at_once() -> None:
    assert is_past(first_deadline(0, None, NOW), NOW)


@given(ttls, st.lists(st.integers(0, MAX_TTL_SECONDS * 1500), max_size=20))
@example(10, [1000, 1, 10_000])
def test_a_busy_life_is_never_shortened_and_costs_few_writes(ttl: Any, pauses: Any) -> None:
    """Whenever a stream is used it lives on for its whole TTL, and at most a tenth longer."""
    now = NOW
    deadline = stored = first_deadline(ttl, None, now)
    for pause in pauses:
        now += pause
        if is_past(deadline, now):
            break
        if renewal_due(ttl, deadline, now):
            assert now - (stored - ttl * 1100) > ttl * 100
            deadline = stored = sliding_deadline(ttl, now)
        assert now + ttl * 1000 <= deadline <= now + ttl * 1100


def test_two_kinds_of_lifetime_at_once_are_refused_by_one_sentence() -> None:
    assert two_lifetimes().code == "ttl-and-expires-at"
