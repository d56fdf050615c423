"""Every change to a subscription: what it answers, what it leaves behind, what it refuses."""

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
def subscribed(new_desk):
    def subscribed(config=WEBHOOK, **more):
        desk = new_desk("__ds/subscriptions/s")
        desk.do(Subscribe("i", config, BASE, **more))
        return desk

    return subscribed


def cursor(desk, stream):
    return decode_cursor(desk.facts(CURSOR + stream).fields[CURSOR + stream])


def lease(desk):
    return decode_lease(desk.facts(LEASE).fields[LEASE])


def wake(desk, wake_id="w1"):
    return desk.do(Step("i", "wake", changes=Changes(wake_id=wake_id, stream="e/1", driver="d")))


def ref(generation=1, wake_id="w1", incarnation="i", token_generation=None):
    return WakeRef(incarnation, token_generation or generation, generation, wake_id)


def acked(stream, position, incarnation, tail):
    return AckedStream(stream, Offset(NO_TIMELINE, position), Head(incarnation, b"", tail=tail))


def code(answer):
    return getattr(answer, "code", answer)


# Creating.


def test_a_subscription_links_streams_where_they_end(subscribed):
    desk = subscribed(tails=[Tail("x"), Tail("e/1", "inc", 7)])
    birth = birth_of(desk.head())
    assert (birth.config, birth.hash, birth.created) == (WEBHOOK, WEBHOOK.hash(), desk.now)
    assert cursor(desk, "x") == Cursor("", 0, True)
    assert cursor(desk, "e/1") == Cursor("inc", 7)
    assert lease(desk) == Lease()
    assert desk.head().deadline == 0


def test_the_same_wish_confirms_and_another_is_refused(subscribed):
    desk = subscribed()
    again = desk.do(Subscribe("j", WEBHOOK, BASE, [Tail("e/1", "inc", 7)], confirm=True))
    assert (again.new, again.linking, again.head.incarnation) == (False, False, "i")
    assert cursor(desk, "e/1") is None
    assert code(desk.do(Subscribe("j", PULL, BASE))) == "SUBSCRIPTION_ALREADY_EXISTS"


def test_confirming_remembers_where_the_server_is_now(subscribed):
    desk = subscribed()
    moved = BaseUrl("https://b.example", "/")
    desk.do(Subscribe("j", WEBHOOK, moved))
    assert decode_base_url(desk.facts(BASE_URL).fields[BASE_URL]) == moved


def test_confirming_creates_nothing(new_desk):
    desk = new_desk("__ds/subscriptions/s")
    assert desk.do(Subscribe("i", WEBHOOK, BASE, confirm=True)) is None
    assert desk.head() is None


def test_many_cursors_are_written_before_anybody_knows_of_it(subscribed):
    desk = subscribed(tails=[Tail("e/1", "a", 1)], linking=True)
    assert desk.head().state == "linking"
    assert desk.head().deadline > desk.now
    assert code(desk.do(AddStreams([Tail("y")]))) == "SUBSCRIPTION_NOT_FOUND"
    assert wake(desk) is None
    assert desk.do(Subscribe("j", WEBHOOK, BASE)).linking

    assert desk.do(LinkMore("i", [Tail("e/1", "a", 9), Tail("e/2", "b", 2), Tail("x", "c", 3)]))
    assert not desk.do(LinkMore("other", []))
    assert desk.do(LinkMore("i", []))
    assert (desk.head().state, desk.head().deadline) == ("live", 0)
    assert cursor(desk, "e/1") == Cursor("a", 1)
    assert cursor(desk, "e/2") == Cursor("b", 2)
    assert cursor(desk, "x") == Cursor("c", 3, True)
    assert not desk.do(LinkMore("i", [Tail("e/3", "d", 1)]))
    desk.do(Unsubscribe())
    assert not desk.do(LinkMore("i", []))


def test_deleting_leaves_nothing(subscribed):
    desk = subscribed()
    assert desk.do(Unsubscribe()) is True
    assert desk.head() is None
    assert desk.do(Unsubscribe()) is False
    assert code(desk.do(RemoveStream("x"))) == "SUBSCRIPTION_NOT_FOUND"
    assert wake(desk) is None


# Membership.


def test_an_added_stream_counts_from_its_tail(subscribed):
    desk = subscribed()
    desk.do(AddStreams([Tail("y", "inc", 5), Tail("z")]))
    assert cursor(desk, "y") == Cursor("inc", 5, True)
    assert cursor(desk, "z") == Cursor("", 0, True)


def test_an_added_stream_that_is_linked_stays_where_it_stands(subscribed):
    desk = subscribed(tails=[Tail("e/1", "inc", 5)])
    desk.do(AddStreams([Tail("e/1", "inc", 9), Tail("e/2", "inc2", 9)]))
    assert cursor(desk, "e/1") == Cursor("inc", 5, True)
    assert cursor(desk, "e/2") == Cursor("", 0, True)
    tail = desk.head().tail
    desk.do(AddStreams([Tail("e/1", "inc", 11)]))
    assert cursor(desk, "e/1") == Cursor("inc", 5, True)
    assert desk.head().tail == tail


def test_its_own_wake_stream_cannot_be_added(subscribed):
    desk = subscribed(PULL)
    assert code(desk.do(AddStreams([Tail("w", "inc", 1)]))) == "INVALID_REQUEST"


def test_removing_drops_the_explicit_link_only(subscribed):
    desk = subscribed()
    desk.do(AddStreams([Tail("y", "inc", 5), Tail("e/1", "inc", 5)]))
    before = desk.head().tail
    desk.do(RemoveStream("y"))
    desk.do(RemoveStream("e/1"))
    assert cursor(desk, "y") is None
    assert cursor(desk, "e/1") == Cursor("", 0, False)
    assert desk.head().tail == before + 2
    desk.do(RemoveStream("y"))
    desk.do(RemoveStream("e/1"))
    assert desk.head().tail == before + 2


def test_cursors_of_streams_that_are_gone_are_forgotten(subscribed):
    desk = subscribed(tails=[Tail("e/1", "a", 1), Tail("e/2", "b", 1), Tail("x", "c", 1)])
    gone = [Tail("e/1", "a"), Tail("e/2", "older"), Tail("x", "c"), Tail("e/9", "z")]
    desk.do(ForgetStreams("other", gone))
    assert cursor(desk, "e/1") is not None
    desk.do(ForgetStreams("i", gone))
    assert cursor(desk, "e/1") is None
    assert cursor(desk, "e/2") is not None
    assert cursor(desk, "x") is not None


# Steps of drivers.


def test_a_wake_is_one_generation_and_sets_the_timer(subscribed):
    desk = subscribed()
    woken = wake(desk)
    assert woken == lease(desk)
    assert woken == Lease("waking", 1, "w1", "", desk.now + 30_000, 0, "e/1", "d")
    assert desk.head().deadline == woken.until
    assert wake(desk, "w2") is None


def test_steps_about_another_wake_do_nothing(subscribed):
    desk = subscribed()
    wake(desk)
    assert desk.do(Step("i", "accept", "w0")) is None
    assert desk.do(Step("other", "accept", "w1")) is None
    assert desk.do(Step("i", "release", "w1")) is None
    assert desk.do(Step("i", "expire")) is None
    assert lease(desk).phase == "waking"


def test_a_failed_delivery_is_retried_when_its_time_comes(subscribed):
    desk = subscribed()
    wake(desk)
    retry = desk.now + 1200
    failed = desk.do(Step("i", "fail", "w1", Changes(until=retry)))
    assert (failed.phase, failed.until, failed.attempts) == ("retrying", retry, 1)
    assert desk.head().deadline == retry
    again = desk.do(Step("i", "again", "w1", Changes(driver="e")))
    assert (again.phase, again.generation, again.wake_id, again.driver) == ("waking", 1, "w1", "e")
    assert desk.do(Step("i", "accept", "w1")).attempts == 0


def test_a_lease_that_is_over_ends(subscribed):
    desk = subscribed()
    wake(desk)
    desk.now += 30_000
    assert desk.do(Step("i", "expire")) == Lease("idle", 1)
    assert desk.head().deadline == 0
    assert wake(desk, "w2").generation == 2


def test_others_are_told_where_the_driver_is_another_process(subscribed):
    desk = subscribed(PULL)
    before = desk.head().tail
    wake(desk)
    assert desk.head().tail == before
    desk.do(Claim("me", "w1", nudge=True))
    assert desk.head().tail == before + 1
    desk.do(Finish(ref(), "ack", nudge=True))
    assert desk.head().tail == before + 1
    desk.do(Finish(ref(), "done", nudge=True))
    assert desk.head().tail == before + 2


# Claims.


def test_one_worker_claims_a_wake(subscribed):
    desk = subscribed(PULL)
    assert wake(desk).phase == "waiting"
    assert desk.head().deadline == 0
    claimed = desk.do(Claim("me", "unused"))
    assert (claimed.holder, claimed.generation, claimed.wake_id) == ("me", 1, "w1")
    assert desk.head().deadline == desk.now + 30_000
    refused = desk.do(Claim("you", "unused"))
    assert refused.code == "ALREADY_CLAIMED"
    assert refused.details == {"current_holder": "me", "generation": 1}


def test_a_claim_before_the_wake_is_one_itself(subscribed):
    desk = subscribed(PULL)
    claimed = desk.do(Claim("me", "w7", "e/1"))
    assert (claimed.generation, claimed.wake_id, claimed.stream) == (1, "w7", "e/1")
    assert wake(desk) is None


def test_a_claim_takes_over_what_has_run_out_as_a_new_generation(subscribed):
    desk = subscribed(PULL)
    desk.do(Claim("me", "w1"))
    desk.now += 30_000
    claimed = desk.do(Claim("you", "w2"))
    assert (claimed.holder, claimed.generation, claimed.wake_id) == ("you", 2, "w2")
    assert code(desk.do(Finish(ref(), "done"))) == "FENCED"


def test_only_pull_wakes_are_claimed(subscribed):
    assert code(subscribed().do(Claim("me", "w1"))) == "INVALID_REQUEST"


# Acks.


@pytest.fixture
def held(subscribed):
    desk = subscribed(PULL, tails=[Tail("e/1", "a", 4)])
    desk.do(Claim("me", "w1"))
    return desk


def test_an_ack_moves_its_cursor_and_extends_the_lease(held):
    held.now += 20_000
    kept = held.do(Finish(ref(), "ack", [acked("e/1", 6, "a", 9)]))
    assert (kept.phase, kept.until) == ("held", held.now + 30_000)
    assert cursor(held, "e/1") == Cursor("a", 6)
    done = held.do(Finish(ref(), "done", [acked("e/1", 9, "a", 9)]))
    assert done == Lease("idle", 1)
    assert cursor(held, "e/1") == Cursor("a", 9)


def test_a_stream_without_a_cursor_gets_one_by_its_first_ack(held):
    held.do(Finish(ref(), "ack", [acked("e/2", 3, "b", 3)]))
    assert cursor(held, "e/2") == Cursor("b", 3)


def test_a_stream_created_again_begins_anew(held):
    held.do(Finish(ref(), "ack", [acked("e/1", 2, "b", 3)]))
    assert cursor(held, "e/1") == Cursor("b", 2)


def test_a_cursor_in_data_that_the_store_lost_is_no_obstacle(held):
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
def test_an_ack_that_cannot_be_moves_nothing(held, ack):
    acks = [acked("e/2", 1, "b", 9), ack]
    assert code(held.do(Finish(ref(), "done", acks))) == "INVALID_OFFSET"
    assert cursor(held, "e/1") == Cursor("a", 4)
    assert cursor(held, "e/2") is None
    assert lease(held).phase == "held"


def test_acks_of_one_request_count_in_their_order(held):
    first, second = acked("e/1", 8, "a", 9), acked("e/1", 6, "a", 9)
    assert code(held.do(Finish(ref(), "ack", [first, second]))) == "INVALID_OFFSET"
    held.do(Finish(ref(), "ack", [second, first]))
    assert cursor(held, "e/1") == Cursor("a", 8)


def test_what_a_snapshot_was_overtaken_by_is_passed_over(held):
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
def test_requests_about_another_wake_are_fenced(held, stale, step):
    assert code(held.do(Finish(stale, step))) == "FENCED"
    assert lease(held).phase == "held"


def test_a_lease_that_is_over_fences_before_anybody_has_noticed(held):
    held.now += 30_000
    assert code(held.do(Finish(ref(), "ack"))) == "FENCED"


def test_a_finished_wake_is_over(held):
    assert held.do(Finish(ref(), "release")).phase == "idle"
    for step in ("ack", "done", "release"):
        assert code(held.do(Finish(ref(), step))) == "FENCED"
    held.do(Unsubscribe())
    assert code(held.do(Finish(ref(), "done"))) == "SUBSCRIPTION_NOT_FOUND"


def test_a_callback_may_come_before_the_answer_or_after_a_failure(subscribed):
    for failed in (False, True):
        desk = subscribed()
        wake(desk)
        if failed:
            desk.do(Step("i", "fail", "w1", Changes(until=desk.now + 1000)))
        assert desk.do(Finish(ref(), "ack")).phase == "held"
        assert desk.do(Finish(ref(), "done")).phase == "idle"
