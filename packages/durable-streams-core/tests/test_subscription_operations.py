"""Every change to a subscription: what it answers, what it leaves behind, what it refuses."""

from typing import Any

import pytest

from durable_streams_core.entities import Head
from durable_streams_core.offsets import NO_TIMELINE, Offset, timeline_at
from durable_streams_core.subscriptions.leases import Changes, Lease, decode_lease
from durable_streams_core.subscriptions.operations import (
    AckedStream,
    AddStreams,
    Claim,
    Finish,
    ForgetStreams,
    LinkMore,
    RemoveStream,
    Step,
    Subscribe,
    Tail,
    Unsubscribe,
    WakeRef,
)
from durable_streams_core.subscriptions.records import (
    BASE_URL,
    CURSOR,
    LEASE,
    BaseUrl,
    Cursor,
    birth_of,
    decode_base_url,
    decode_cursor,
    parse_config,
)

BASE = BaseUrl("https://a.example", "/v1/stream/")
WEBHOOK = parse_config(
    {"type": "webhook", "pattern": "e/*", "streams": ["x"], "webhook": {"url": "https://w/"}}
)
PULL = parse_config({"type": "pull-wake", "pattern": "e/*", "wake_stream": "w"})


@pytest.fixture
def subscribed(new_runner: Any) -> Any:
    def subscribed(config: Any = WEBHOOK, **more: Any) -> Any:
        runner = new_runner("__ds/subscriptions/s")
        runner.do(Subscribe("i", config, BASE, **more))
        return runner

    return subscribed


def cursor(runner: Any, stream: Any) -> Any:
    return decode_cursor(runner.facts(CURSOR + stream).fields[CURSOR + stream])


def lease(runner: Any) -> Any:
    return decode_lease(runner.facts(LEASE).fields[LEASE])


def wake(runner: Any, wake_id: Any = "w1") -> Any:
    return runner.do(Step("i", "wake", changes=Changes(wake_id=wake_id, stream="e/1", driver="d")))


def ref(
    generation: Any = 1, wake_id: Any = "w1", incarnation: Any = "i", token_generation: Any = None
) -> Any:
    return WakeRef(incarnation, token_generation or generation, generation, wake_id)


def acked(stream: Any, position: Any, incarnation: Any, tail: Any) -> Any:
    return AckedStream(stream, Offset(NO_TIMELINE, position), Head(incarnation, b"", tail=tail))


def code(answer: Any) -> Any:
    return getattr(answer, "code", answer)


# Creating.


def test_a_subscription_links_streams_where_they_end(subscribed: Any) -> None:
    runner = subscribed(tails=[Tail("x"), Tail("e/1", "inc", 7)])
    birth = birth_of(runner.head())
    assert (birth.config, birth.hash, birth.created) == (WEBHOOK, WEBHOOK.hash(), runner.now)
    assert cursor(runner, "x") == Cursor("", 0, True)
    assert cursor(runner, "e/1") == Cursor("inc", 7)
    assert lease(runner) == Lease()
    assert runner.head().deadline == 0


def test_the_same_wish_confirms_and_another_is_refused(subscribed: Any) -> None:
    runner = subscribed()
    again = runner.do(Subscribe("j", WEBHOOK, BASE, [Tail("e/1", "inc", 7)], confirm=True))
    assert (again.new, again.linking, again.head.incarnation) == (False, False, "i")
    assert cursor(runner, "e/1") is None
    assert code(runner.do(Subscribe("j", PULL, BASE))) == "SUBSCRIPTION_ALREADY_EXISTS"


def test_confirming_remembers_where_the_server_is_now(subscribed: Any) -> None:
    runner = subscribed()
    moved = BaseUrl("https://b.example", "/")
    runner.do(Subscribe("j", WEBHOOK, moved))
    assert decode_base_url(runner.facts(BASE_URL).fields[BASE_URL]) == moved


def test_confirming_creates_nothing(new_runner: Any) -> None:
    runner = new_runner("__ds/subscriptions/s")
    assert runner.do(Subscribe("i", WEBHOOK, BASE, confirm=True)) is None
    assert runner.head() is None


def test_many_cursors_are_written_before_anybody_knows_of_it(subscribed: Any) -> None:
    runner = subscribed(tails=[Tail("e/1", "a", 1)], linking=True)
    assert runner.head().state == "linking"
    assert runner.head().deadline > runner.now
    assert code(runner.do(AddStreams([Tail("y")]))) == "SUBSCRIPTION_NOT_FOUND"
    assert wake(runner) is None
    assert runner.do(Subscribe("j", WEBHOOK, BASE)).linking

    assert runner.do(LinkMore("i", [Tail("e/1", "a", 9), Tail("e/2", "b", 2), Tail("x", "c", 3)]))
    assert not runner.do(LinkMore("other", []))
    assert runner.do(LinkMore("i", []))
    assert (runner.head().state, runner.head().deadline) == ("live", 0)
    assert cursor(runner, "e/1") == Cursor("a", 1)
    assert cursor(runner, "e/2") == Cursor("b", 2)
    assert cursor(runner, "x") == Cursor("c", 3, True)
    assert not runner.do(LinkMore("i", [Tail("e/3", "d", 1)]))
    runner.do(Unsubscribe())
    assert not runner.do(LinkMore("i", []))


def test_deleting_leaves_nothing(subscribed: Any) -> None:
    runner = subscribed()
    assert runner.do(Unsubscribe()) is True
    assert runner.head() is None
    assert runner.do(Unsubscribe()) is False
    assert code(runner.do(RemoveStream("x"))) == "SUBSCRIPTION_NOT_FOUND"
    assert wake(runner) is None


# Membership.


def test_an_added_stream_counts_from_its_tail(subscribed: Any) -> None:
    runner = subscribed()
    runner.do(AddStreams([Tail("y", "inc", 5), Tail("z")]))
    assert cursor(runner, "y") == Cursor("inc", 5, True)
    assert cursor(runner, "z") == Cursor("", 0, True)


def test_an_added_stream_that_is_linked_stays_where_it_stands(subscribed: Any) -> None:
    runner = subscribed(tails=[Tail("e/1", "inc", 5)])
    runner.do(AddStreams([Tail("e/1", "inc", 9), Tail("e/2", "inc2", 9)]))
    assert cursor(runner, "e/1") == Cursor("inc", 5, True)
    assert cursor(runner, "e/2") == Cursor("", 0, True)
    tail = runner.head().tail
    runner.do(AddStreams([Tail("e/1", "inc", 11)]))
    assert cursor(runner, "e/1") == Cursor("inc", 5, True)
    assert runner.head().tail == tail


def test_its_own_wake_stream_cannot_be_added(subscribed: Any) -> None:
    runner = subscribed(PULL)
    assert code(runner.do(AddStreams([Tail("w", "inc", 1)]))) == "INVALID_REQUEST"


def test_removing_drops_the_explicit_link_only(subscribed: Any) -> None:
    runner = subscribed()
    runner.do(AddStreams([Tail("y", "inc", 5), Tail("e/1", "inc", 5)]))
    before = runner.head().tail
    runner.do(RemoveStream("y"))
    runner.do(RemoveStream("e/1"))
    assert cursor(runner, "y") is None
    assert cursor(runner, "e/1") == Cursor("", 0, False)
    assert runner.head().tail == before + 2
    runner.do(RemoveStream("y"))
    runner.do(RemoveStream("e/1"))
    assert runner.head().tail == before + 2


def test_cursors_of_streams_that_are_gone_are_forgotten(subscribed: Any) -> None:
    runner = subscribed(tails=[Tail("e/1", "a", 1), Tail("e/2", "b", 1), Tail("x", "c", 1)])
    gone = [Tail("e/1", "a"), Tail("e/2", "older"), Tail("x", "c"), Tail("e/9", "z")]
    runner.do(ForgetStreams("other", gone))
    assert cursor(runner, "e/1") is not None
    runner.do(ForgetStreams("i", gone))
    assert cursor(runner, "e/1") is None
    assert cursor(runner, "e/2") is not None
    assert cursor(runner, "x") is not None


# Steps of drivers.


def test_a_wake_is_one_generation_and_sets_the_timer(subscribed: Any) -> None:
    runner = subscribed()
    woken = wake(runner)
    assert woken == lease(runner)
    assert woken == Lease("waking", 1, "w1", "", runner.now + 30_000, 0, "e/1", "d")
    assert runner.head().deadline == woken.until
    assert wake(runner, "w2") is None


def test_steps_about_another_wake_do_nothing(subscribed: Any) -> None:
    runner = subscribed()
    wake(runner)
    assert runner.do(Step("i", "accept", "w0")) is None
    assert runner.do(Step("other", "accept", "w1")) is None
    assert runner.do(Step("i", "release", "w1")) is None
    assert runner.do(Step("i", "expire")) is None
    assert lease(runner).phase == "waking"


def test_a_failed_delivery_is_retried_when_its_time_comes(subscribed: Any) -> None:
    runner = subscribed()
    wake(runner)
    retry = runner.now + 1200
    failed = runner.do(Step("i", "fail", "w1", Changes(until=retry)))
    assert (failed.phase, failed.until, failed.attempts) == ("retrying", retry, 1)
    assert runner.head().deadline == retry
    again = runner.do(Step("i", "again", "w1", Changes(driver="e")))
    assert (again.phase, again.generation, again.wake_id, again.driver) == ("waking", 1, "w1", "e")
    assert runner.do(Step("i", "accept", "w1")).attempts == 0


def test_a_lease_that_is_over_ends(subscribed: Any) -> None:
    runner = subscribed()
    wake(runner)
    runner.now += 30_000
    assert runner.do(Step("i", "expire")) == Lease("idle", 1)
    assert runner.head().deadline == 0
    assert wake(runner, "w2").generation == 2


def test_others_are_told_where_the_driver_is_another_process(subscribed: Any) -> None:
    runner = subscribed(PULL)
    before = runner.head().tail
    wake(runner)
    assert runner.head().tail == before
    runner.do(Claim("me", "w1", nudge=True))
    assert runner.head().tail == before + 1
    runner.do(Finish(ref(), "ack", nudge=True))
    assert runner.head().tail == before + 1
    runner.do(Finish(ref(), "done", nudge=True))
    assert runner.head().tail == before + 2


# Claims.


def test_one_worker_claims_a_wake(subscribed: Any) -> None:
    runner = subscribed(PULL)
    assert wake(runner).phase == "waiting"
    assert runner.head().deadline == 0
    claimed = runner.do(Claim("me", "unused"))
    assert (claimed.holder, claimed.generation, claimed.wake_id) == ("me", 1, "w1")
    assert runner.head().deadline == runner.now + 30_000
    refused = runner.do(Claim("you", "unused"))
    assert refused.code == "ALREADY_CLAIMED"
    assert refused.details == {"current_holder": "me", "generation": 1}


def test_a_claim_before_the_wake_is_one_itself(subscribed: Any) -> None:
    runner = subscribed(PULL)
    claimed = runner.do(Claim("me", "w7", "e/1"))
    assert (claimed.generation, claimed.wake_id, claimed.stream) == (1, "w7", "e/1")
    assert wake(runner) is None


def test_a_claim_takes_over_what_has_run_out_as_a_new_generation(subscribed: Any) -> None:
    runner = subscribed(PULL)
    runner.do(Claim("me", "w1"))
    runner.now += 30_000
    claimed = runner.do(Claim("you", "w2"))
    assert (claimed.holder, claimed.generation, claimed.wake_id) == ("you", 2, "w2")
    assert code(runner.do(Finish(ref(), "done"))) == "FENCED"


def test_only_pull_wakes_are_claimed(subscribed: Any) -> None:
    assert code(subscribed().do(Claim("me", "w1"))) == "INVALID_REQUEST"


# Acks.


@pytest.fixture
def held(subscribed: Any) -> Any:
    runner = subscribed(PULL, tails=[Tail("e/1", "a", 4)])
    runner.do(Claim("me", "w1"))
    return runner


def test_an_ack_moves_its_cursor_and_extends_the_lease(held: Any) -> None:
    held.now += 20_000
    kept = held.do(Finish(ref(), "ack", [acked("e/1", 6, "a", 9)]))
    assert (kept.phase, kept.until) == ("held", held.now + 30_000)
    assert cursor(held, "e/1") == Cursor("a", 6)
    done = held.do(Finish(ref(), "done", [acked("e/1", 9, "a", 9)]))
    assert done == Lease("idle", 1)
    assert cursor(held, "e/1") == Cursor("a", 9)


def test_a_stream_without_a_cursor_gets_one_by_its_first_ack(held: Any) -> None:
    held.do(Finish(ref(), "ack", [acked("e/2", 3, "b", 3)]))
    assert cursor(held, "e/2") == Cursor("b", 3)


def test_a_stream_created_again_begins_anew(held: Any) -> None:
    held.do(Finish(ref(), "ack", [acked("e/1", 2, "b", 3)]))
    assert cursor(held, "e/1") == Cursor("b", 2)


def test_a_cursor_in_data_that_the_store_lost_is_no_obstacle(held: Any) -> None:
    one, two = timeline_at(1), timeline_at(2)
    before = Head("a", b"", tail=9, timeline=one)
    held.do(Finish(ref(), "ack", [AckedStream("e/1", before.tail_offset, before)]))
    after = Head("a", b"", tail=5, timeline=one).moved_on(two)
    held.do(Finish(ref(), "ack", [AckedStream("e/1", after.tail_offset, after)]))
    assert cursor(held, "e/1") == Cursor("a", 5, timeline=one)


@pytest.mark.parametrize(
    "ack",
    [
        acked("e/1", 10, "a", 9),
        acked("e/1", 3, "a", 9),
        AckedStream("e/1", Offset(NO_TIMELINE, 6)),
        acked("other", 1, "b", 9),
    ],
)
def test_an_ack_that_cannot_be_moves_nothing(held: Any, ack: Any) -> None:
    acks = [acked("e/2", 1, "b", 9), ack]
    assert code(held.do(Finish(ref(), "done", acks))) == "INVALID_OFFSET"
    assert cursor(held, "e/1") == Cursor("a", 4)
    assert cursor(held, "e/2") is None
    assert lease(held).phase == "held"


def test_acks_of_one_request_count_in_their_order(held: Any) -> None:
    first, second = acked("e/1", 8, "a", 9), acked("e/1", 6, "a", 9)
    assert code(held.do(Finish(ref(), "ack", [first, second]))) == "INVALID_OFFSET"
    held.do(Finish(ref(), "ack", [second, first]))
    assert cursor(held, "e/1") == Cursor("a", 8)


def test_what_a_snapshot_was_overtaken_by_is_passed_over(held: Any) -> None:
    held.do(AddStreams([Tail("y", "c", 1)]))
    acks = [acked("e/1", 3, "a", 9), acked("gone", 3, "g", 9),
            acked("y", 4, "c", 4)]  # fmt: skip
    assert held.do(Finish(ref(), "done", acks, snapshot=True)).phase == "idle"
    assert cursor(held, "e/1") == Cursor("a", 4)
    assert cursor(held, "gone") is None
    assert cursor(held, "y") == Cursor("c", 4, True)


@pytest.mark.parametrize(
    "stale",
    [
        ref(generation=2),
        ref(wake_id="w0"),
        ref(incarnation="before"),
        ref(token_generation=2),
    ],
)
@pytest.mark.parametrize("step", ["ack", "done", "release"])
def test_requests_about_another_wake_are_fenced(held: Any, stale: Any, step: str) -> None:
    assert code(held.do(Finish(stale, step))) == "FENCED"
    assert lease(held).phase == "held"


def test_a_lease_that_is_over_fences_before_anybody_has_noticed(held: Any) -> None:
    held.now += 30_000
    assert code(held.do(Finish(ref(), "ack"))) == "FENCED"


def test_a_finished_wake_is_over(held: Any) -> None:
    assert held.do(Finish(ref(), "release")).phase == "idle"
    for step in ("ack", "done", "release"):
        assert code(held.do(Finish(ref(), step))) == "FENCED"
    held.do(Unsubscribe())
    assert code(held.do(Finish(ref(), "done"))) == "SUBSCRIPTION_NOT_FOUND"


def test_a_callback_may_come_before_the_answer_or_after_a_failure(subscribed: Any) -> None:
    for failed in (False, True):
        runner = subscribed()
        wake(runner)
        if failed:
            runner.do(Step("i", "fail", "w1", Changes(until=runner.now + 1000)))
        assert runner.do(Finish(ref(), "ack")).phase == "held"
        assert runner.do(Finish(ref(), "done")).phase == "idle"
