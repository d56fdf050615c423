"""Subscriptions from a client's point of view: real server, real workers, real signatures."""

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from durable_streams_client import (
    AsyncClient,
    AsyncPullWorker,
    AsyncSubscriptions,
    AsyncWebhookVerifier,
    Client,
    PullWorker,
    SubscriptionRefused,
    Subscriptions,
    UnknownKey,
    WebhookRejected,
    WebhookVerifier,
    verify_webhook,
)
from durable_streams_server import Engine
from durable_streams_server.frontends.mount import Mount
from durable_streams_server.frontends.servers import FRONT_ENDS, Address
from durable_streams_server.http.options import Options


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    async with Engine("memory:") as engine:
        yield engine


@pytest.fixture
async def url(engine: Engine) -> AsyncIterator[str]:
    mount = Mount(engine, Options(), None)
    server = FRONT_ENDS["aiohttp"](mount, "/v1/stream/", Address("127.0.0.1", 0))
    async with server as port:
        yield f"http://127.0.0.1:{port}/v1/stream/"


@pytest.fixture
async def client(url: str) -> AsyncIterator[AsyncClient]:
    # Credentials of the client must not get in the way of a wake's own token.
    async with AsyncClient(url, headers={"Authorization": "Bearer of the client"}) as client:
        await client.stream("wake/pool").create(content_type="application/json")
        yield client


async def test_subscriptions_are_managed(client: AsyncClient) -> None:
    subscriptions = AsyncSubscriptions(client)
    made = await subscriptions.create_webhook(
        "a b", "https://worker.example/hook", pattern="events/*", description="d"
    )
    assert (made.created, made.id, made.pattern, made.status) == (True, "a b", "events/*", "active")
    assert made.jwks_url == f"{client.base_url}__ds/jwks.json"
    again = await subscriptions.create_webhook(
        "a b", "https://worker.example/hook", pattern="events/*", description="d"
    )
    assert not again.created
    await subscriptions.add_streams("a b", ["x/y z"])
    (link,) = (await subscriptions.get("a b")).streams
    assert (link.path, link.link_type, link.acked_offset) == ("x/y z", "explicit", "-1")
    await subscriptions.remove_stream("a b", "x/y z")
    assert (await subscriptions.get("a b")).streams == ()
    with pytest.raises(SubscriptionRefused) as refused:
        await subscriptions.create_webhook("a b", "https://10.0.0.1/", streams=["x"])
    assert (refused.value.code, refused.value.status) == ("WEBHOOK_URL_REJECTED", 400)
    await subscriptions.delete("a b")
    with pytest.raises(SubscriptionRefused) as refused:
        await subscriptions.get("a b")
    assert refused.value.code == "SUBSCRIPTION_NOT_FOUND"


async def test_claims_acks_and_releases(client: AsyncClient, engine: Engine) -> None:
    subscriptions = AsyncSubscriptions(client)
    await subscriptions.create_pull("s", "wake/pool", pattern="events/*")
    assert await subscriptions.claim("s", "me") is None
    await engine.create("events/a", data=b"x")
    claim = await subscriptions.claim("s", "me")
    assert claim is not None
    assert await subscriptions.claim("s", "you") is None
    assert await subscriptions.ack(claim) is False
    await subscriptions.release(claim)
    with pytest.raises(SubscriptionRefused) as refused:
        await subscriptions.ack(claim, done=True)
    assert refused.value.code == "FENCED"
    claim = await subscriptions.claim("s", "you")
    assert claim is not None
    (stream,) = claim.streams
    assert stream.tail_offset is not None
    await subscriptions.ack(claim, {stream.path: stream.tail_offset}, done=True)
    assert await subscriptions.claim("s", "me") is None


async def test_a_worker_handles_everything_once_and_waits_for_more(
    client: AsyncClient, engine: Engine
) -> None:
    subscriptions = AsyncSubscriptions(client)
    await subscriptions.create_pull("s", "wake/pool", pattern="events/*")
    await engine.create("events/a", content_type="application/json", data=[1])
    seen: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()

    async def handle(path: str, batch: Any) -> None:
        for item in batch:
            await seen.put((path, item))

    worker = AsyncPullWorker(client, "s", handle, name="w")
    running = asyncio.create_task(worker.run())
    async with asyncio.timeout(60):
        assert await seen.get() == ("events/a", [1])
        for number in range(5):
            await engine.append("events/a", {"n": number})
            assert await seen.get() == ("events/a", {"n": number})
        worker.stop()
        await running
    assert seen.empty()
    (link,) = (await subscriptions.get("s")).streams
    assert link.acked_offset == (await engine.head("events/a")).offset


async def test_a_handler_that_takes_long_keeps_its_lease(
    client: AsyncClient, engine: Engine
) -> None:
    subscriptions = AsyncSubscriptions(client)
    await subscriptions.create_pull("s", "wake/pool", pattern="events/*", lease_seconds=1.0)
    await engine.create("events/a", data=b"x")
    driven = engine.subscriptions.driver.get("__ds/subscriptions/s")
    assert driven is not None
    beats = []

    async def handle(path: str, batch: Any) -> None:
        async with asyncio.timeout(60):
            while len(beats) < 4:
                if not beats or beats[-1] != driven.lease.until:
                    beats.append(driven.lease.until)
                await asyncio.sleep(0)
        worker.stop()

    worker = AsyncPullWorker(client, "s", handle, name="w")
    await worker.run()
    # Four leases long, and still the first wake's.
    assert (driven.lease.generation, driven.lease.phase) == (1, "idle")
    (link,) = (await subscriptions.get("s")).streams
    assert link.acked_offset == (await engine.head("events/a")).offset


async def test_a_handler_that_fails_gives_the_work_back(
    client: AsyncClient, engine: Engine
) -> None:
    subscriptions = AsyncSubscriptions(client)
    await subscriptions.create_pull("s", "wake/pool", pattern="events/*")
    await engine.create("events/a", data=b"x")

    async def broken(path: str, batch: Any) -> None:
        raise LookupError("broken")

    with pytest.raises(LookupError):
        await AsyncPullWorker(client, "s", broken, name="w").run()
    claim = await subscriptions.claim("s", "other")
    assert claim is not None
    assert claim.streams[0].acked_offset == "-1"


async def test_the_sync_worker_does_the_same(url: str, engine: Engine) -> None:
    await engine.create("wake/pool", content_type="application/json")
    seen: list[Any] = []
    got = threading.Event()

    def handle(path: str, batch: Any) -> None:
        seen.extend(batch)
        got.set()

    def work() -> None:
        with Client(url) as client:
            subscriptions = Subscriptions(client)
            subscriptions.create_pull("s", "wake/pool", pattern="events/*")
            worker = PullWorker(client, "s", handle, name="w")
            thread = threading.Thread(target=worker.run)
            thread.start()
            stream = client.stream("events/a")
            stream.create(content_type="application/json")
            for number in range(3):
                got.clear()
                stream.append({"n": number})
                assert got.wait(60)
            worker.stop()
            thread.join(60)
            assert not thread.is_alive()

    await asyncio.to_thread(work)
    assert seen == [{"n": 0}, {"n": 1}, {"n": 2}]


async def test_a_webhook_is_verified(
    client: AsyncClient, url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived: asyncio.Queue[tuple[dict[str, str], bytes]] = asyncio.Queue()

    async def hook(request: web.Request) -> web.Response:
        arrived.put_nowait((dict(request.headers), await request.read()))
        return web.json_response({"done": True})

    app = web.Application()
    app.router.add_post("/hook", hook)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        target = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
        made = await AsyncSubscriptions(client).create_webhook("s", target, pattern="events/*")
        assert made.jwks_url is not None
        await engine.create("events/a", data=b"x")
        async with asyncio.timeout(60):
            headers, body = await arrived.get()
        verifier = AsyncWebhookVerifier(client, made.jwks_url)
        assert (await verifier.verify(headers, body))["subscription_id"] == "s"

        with Client(url) as sync_client:
            twin = WebhookVerifier(sync_client, made.jwks_url)
            content = await asyncio.to_thread(twin.verify, headers, body)
        assert content["generation"] == 1

        jwks = await engine.subscriptions.jwks()
        assert verify_webhook(headers, body, jwks)["subscription_id"] == "s"
        raw = {name.lower().encode(): value.encode() for name, value in headers.items()}
        assert verify_webhook(raw, body, jwks)["subscription_id"] == "s"
        signed = int(headers["webhook-signature"].split(",")[0][2:])
        for wrong in (
            lambda: verify_webhook(headers, body + b" ", jwks),
            lambda: verify_webhook(headers, body, jwks, now=signed + 301),
            lambda: verify_webhook(headers, body, jwks, now=signed - 301),
            lambda: verify_webhook({}, body, jwks),
            lambda: verify_webhook({"Webhook-Signature": "t=1,kid=a,ed25519=b"}, body, jwks),
        ):
            with pytest.raises(WebhookRejected):
                wrong()
        for keys in ({}, {"keys": 5}, {"keys": [5, {"kid": "other"}]}):
            with pytest.raises(UnknownKey):
                verify_webhook(headers, body, keys)

        # After a rotation the new key is fetched, at once but not at everybody's whim.
        await engine.subscriptions.rotate_keys()
        await engine.append("events/a", b"y")
        async with asyncio.timeout(60):
            headers, body = await arrived.get()
        with pytest.raises(UnknownKey):
            await verifier.verify(headers, body)
        monkeypatch.setattr("durable_streams_client._async.verifying.REFETCH_SECONDS", 0)
        assert (await verifier.verify(headers, body))["generation"] == 2
    finally:
        await runner.cleanup()
