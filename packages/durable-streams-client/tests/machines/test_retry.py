"""Delays, and what bounds them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_streams_client.errors import InvalidArgument
from durable_streams_client.identities import MAX_IDENTITIES, MAX_STREAMS, IdentityCache
from durable_streams_client.messages import ResponseHead
from durable_streams_client.options import Timeouts
from durable_streams_client.pages import PageCache
from durable_streams_client.retry import Backoff, RetryPolicy, parse_retry_after


@given(
    initial=st.floats(0.001, 10),
    multiplier=st.floats(1, 10),
    maximum=st.floats(10, 1000),
    chance=st.floats(0, 1, exclude_max=True),
    asked=st.none() | st.floats(0, 10_000),
    failures=st.integers(1, 2000),
)
def test_a_delay_is_between_its_floor_and_its_ceiling(
    *,
    initial: float,
    multiplier: float,
    maximum: float,
    chance: float,
    asked: float | None,
    failures: int,
) -> None:
    policy = RetryPolicy(initial=initial, multiplier=multiplier, maximum=maximum)
    backoff = Backoff(policy, None, lambda: chance)
    backoff.failures = failures - 1
    delay = backoff.failed(asked)
    assert delay is not None
    floor = min(asked or 0, policy.retry_after_limit)
    assert max(floor, policy.ceiling(failures) / 2) <= delay
    assert delay <= max(floor, policy.ceiling(failures))
    assert policy.ceiling(failures) <= maximum
    assert policy.ceiling(failures) <= policy.ceiling(failures + 1)


@given(chances=st.lists(st.floats(0, 1, exclude_max=True), min_size=9, max_size=9))
def test_one_schedule_waits_out_an_outage_and_notices_its_end(chances: list[float]) -> None:
    policy = RetryPolicy()
    assert policy.attempts == policy.read_attempts
    backoff = Backoff(policy, policy.attempts, iter(chances).__next__)
    delays = [backoff.failed() for _ in range(policy.attempts - 1)]
    assert sum(delay for delay in delays if delay is not None) >= 10
    assert all(delay is not None and delay <= 5 for delay in delays)


@given(attempts=st.integers(1, 20))
def test_attempts_count_every_try_and_progress_starts_anew(attempts: int) -> None:
    backoff = Backoff(RetryPolicy(), attempts, lambda: 0.5)
    for _ in range(2):
        for _ in range(attempts - 1):
            assert backoff.failed() is not None
        assert backoff.failed() is None
        backoff.progress()


@pytest.mark.parametrize(
    "value,seconds",
    [
        ("7", 7.0),
        (" 0 ", 0.0),
        ("Thu, 01 Jan 1970 00:01:00 GMT", 50.0),
        ("Thu, 01 Jan 1970 00:00:05 GMT", 0.0),
        ("-1", None),
        ("soon", None),
        ("٣", None),
        (None, None),
    ],
)
def test_retry_after_in_both_its_forms(value: str | None, seconds: float | None) -> None:
    assert parse_retry_after(value, 10.0) == seconds


@pytest.mark.parametrize(
    "wrong",
    [
        {"initial": 0},
        {"maximum": 0.01},
        {"multiplier": 0.5},
        {"attempts": 0},
        {"read_attempts": 0},
        {"follow_attempts": 0},
        {"retry_after_limit": -1},
    ],
)
def test_a_policy_refuses_nonsense_by_name(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidArgument, match=next(iter(wrong))):
        RetryPolicy(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["connect", "read", "idle", "first_event", "total"])
@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan")])
def test_time_limits_are_positive(name: str, value: float) -> None:
    with pytest.raises(InvalidArgument, match=name):
        Timeouts(**{name: value})


def test_identities_are_few_and_used_again() -> None:
    cache = IdentityCache("p")
    identities = cache.of("a")
    taken = [identities.take() for _ in range(MAX_IDENTITIES)]
    assert identities.take() is None
    assert None not in taken
    for identity in taken:
        assert identity is not None
        identities.give_back(identity)
    assert len({identity.id for identity in taken if identity}) == MAX_IDENTITIES
    assert cache.of("a").take() in taken


def test_identities_are_forgotten_unless_in_use_and_never_come_again() -> None:
    cache = IdentityCache("p")
    busy = cache.of("0").take()
    first = cache.of("1").prefix
    for n in range(2, MAX_STREAMS + 50):
        cache.of(str(n))
    assert len(cache.streams) <= MAX_STREAMS
    assert busy is not None
    assert "0" in cache.streams
    assert cache.of("1").prefix != first


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 60), st.booleans()), max_size=60),
)
def test_kept_pages_stay_within_their_bound(puts: list[tuple[int, int, bool]]) -> None:
    cache = PageCache(100)
    for url, size, tagged in puts:
        cache.put(str(url), ResponseHead(200, {"etag": '"e"'} if tagged else {}), b"x" * size)
        kept = cache.get(str(url))
        assert (kept is not None) == (tagged and 0 < size <= 25)
        held = [page for n in range(10) if (page := cache.get(str(n)))]
        assert sum(len(page.body) for page in held) <= 100
