"""Pull-wake (§7.2): events on an ordinary stream, claims, heartbeats, releases, leases that end."""

import asyncio
from typing import Any

import pytest
from tokens import NOT_REACHED, at

from durable_streams_core.errors import SubscriptionError


def ack_of(claim: Any, *, done: Any = True, acks: Any = True) -> Any:
    streams = claim["streams"] if acks else []
    return {
        "wake_id": claim["wake_id"],
        "generation": claim["generation"],
        "acks": [{"stream": s["path"], "offset": s["tail_offset"]} for s in streams],
        "done": done,
    }


@pytest.fixture
async def pulling(node: Any) -> Any:
    await node.engine.create("wake/pool", content_type="application/json")
    await node.pull("s", lease_ttl_ms=1000)
    return node


async def test_a_wake_is_one_event_and_one_worker_claims_it(pulling: Any) -> None:
    await pulling.engine.create("events/a", data=b"one")
    (event,) = await pulling.until_wakes(1)
    assert {k: v for k, v in event.items() if k != "ts"} == {
        "type": "wake", "subscription_id": "s", "stream": "events/a", "generation": 1,
    }  # fmt: skip
    answers = await asyncio.gather(
        *(pulling.subscriptions.claim("s", f"w{n}") for n in range(8)), return_exceptions=True
    )
    (claim,) = [answer for answer in answers if isinstance(answer, dict)]
    assert claim["generation"] == 1
    for lost in answers:
        if lost is not claim:
            assert (lost.code, lost.details["generation"]) == ("ALREADY_CLAIMED", 1)
            assert lost.details["current_holder"].startswith("w")
    done = await pulling.subscriptions.ack("s", claim["token"], ack_of(claim))
    assert done == {"ok": True, "next_wake": False}
    with pytest.raises(SubscriptionError) as raised:
        await pulling.subscriptions.claim("s", "w")
    assert raised.value.code == "NO_PENDING_WORK"
    assert len(await pulling.wakes()) == 1


async def test_acks_without_done_are_heartbeats(pulling: Any, clock: Any) -> None:
    await pulling.engine.create("events/a", data=b"one")
    claim = await pulling.subscriptions.claim("s", "w")
    for _ in range(3):
        clock.advance(0.9)
        await pulling.subscriptions.ack("s", claim["token"], ack_of(claim, done=False, acks=False))
        await pulling.engine.sweep()
    clock.advance(1)
    with pytest.raises(SubscriptionError) as raised:
        await pulling.subscriptions.ack("s", claim["token"], ack_of(claim))
    assert raised.value.code == "FENCED"


async def test_what_is_released_or_runs_out_wakes_others(pulling: Any, clock: Any) -> None:
    await pulling.engine.create("events/a", data=b"one")
    await pulling.until_wakes(1)
    claim = await pulling.subscriptions.claim("s", "w")
    await pulling.subscriptions.release("s", claim["token"], ack_of(claim))
    assert [event["generation"] for event in await pulling.until_wakes(2)] == [1, 2]
    second = await pulling.subscriptions.claim("s", "w")
    clock.advance(1)
    await pulling.engine.sweep()
    assert [event["generation"] for event in await pulling.until_wakes(3)] == [1, 2, 3]
    with pytest.raises(SubscriptionError):
        await pulling.subscriptions.ack("s", second["token"], ack_of(second))
    third = await pulling.subscriptions.claim("s", "w")
    assert third["generation"] == 3


async def test_what_comes_while_a_worker_is_at_it_is_the_next_wake(pulling: Any) -> None:
    await pulling.engine.create("events/a", data=b"one")
    await pulling.until_wakes(1)
    claim = await pulling.subscriptions.claim("s", "w")
    await pulling.engine.append("events/a", b"two")
    done = await pulling.subscriptions.ack("s", claim["token"], ack_of(claim))
    assert done == {"ok": True, "next_wake": True}
    assert len(await pulling.until_wakes(2)) == 2


async def test_a_wake_stream_that_comes_later_gets_the_wake_later(node: Any, clock: Any) -> None:
    await node.pull("s")
    await node.engine.create("events/a", data=b"one")
    await node.until_status("s", "failed")
    await node.engine.create("wake/pool", content_type="application/json")
    clock.advance(1.3)
    await node.engine.sweep()
    await node.until_wakes(1)
    await node.until_status("s", "active")


async def test_a_wake_stream_of_another_type_gets_lines(node: Any) -> None:
    await node.engine.create("wake/pool", content_type="application/x-ndjson")
    await node.pull("s")
    await node.engine.create("events/a", data=b"one")

    async def written() -> Any:
        return (await node.engine.read("wake/pool")).data

    await node.until(written)
    assert (await node.engine.read("wake/pool")).data.endswith(b"}\n")


async def test_its_own_wake_stream_wakes_nobody(node: Any) -> None:
    await node.engine.create("wake/pool", content_type="application/json")
    await node.pull("s", pattern="**")
    await node.engine.create("events/a", data=b"one")
    await node.until_wakes(1)
    claim = await node.subscriptions.claim("s", "w")
    assert [stream["path"] for stream in claim["streams"]] == ["events/a"]
    done = await node.subscriptions.ack("s", claim["token"], ack_of(claim))
    assert done["next_wake"] is False


@pytest.fixture
async def crossed(node: Any) -> Any:
    """Two subscriptions whose patterns cover each other's wake streams."""
    for name in ("s", "t"):
        await node.engine.create(f"wake/{name}", content_type="application/json")
        await node.pull(name, pattern="**", wake_stream=f"wake/{name}")
    return node


async def work(node: Any, name: Any) -> Any:
    """Claim what is pending and be done with it: the streams that there were."""
    try:
        claim = await node.subscriptions.claim(name, "w")
    except SubscriptionError as error:
        assert error.code == "NO_PENDING_WORK"
        return []
    await node.subscriptions.ack(name, claim["token"], ack_of(claim))
    return [stream["path"] for stream in claim["streams"]]


async def test_patterns_over_each_others_wake_streams_do_not_wake_for_ever(crossed: Any) -> None:
    for count in range(1, 4):
        await crossed.engine.create(f"events/{count}", data=b"one")
        for name in ("s", "t"):
            # The one woken last has written an event that could wake the other.
            await crossed.until_wakes(count, f"wake/{name}")
            assert await work(crossed, name) == [f"events/{count}"]
        assert await work(crossed, "s") == await work(crossed, "t") == []
    for name, other in ("st", "ts"):
        await crossed.until_phase(name, "idle")
        assert len(await crossed.wakes(f"wake/{name}")) == 3
        assert f"wake/{other}" not in await crossed.links(name)


async def test_what_becomes_a_wake_stream_leaves_the_patterns_and_returns_to_them(
    node: Any,
) -> None:
    await node.engine.create("wake/s", content_type="application/json")
    await node.pull("s", pattern="**", wake_stream="wake/s")
    await node.engine.create("wake/t", content_type="application/json", data=[1])
    await node.until_wakes(1, "wake/s")
    assert await work(node, "s") == ["wake/t"]
    linked = await node.links("s")
    assert set(linked) == {"wake/t"}

    await node.pull("t", pattern="events/*", wake_stream="wake/t")
    assert await node.links("s") == {}
    await node.engine.create("events/a", data=b"one")
    await node.until_wakes(2, "wake/t")
    assert await work(node, "s") == await work(node, "t") == ["events/a"]
    assert await work(node, "s") == []

    # Its content counts from the last cursor.
    await node.subscriptions.delete("t")
    await node.until_wakes(3, "wake/s")
    assert (await node.links("s"))["wake/t"] == linked["wake/t"]
    assert await work(node, "s") == ["wake/t"]


async def test_a_wake_stream_that_is_named_wakes_from_where_it_was_named(crossed: Any) -> None:
    await crossed.engine.create("events/a", data=b"one")
    await crossed.until_wakes(1, "wake/t")
    assert await work(crossed, "s") == await work(crossed, "t") == ["events/a"]
    await crossed.subscriptions.add_streams("s", ["wake/t"])
    kind, offset = (await crossed.links("s"))["wake/t"]
    assert (kind, offset) == ("explicit", (await crossed.engine.head("wake/t")).offset)
    await crossed.engine.append("events/a", b"two")
    await crossed.until_wakes(2, "wake/t")
    claim = await crossed.subscriptions.claim("s", "w")
    assert {stream["path"] for stream in claim["streams"]} == {"events/a", "wake/t"}
    await crossed.subscriptions.release("s", claim["token"], ack_of(claim))
    await crossed.subscriptions.remove_stream("s", "wake/t")
    assert set(await crossed.links("s")) == {"events/a"}


async def test_a_wake_stream_of_two_is_one_until_the_last_is_gone(node: Any) -> None:
    await node.engine.create("wake/t", content_type="application/json", data=[1])
    for name in ("t", "u"):
        await node.pull(name, pattern="other/*", wake_stream="wake/t")
    await node.pull("s", pattern="**")
    await node.subscriptions.delete("t")
    assert await node.links("s") == {}
    await node.subscriptions.delete("u")
    await node.until_status("s", "failed")  # it is woken, and has no stream to be told on
    assert set(await node.links("s")) == {"wake/t"}


async def test_work_that_vanishes_ends_the_wake(pulling: Any) -> None:
    await pulling.engine.create("events/a", data=b"one")
    await pulling.until_wakes(1)
    await pulling.engine.delete("events/a")
    with pytest.raises(SubscriptionError) as raised:
        await pulling.subscriptions.claim("s", "w")
    assert raised.value.code == "NO_PENDING_WORK"
    await pulling.engine.create("events/a", data=b"two")
    assert [event["generation"] for event in await pulling.until_wakes(2)] == [1, 2]


@pytest.mark.parametrize(
    "acks, code",
    [
        ([{"stream": "events/a", "offset": "-1"}], "INVALID_OFFSET"),
        ([{"stream": "events/a", "offset": "now"}], "INVALID_OFFSET"),
        ([{"stream": "events/a", "offset": NOT_REACHED}], "INVALID_OFFSET"),
        ([{"stream": "events/none", "offset": "0000000000000000_0000000000000000"}],
         "INVALID_OFFSET"),
        ([{"stream": "wake/pool", "offset": "0000000000000000_0000000000000000"}],
         "INVALID_OFFSET"),
        ([{"stream": "__ds/keys", "offset": "0000000000000000_0000000000000000"}],
         "INVALID_REQUEST"),
        ([{"offset": "0000000000000000_0000000000000000"}], "INVALID_REQUEST"),
        ([5], "INVALID_REQUEST"),
        ({}, "INVALID_REQUEST"),
        ([{}] * 10_001, "INVALID_REQUEST"),
    ],
)  # fmt: skip
async def test_acks_that_cannot_be(pulling: Any, acks: Any, code: str) -> None:
    await pulling.engine.create("events/a", content_type="application/json", data=[1, 2])
    claim = await pulling.subscriptions.claim("s", "w")
    with pytest.raises(SubscriptionError) as raised:
        await pulling.subscriptions.ack("s", claim["token"], {**ack_of(claim), "acks": acks})
    assert raised.value.code == code
    assert (await pulling.links("s"))["events/a"] == ("glob", "-1")


async def test_an_ack_inside_a_message_or_past_the_tail_is_refused(pulling: Any) -> None:
    created = await pulling.engine.create("events/a", content_type="application/json", data=[1, 2])
    claim = await pulling.subscriptions.claim("s", "w")
    for position in (1, 999):
        ack = {"stream": "events/a", "offset": at(created.offset, position)}
        with pytest.raises(SubscriptionError) as raised:
            await pulling.subscriptions.ack("s", claim["token"], {**ack_of(claim), "acks": [ack]})
        assert raised.value.code == "INVALID_OFFSET"
    assert (await pulling.links("s"))["events/a"] == ("glob", "-1")


async def test_an_ack_never_goes_backwards(pulling: Any) -> None:
    created = await pulling.engine.create("events/a", data=b"one")
    claim = await pulling.subscriptions.claim("s", "w")
    await pulling.subscriptions.ack("s", claim["token"], ack_of(claim, done=False))
    earlier = at(created.offset, 1)
    body = {**ack_of(claim), "acks": [{"stream": "events/a", "offset": earlier}]}
    with pytest.raises(SubscriptionError) as raised:
        await pulling.subscriptions.ack("s", claim["token"], body)
    assert raised.value.code == "INVALID_OFFSET"
    assert (await pulling.links("s"))["events/a"] == ("glob", created.offset)


async def test_an_ack_of_a_stream_that_was_replaced_is_refused_and_the_new_one_is_pending(
    pulling: Any,
) -> None:
    """Its worker has handled the old stream: acked, it would skip the beginning of the new one."""
    await pulling.engine.create("events/a", data=b"old")
    claim = await pulling.subscriptions.claim("s", "w")
    await pulling.engine.delete("events/a")
    new = await pulling.engine.create("events/a", data=b"newer data")
    with pytest.raises(SubscriptionError) as raised:
        await pulling.subscriptions.ack("s", claim["token"], ack_of(claim))
    assert (raised.value.code, raised.value.status) == ("INVALID_OFFSET", 409)
    assert "start again" in raised.value.message
    await pulling.subscriptions.release("s", claim["token"], ack_of(claim, acks=False))
    (pending,) = (await pulling.subscriptions.claim("s", "w"))["streams"]
    assert (pending["acked_offset"], pending["tail_offset"]) == ("-1", new.offset)
