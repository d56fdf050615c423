"""Several processes over one store, and a process that comes after another (§7.3)."""

import asyncio
from typing import Any

import pytest
from aiohttp import web
from remote import RemoteStore

from durable_streams_core.entities import Refused
from durable_streams_core.errors import SubscriptionError
from durable_streams_server import MemoryStore


@pytest.fixture
def stores(memory: MemoryStore) -> Any:
    """Two processes' views of one store."""
    return RemoteStore(memory), RemoteStore(memory)


def driver_of(nodes: Any, path: Any = "__ds/subscriptions/s") -> Any:
    return [node for node in nodes if node.subscriptions.driver.get(path) is not None]


async def accepted(_webhook: Any) -> Any:
    return web.Response(status=202)


async def until_both_see_each_other(*found: Any) -> None:
    async def seen() -> Any:
        return all(len(d.subscriptions.driver.membership.members) == len(found) for d in found)

    for node in found:
        node.subscriptions.driver.membership.review_soon()
    await found[0].until(seen)


async def crash(node: Any, memory: Any) -> None:
    """End a process without a word: nothing of it is written any more."""
    node.engine.store.fate = lambda _commit: Refused("unavailable", "The process is dead.")
    await node.subscriptions.driver.abort()


async def test_before_anybody_subscribes_nothing_is_written(stores: Any, nodes: Any) -> None:
    await nodes(stores[0])
    assert not stores[0].sent


async def test_one_process_drives_each_subscription(stores: Any, nodes: Any, receiver: Any) -> None:
    both = [await nodes(store) for store in stores]
    for n in range(20):
        await both[n % 2].webhook(f"s{n}", receiver.url, pattern=f"events/{n}/*")
    await until_both_see_each_other(*both)

    async def shared_out() -> Any:
        driven = [node.subscriptions.driver.paths() for node in both]
        return all(driven) and not driven[0] & driven[1] and len(driven[0] | driven[1]) == 20

    await both[0].until(shared_out)
    for n in range(20):
        await both[(n + 1) % 2].engine.create(f"events/{n}/a", data=b"x")
    webhooks = [await receiver.next() for _ in range(20)]
    assert {t.body["subscription_id"] for t in webhooks} == {f"s{n}" for n in range(20)}
    assert {t.body["generation"] for t in webhooks} == {1}


async def test_any_process_answers_workers_and_the_driver_hears_of_it(
    stores: Any, nodes: Any, receiver: Any
) -> None:
    both = [await nodes(store) for store in stores]
    receiver.answer = accepted
    await both[0].webhook("s", receiver.url)
    await until_both_see_each_other(*both)

    async def one_drives() -> Any:
        return len(driver_of(both)) == 1

    await both[0].until(one_drives)
    (driving,) = driver_of(both)
    (other,) = [node for node in both if node is not driving]
    await other.engine.create("events/a", data=b"x")
    webhook = await receiver.next()
    await other.engine.append("events/a", b"y")
    over = await other.subscriptions.callback("s", webhook.token, webhook.ack())
    assert over == {"ok": True, "next_wake": True}
    again = await receiver.next()
    assert again.body["generation"] == 2
    over = await other.subscriptions.callback("s", again.token, again.ack())
    assert over == {"ok": True, "next_wake": False}
    await other.subscriptions.add_streams("s", ["x"])
    await other.engine.create("x", data=b"x")
    assert (await receiver.next()).stream("x")["link_type"] == "explicit"


async def test_each_process_knows_the_wake_streams_of_all(stores: Any, nodes: Any) -> None:
    """Also those of subscriptions that another one made, and drives."""
    both = [await nodes(store) for store in stores]
    for n, node in enumerate(both):
        await node.engine.create(f"wake/{n}", content_type="application/json")
    for n in range(20):
        await both[n % 2].pull(f"s{n}", pattern="**", wake_stream=f"wake/{n % 2}")
    await until_both_see_each_other(*both)

    async def known() -> Any:
        return all(f"wake/{n}" in d.subscriptions.driver.wake_streams for d in both for n in (0, 1))

    await both[0].until(known)
    await both[0].engine.create("events/a", data=b"one")
    for n in range(20):
        for node in both:
            assert set(await node.links(f"s{n}")) == {"events/a"}
        await both[n % 2].until_phase(f"s{n}", "waiting")

    for n in range(1, 20, 2):
        await both[0].subscriptions.delete(f"s{n}")

    async def forgotten() -> Any:
        return not any("wake/1" in node.subscriptions.driver.wake_streams for node in both)

    await both[0].until(forgotten)
    assert set(await both[1].links("s0")) == {"events/a", "wake/1"}


async def test_what_is_made_while_all_are_looked_at_is_not_dropped(
    memory: MemoryStore, nodes: Any, receiver: Any
) -> None:
    """It was not there yet when its part of the list was read."""
    store = RemoteStore(memory)
    node = await nodes(store)
    await node.webhook("b", receiver.url)
    listed = store.list

    async def list_before(prefix: Any, after: Any, limit: Any) -> Any:
        rows = await listed(prefix, after, limit)
        store.list = listed
        await node.webhook("a", receiver.url, pattern="later/*")
        return rows

    store.list = list_before
    await node.subscriptions.driver.scan()
    await node.engine.create("later/x", data=b"x")
    assert (await receiver.next()).body["subscription_id"] == "a"


async def test_one_that_was_not_listening_learns_what_it_missed(
    memory: MemoryStore, nodes: Any
) -> None:
    """A subscription is deleted unnoticed: its wake stream is then an ordinary stream."""
    store = RemoteStore(memory)
    node, other = await nodes(store), await nodes(RemoteStore(memory))
    await node.engine.create("wake/t", content_type="application/json", data=[1])
    await node.pull("t", pattern="events/*", wake_stream="wake/t")
    await node.pull("s", pattern="**", wake_stream="wake/s")
    node.subscriptions.driver.stop_watching()
    await other.subscriptions.delete("t")
    assert await node.links("s") == {}
    node.subscriptions.driver.changed(None)

    async def linked() -> Any:
        return set(await node.links("s")) == {"wake/t"}

    await node.until(linked)


async def test_another_takes_over_within_one_lease_and_delivers_what_was_on_its_way(
    stores: Any, memory: MemoryStore, nodes: Any, receiver: Any, clock: Any
) -> None:
    both = [await nodes(store, member_lease=3.0) for store in stores]
    hang = asyncio.Event()

    async def never(_webhook: Any) -> Any:
        await hang.wait()
        return web.json_response({"done": True})

    receiver.answer = never
    await both[0].webhook("s", receiver.url)
    await until_both_see_each_other(*both)

    async def one_drives() -> Any:
        return len(driver_of(both)) == 1

    await both[0].until(one_drives)
    (driving,) = driver_of(both)
    (other,) = [node for node in both if node is not driving]
    await other.engine.create("events/a", data=b"x")
    first = await receiver.next()
    await crash(driving, memory)
    receiver.answer = lambda _webhook: asyncio.sleep(0, web.json_response({"done": True}))
    clock.advance(3.1)
    other.subscriptions.driver.membership.review_soon()
    again = await receiver.next()
    assert again.body["wake_id"] == first.body["wake_id"]
    await other.until_acked("s", "events/a", again.stream("events/a")["tail_offset"])
    await other.engine.append("events/a", b"y")
    assert (await receiver.next()).body["generation"] == 2
    hang.set()


async def test_leaving_hands_over_at_once(stores: Any, nodes: Any, receiver: Any) -> None:
    both = [await nodes(store) for store in stores]
    await both[0].webhook("s", receiver.url)
    await until_both_see_each_other(*both)

    async def one_drives() -> Any:
        return len(driver_of(both)) == 1

    await both[0].until(one_drives)
    (driving,) = driver_of(both)
    (other,) = [node for node in both if node is not driving]
    await driving.engine.stop()

    async def taken_over() -> Any:
        return driver_of([other]) == [other]

    await other.until(taken_over)
    await other.engine.create("events/a", data=b"x")
    await receiver.next()


async def test_a_resync_looks_at_everything_once(
    stores: Any, memory: MemoryStore, nodes: Any, receiver: Any
) -> None:
    node = await nodes(stores[0])
    await node.webhook("s", receiver.url)
    await node.until(lambda: _looked(node))
    node.subscriptions.driver.stop_watching()
    # Unnoticed: a stream of another process, and a subscription.
    await node.engine.create("events/a", data=b"x")
    assert receiver.queue.empty()
    node.subscriptions.driver.changed(None)
    await receiver.next()


async def _looked(node: Any) -> Any:
    state = node.subscriptions.driver.get("__ds/subscriptions/s")
    return state is not None and state.complete and state.step_task is None


@pytest.mark.parametrize("phase", ["waking", "held", "idle"])
async def test_a_wake_outlives_the_process(
    memory: MemoryStore, nodes: Any, receiver: Any, clock: Any, phase: str
) -> None:
    first = await nodes(memory)
    hang = asyncio.Event()

    async def never(_webhook: Any) -> Any:
        await hang.wait()
        return web.Response(status=500)

    receiver.answer = accepted if phase == "held" else never
    await first.webhook("s", receiver.url, lease_ttl_ms=5000)
    if phase != "idle":
        await first.engine.create("events/a", data=b"x")
        webhook = await receiver.next()
    if phase == "held":
        await first.until_phase("s", "held")
    await _kill(first)
    if phase == "idle":
        # Appended, and not yet noticed when the process died.
        deaf = await nodes(memory)
        deaf.subscriptions.driver.stop_watching()
        await deaf.engine.create("events/a", data=b"x")
        await _kill(deaf)
    receiver.answer = lambda _webhook: asyncio.sleep(0, web.json_response({"done": True}))
    second = await nodes(memory)
    if phase == "held":
        # The holder of the lease may still be working.
        assert receiver.queue.empty()
        await second.subscriptions.callback("s", webhook.token, webhook.ack())
        await second.engine.append("events/a", b"y")
    again = await receiver.next()
    assert again.body["generation"] == (2 if phase == "held" else 1)
    hang.set()


async def _kill(node: Any) -> None:
    """Stop a process without letting it write down how its deliveries ended."""
    await node.subscriptions.driver.abort()
    await node.engine.stop()


async def test_claims_race_between_processes(stores: Any, nodes: Any) -> None:
    both = [await nodes(store) for store in stores]
    await both[0].engine.create("wake/pool", content_type="application/json")
    await both[0].pull("s")
    await both[1].engine.create("events/a", data=b"x")
    answers = await asyncio.gather(
        *(both[n % 2].subscriptions.claim("s", f"w{n}") for n in range(10)), return_exceptions=True
    )
    (claim,) = [a for a in answers if isinstance(a, dict)]
    assert all(isinstance(a, SubscriptionError) for a in answers if a is not claim)
    (event,) = await both[0].until_wakes(1)
    assert event["generation"] == claim["generation"] == 1
