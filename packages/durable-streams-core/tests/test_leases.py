"""The lease and generation machine (§7, §7.3): every step from every phase."""

from typing import Any

import pytest

from durable_streams_core.subscriptions import leases
from durable_streams_core.subscriptions.leases import (
    NEXT,
    NO_CHANGES,
    Changes,
    Lease,
    decode_lease,
    encode_lease,
    retry_delay,
)

PHASES = ("idle", "waking", "retrying", "waiting", "held")
STEPS = ("claim", "accept", "fail", "again", "ack", "done", "release", "expire", "drop")
NOW, TTL = 1000, 50


@pytest.mark.parametrize("kind", ["webhook", "pull-wake"])
def test_a_wake_begins_only_where_nothing_is_in_flight(kind: str) -> None:
    for phase in PHASES:
        lease = Lease(phase, 7)
        woken = leases.WOKEN[kind] if phase == "idle" else None
        assert lease.after("wake", kind) == woken


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("step", STEPS)
def test_every_step_does_what_the_table_says_and_keeps_the_rules(phase: Any, step: Any) -> None:
    before = Lease(phase, 7, "w_old" if phase != "idle" else "", "holder", 900, 3, "s", "d")
    after = before.after(step, "webhook")
    assert after == NEXT.get((phase, step))
    if after is None:
        return
    lease = before.stepped(step, after, NOW, TTL, Changes("w_new", "me", 5000, "t", "e"))
    assert lease.generation == (8 if phase == "idle" else 7)
    assert lease.wake_id == ("" if after == "idle" else "w_new" if phase == "idle" else "w_old")
    assert (lease.phase in ("waking", "held")) == (lease.until == NOW + TTL)
    if step == "fail":
        assert (lease.until, lease.attempts, lease.failing) == (5000, 4, True)
    elif step in ("accept", "claim", "ack", "done"):
        assert not lease.failing
    else:
        assert lease.attempts == 3
    if after == "idle":
        assert (lease.holder, lease.stream, lease.driver, lease.until) == ("", "", "", 0)


def test_what_a_step_does_not_bring_stays() -> None:
    lease = Lease("waking", 7, "w", "holder", 900, 0, "s", "d")
    again = lease.stepped("again", "waking", NOW, TTL, NO_CHANGES)
    assert again == Lease("waking", 7, "w", "holder", NOW + TTL, 0, "s", "d")


def test_only_what_runs_can_run_out() -> None:
    for phase in PHASES:
        lease = Lease(phase, 1, until=NOW)
        assert lease.expired(NOW) == (phase in ("waking", "held"))
        assert not lease.expired(NOW - 1)


def test_a_lease_is_stored_and_read_back() -> None:
    lease = Lease("held", 7, "w", "worker", 5, 1, "a/b", "d")
    assert decode_lease(encode_lease(lease)) == lease
    assert decode_lease(None) == Lease()


def test_retries_back_off_from_a_second_to_a_minute_with_a_fifth_of_jitter() -> None:
    assert [retry_delay(n, 0) for n in (0, 1, 2, 3, 6, 7, 8, 1000)] == [
        1000, 1000, 2000, 4000, 32000, 60000, 60000, 60000,
    ]  # fmt: skip
    assert (retry_delay(1, -1), retry_delay(1, 1)) == (800, 1200)
    assert (retry_delay(99, -1), retry_delay(99, 1)) == (48000, 72000)
