"""Webhook delivery (§7.1): done at once, done later, not done at all."""

import asyncio
import socket
from typing import Any

import pytest
from aiohttp import web
from ports import free_port

from durable_streams_core.errors import SubscriptionError
from durable_streams_server import MemoryStore


async def done(_webhook: Any) -> Any:
    return web.json_response({"done": True})


async def accepted(_webhook: Any) -> Any:
    return web.Response(status=202)


async def test_done_acks_the_snapshot_and_what_comes_later_wakes_again(
    node: Any, receiver: Any
) -> None:
    answer = asyncio.Event()

    async def slow(_webhook: Any) -> Any:
        await answer.wait()
        return await done(_webhook)

    receiver.answer = slow
    await node.webhook("s", receiver.url)
    await node.engine.create("events/a", data=b"one")
    first = await receiver.next()
    assert first.stream("events/a")["acked_offset"] == "-1"
    assert first.stream("events/a")["has_pending"] is True
    later = await node.engine.append("events/a", b"two")
    answer.set()
    second = await receiver.next()
    assert second.body["generation"] == first.body["generation"] + 1
    assert second.body["wake_id"] != first.body["wake_id"]
    one = first.stream("events/a")["tail_offset"]
    assert second.stream("events/a")["acked_offset"] == one
    assert second.stream("events/a")["tail_offset"] == later.offset
    await node.until_acked("s", "events/a", later.offset)
    assert receiver.received == 2


async def test_a_callback_acks_and_fences_what_is_stale(node: Any, receiver: Any) -> None:
    receiver.answer = accepted
    await node.webhook("s", receiver.url)
    await node.engine.create("events/a", data=b"one")
    webhook = await receiver.next()
    assert webhook.body["callback_url"] == (
        "http://server.example/v1/stream/__ds/subscriptions/s/callback"
    )
    kept = await node.subscriptions.callback("s", webhook.token, {**webhook.ack(), "done": False})
    assert kept == {"ok": True, "next_wake": False}
    over = await node.subscriptions.callback("s", webhook.token, webhook.ack())
    assert over == {"ok": True, "next_wake": False}
    with pytest.raises(SubscriptionError, match="over") as raised:
        await node.subscriptions.callback("s", webhook.token, webhook.ack())
    assert (raised.value.code, raised.value.status) == ("FENCED", 409)


async def test_done_without_all_acks_wakes_again(node: Any, receiver: Any) -> None:
    receiver.answer = accepted
    await node.webhook("s", receiver.url)
    await node.engine.create("events/a", data=b"one")
    webhook = await receiver.next()
    over = await node.subscriptions.callback("s", webhook.token, {**webhook.ack(), "acks": []})
    assert over == {"ok": True, "next_wake": True}
    assert (await receiver.next()).body["generation"] == 2


async def test_a_lease_that_ends_wakes_again_and_fences_the_worker(
    node: Any, receiver: Any, clock: Any
) -> None:
    receiver.answer = accepted
    await node.webhook("s", receiver.url, lease_ttl_ms=1000)
    await node.engine.create("events/a", data=b"one")
    webhook = await receiver.next()
    await node.until_phase("s", "held")
    clock.advance(2)
    await node.engine.sweep()
    again = await receiver.next()
    assert again.body["generation"] == 2
    with pytest.raises(SubscriptionError):
        await node.subscriptions.callback("s", webhook.token, webhook.ack())
    await node.subscriptions.callback("s", again.token, again.ack())


@pytest.mark.parametrize("status", [301, 302, 307, 400, 404, 500, 503])
async def test_what_is_no_success_is_tried_again_and_redirects_are_not_followed(
    node: Any, receiver: Any, clock: Any, status: int
) -> None:
    async def answer(webhook: Any) -> Any:
        return web.Response(status=status, headers={"Location": receiver.url + "/elsewhere"})

    receiver.answer = answer
    await node.webhook("s", receiver.url)
    await node.engine.create("events/a", data=b"one")
    first = await receiver.next()
    await node.until_scheduled("s")
    described = await node.subscriptions.describe("s")
    assert described["next_attempt_at"] > described["created_at"]
    assert receiver.received == 1
    receiver.answer = done
    clock.advance(1.3)
    await node.engine.sweep()
    again = await receiver.next()
    assert (again.body["wake_id"], again.body["generation"]) == (first.body["wake_id"], 1)
    await node.until_acked("s", "events/a", again.stream("events/a")["tail_offset"])
    assert (await node.subscriptions.describe("s"))["status"] == "active"


async def test_the_schedule_of_retries_outlives_the_process(
    nodes: Any, receiver: Any, clock: Any
) -> None:
    store = MemoryStore(clock=clock)
    receiver.answer = lambda _webhook: asyncio.sleep(0, web.Response(status=500))
    node = await nodes(store)
    await node.webhook("s", receiver.url)
    await node.engine.create("events/a", data=b"one")
    for attempt, least in enumerate((0.8, 1.6, 3.2)):
        await receiver.next()
        await node.until_scheduled("s")
        before = (await node.subscriptions.describe("s"))["next_attempt_at"]
        await node.engine.stop()
        node = await nodes(store)
        assert (await node.subscriptions.describe("s"))["next_attempt_at"] == before
        clock.advance(least - 0.05)
        await node.engine.sweep()
        assert receiver.queue.empty(), attempt
        clock.advance(least)
        await node.engine.sweep()
    assert (await receiver.next()).body["generation"] == 1


async def test_a_receiver_that_takes_too_long_counts_as_failed(
    nodes: Any, memory: MemoryStore, receiver: Any
) -> None:
    never = asyncio.Event()

    async def hang(_webhook: Any) -> Any:
        await never.wait()
        return web.Response()

    receiver.answer = hang
    node = await nodes(memory, webhook_timeout=0.05)
    await node.webhook("s", receiver.url)
    await node.engine.create("events/a", data=b"one")
    await receiver.next()
    await node.until_status("s", "failed")
    never.set()


async def test_a_receiver_that_is_not_there_counts_as_failed(node: Any) -> None:
    await node.webhook("s", f"http://127.0.0.1:{free_port()}/")
    await node.engine.create("events/a", data=b"one")
    await node.until_status("s", "failed")


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"[]", b"no json", b'{"done": 1}', b"\xff", b'{"done":true}' + b" " * 70_000],
)
async def test_an_answer_that_does_not_say_done_is_a_worker_that_goes_on(
    node: Any, receiver: Any, body: bytes
) -> None:
    async def answer(_webhook: Any) -> Any:
        return web.Response(body=body, content_type="application/json")

    receiver.answer = answer
    await node.webhook("s", receiver.url)
    await node.engine.create("events/a", data=b"one")
    webhook = await receiver.next()
    await node.until_phase("s", "held")
    assert (await node.subscriptions.callback("s", webhook.token, webhook.ack()))["ok"]


@pytest.mark.parametrize("address", ["10.0.0.1", "169.254.169.254", "127.0.0.1", "::1"])
async def test_a_name_that_resolves_to_an_inner_address_is_not_connected_to(
    node: Any, monkeypatch: pytest.MonkeyPatch, address: str, caplog: pytest.LogCaptureFixture
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
    await node.webhook("s", "https://rebound.example/")
    await node.engine.create("events/a", data=b"one")
    await node.until_status("s", "failed")
    assert f"the address {address} is not one for webhooks" in caplog.text


async def test_deleting_ends_everything(node: Any, receiver: Any) -> None:
    receiver.answer = accepted
    await node.webhook("s", receiver.url)
    await node.engine.create("events/a", data=b"one")
    webhook = await receiver.next()
    await node.subscriptions.delete("s")
    with pytest.raises(SubscriptionError) as raised:
        await node.subscriptions.callback("s", webhook.token, webhook.ack())
    assert raised.value.code == "SUBSCRIPTION_NOT_FOUND"

    # One of the same name begins anew, and the old one's token is not for it.
    await node.webhook("s", receiver.url)
    await node.engine.append("events/a", b"two")
    await receiver.next()
    with pytest.raises(SubscriptionError) as raised:
        await node.subscriptions.callback("s", webhook.token, webhook.ack())
    assert raised.value.code == "FENCED"
