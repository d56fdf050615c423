"""Webhook delivery (§7.1): done at once, done later, not done at all."""

import asyncio
import socket
from typing import Any

import pytest
from aiohttp import web

from durable_streams_core.errors import SubscriptionError
from durable_streams_server import MemoryStore


async def done(_told: Any) -> Any:
    return web.json_response({"done": True})


async def accepted(_told: Any) -> Any:
    return web.Response(status=202)


async def test_done_acks_the_snapshot_and_what_comes_later_wakes_again(
    desk: Any, receiver: Any
) -> None:
    answer = asyncio.Event()

    async def slow(_told: Any) -> Any:
        await answer.wait()
        return await done(_told)

    receiver.answer = slow
    await desk.webhook("s", receiver.url)
    await desk.engine.create("events/a", data=b"one")
    first = await receiver.next()
    assert first.stream("events/a")["acked_offset"] == "-1"
    assert first.stream("events/a")["has_pending"] is True
    later = await desk.engine.append("events/a", b"two")
    answer.set()
    second = await receiver.next()
    assert second.body["generation"] == first.body["generation"] + 1
    assert second.body["wake_id"] != first.body["wake_id"]
    one = first.stream("events/a")["tail_offset"]
    assert second.stream("events/a")["acked_offset"] == one
    assert second.stream("events/a")["tail_offset"] == later.offset
    await desk.until_acked("s", "events/a", later.offset)
    assert receiver.told == 2


async def test_a_callback_acks_and_fences_what_is_stale(desk: Any, receiver: Any) -> None:
    receiver.answer = accepted
    await desk.webhook("s", receiver.url)
    await desk.engine.create("events/a", data=b"one")
    told = await receiver.next()
    assert told.body["callback_url"] == (
        "http://server.example/v1/stream/__ds/subscriptions/s/callback"
    )
    kept = await desk.subscriptions.callback("s", told.token, {**told.ack(), "done": False})
    assert kept == {"ok": True, "next_wake": False}
    over = await desk.subscriptions.callback("s", told.token, told.ack())
    assert over == {"ok": True, "next_wake": False}
    with pytest.raises(SubscriptionError, match="over") as raised:
        await desk.subscriptions.callback("s", told.token, told.ack())
    assert (raised.value.code, raised.value.status) == ("FENCED", 409)


async def test_done_without_all_acks_wakes_again(desk: Any, receiver: Any) -> None:
    receiver.answer = accepted
    await desk.webhook("s", receiver.url)
    await desk.engine.create("events/a", data=b"one")
    told = await receiver.next()
    over = await desk.subscriptions.callback("s", told.token, {**told.ack(), "acks": []})
    assert over == {"ok": True, "next_wake": True}
    assert (await receiver.next()).body["generation"] == 2


async def test_a_lease_that_ends_wakes_again_and_fences_the_worker(
    desk: Any, receiver: Any, clock: Any
) -> None:
    receiver.answer = accepted
    await desk.webhook("s", receiver.url, lease_ttl_ms=1000)
    await desk.engine.create("events/a", data=b"one")
    told = await receiver.next()
    await desk.until_phase("s", "held")
    clock.advance(2)
    await desk.engine.sweep()
    again = await receiver.next()
    assert again.body["generation"] == 2
    with pytest.raises(SubscriptionError):
        await desk.subscriptions.callback("s", told.token, told.ack())
    await desk.subscriptions.callback("s", again.token, again.ack())


@pytest.mark.parametrize("status", [301, 302, 307, 400, 404, 500, 503])
async def test_what_is_no_success_is_tried_again_and_redirects_are_not_followed(
    desk: Any, receiver: Any, clock: Any, status: int
) -> None:
    async def answer(told: Any) -> Any:
        return web.Response(status=status, headers={"Location": receiver.url + "/elsewhere"})

    receiver.answer = answer
    await desk.webhook("s", receiver.url)
    await desk.engine.create("events/a", data=b"one")
    first = await receiver.next()
    await desk.until_scheduled("s")
    described = await desk.subscriptions.describe("s")
    assert described["next_attempt_at"] > described["created_at"]
    assert receiver.told == 1
    receiver.answer = done
    clock.advance(1.3)
    await desk.engine.sweep()
    again = await receiver.next()
    assert (again.body["wake_id"], again.body["generation"]) == (first.body["wake_id"], 1)
    await desk.until_acked("s", "events/a", again.stream("events/a")["tail_offset"])
    assert (await desk.subscriptions.describe("s"))["status"] == "active"


async def test_the_schedule_of_retries_outlives_the_process(
    desks: Any, receiver: Any, clock: Any
) -> None:
    store = MemoryStore(clock=clock)
    receiver.answer = lambda _told: asyncio.sleep(0, web.Response(status=500))
    desk = await desks(store)
    await desk.webhook("s", receiver.url)
    await desk.engine.create("events/a", data=b"one")
    for attempt, least in enumerate((0.8, 1.6, 3.2)):
        await receiver.next()
        await desk.until_scheduled("s")
        before = (await desk.subscriptions.describe("s"))["next_attempt_at"]
        await desk.engine.stop()
        desk = await desks(store)
        assert (await desk.subscriptions.describe("s"))["next_attempt_at"] == before
        clock.advance(least - 0.05)
        await desk.engine.sweep()
        assert receiver.queue.empty(), attempt
        clock.advance(least)
        await desk.engine.sweep()
    assert (await receiver.next()).body["generation"] == 1


async def test_a_receiver_that_takes_too_long_counts_as_failed(
    desks: Any, memory: MemoryStore, receiver: Any
) -> None:
    never = asyncio.Event()

    async def hang(_told: Any) -> Any:
        await never.wait()
        return web.Response()

    receiver.answer = hang
    desk = await desks(memory, webhook_timeout=0.05)
    await desk.webhook("s", receiver.url)
    await desk.engine.create("events/a", data=b"one")
    await receiver.next()
    await desk.until_status("s", "failed")
    never.set()


async def test_a_receiver_that_is_not_there_counts_as_failed(desk: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    await desk.webhook("s", f"http://127.0.0.1:{port}/")
    await desk.engine.create("events/a", data=b"one")
    await desk.until_status("s", "failed")


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"[]", b"no json", b'{"done": 1}', b"\xff", b'{"done":true}' + b" " * 70_000],
)
async def test_an_answer_that_does_not_say_done_is_a_worker_that_goes_on(
    desk: Any, receiver: Any, body: bytes
) -> None:
    async def answer(_told: Any) -> Any:
        return web.Response(body=body, content_type="application/json")

    receiver.answer = answer
    await desk.webhook("s", receiver.url)
    await desk.engine.create("events/a", data=b"one")
    told = await receiver.next()
    await desk.until_phase("s", "held")
    assert (await desk.subscriptions.callback("s", told.token, told.ack()))["ok"]


@pytest.mark.parametrize("address", ["10.0.0.1", "169.254.169.254", "127.0.0.1", "::1"])
async def test_a_name_that_resolves_to_an_inner_address_is_not_connected_to(
    desk: Any, monkeypatch: pytest.MonkeyPatch, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    """DNS may answer one thing when a URL is judged and another when it is used."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET

    async def resolve(self: Any, host: Any, port: Any = 0, family_: Any = 0, **_: Any) -> Any:
        return [
            {"hostname": host, "host": address, "port": port, "family": family, "proto": 0,
             "flags": 0}
        ]  # fmt: skip

    monkeypatch.setattr("aiohttp.resolver.ThreadedResolver.resolve", resolve)
    monkeypatch.setattr("aiohttp.connector.DefaultResolver.resolve", resolve)
    await desk.webhook("s", "https://rebound.example/")
    await desk.engine.create("events/a", data=b"one")
    await desk.until_status("s", "failed")
    assert f"the address {address} is not one for webhooks" in caplog.text


async def test_deleting_ends_everything(desk: Any, receiver: Any) -> None:
    receiver.answer = accepted
    await desk.webhook("s", receiver.url)
    await desk.engine.create("events/a", data=b"one")
    told = await receiver.next()
    await desk.subscriptions.delete("s")
    with pytest.raises(SubscriptionError) as raised:
        await desk.subscriptions.callback("s", told.token, told.ack())
    assert raised.value.code == "SUBSCRIPTION_NOT_FOUND"

    # One of the same name begins anew, and the old one's token is not for it.
    await desk.webhook("s", receiver.url)
    await desk.engine.append("events/a", b"two")
    await receiver.next()
    with pytest.raises(SubscriptionError) as raised:
        await desk.subscriptions.callback("s", told.token, told.ack())
    assert raised.value.code == "FENCED"
