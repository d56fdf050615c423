"""What tests of subscriptions share: a receiver of webhooks, and ways to wait for what comes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest
from aiohttp import web

from durable_streams_core.store import Store
from durable_streams_core.subscriptions.leases import decode_lease
from durable_streams_core.subscriptions.records import BaseUrl, parse_config
from durable_streams_server import Engine
from durable_streams_server.subscriptions import SubscriptionOptions

BASE_URL = BaseUrl("http://server.example", "/v1/stream/")


class Webhook:
    """One webhook as it arrived."""

    def __init__(self, raw: bytes, headers: Any) -> None:
        self.raw = raw
        self.headers = headers
        self.body: dict[str, Any] = msgspec.json.decode(raw)

    def stream(self, path: str) -> dict[str, Any]:
        (found,) = [stream for stream in self.body["streams"] if stream["path"] == path]
        return found  # type: ignore[no-any-return]

    @property
    def token(self) -> str:
        return self.body["callback_token"]  # type: ignore[no-any-return]

    def ack(self, *, done: bool = True, path: str | None = None) -> dict[str, Any]:
        streams = self.body["streams"] if path is None else [self.stream(path)]
        return {
            "wake_id": self.body["wake_id"],
            "generation": self.body["generation"],
            "acks": [{"stream": s["path"], "offset": s["tail_offset"]} for s in streams],
            "done": done,
        }


class Receiver:
    """Answers webhooks as ``answer`` says, and keeps those that came."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Webhook] = asyncio.Queue()
        self.received = 0
        self.answer: Callable[[Webhook], Awaitable[web.Response]] = done
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        webhook = Webhook(await request.read(), request.headers)
        self.received += 1
        self.queue.put_nowait(webhook)
        return await self.answer(webhook)

    async def next(self) -> Webhook:
        async with asyncio.timeout(60):
            return await self.queue.get()


async def done(_webhook: Webhook) -> web.Response:
    return web.json_response({"done": True})


async def accepted(_webhook: Webhook) -> web.Response:
    return web.Response(status=202)


async def broken(_webhook: Webhook) -> web.Response:
    return web.Response(status=500)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/{path:.*}", receiver.handle)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    yield receiver
    await runner.cleanup()


class Node:
    """One engine with subscriptions, as one process of several would be."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.subscriptions = engine.subscriptions

    async def webhook(self, name: str, url: str, **wish: Any) -> dict[str, Any]:
        wish.setdefault("pattern", "events/*")
        return await self.create(name, {"type": "webhook", "webhook": {"url": url}, **wish})

    async def pull(self, name: str, **wish: Any) -> dict[str, Any]:
        wish.setdefault("pattern", "events/*")
        wish.setdefault("wake_stream", "wake/pool")
        return await self.create(name, {"type": "pull-wake", **wish})

    async def create(self, name: str, wish: dict[str, Any]) -> dict[str, Any]:
        _, described = await self.subscriptions.create(name, parse_config(wish), BASE_URL)
        return described

    async def links(self, name: str) -> dict[str, tuple[str, str]]:
        described = await self.subscriptions.describe(name)
        return {s["path"]: (s["link_type"], s["acked_offset"]) for s in described["streams"]}

    async def until(self, condition: Callable[[], Awaitable[object]]) -> None:
        """Let everything else run until a condition holds."""
        async with asyncio.timeout(60):
            while not await condition():
                await asyncio.sleep(0)

    async def until_acked(self, name: str, path: str, offset: str) -> None:
        async def acked() -> bool:
            return (await self.links(name)).get(path, ("", ""))[1] == offset

        await self.until(acked)

    async def until_status(self, name: str, status: str) -> None:
        async def has() -> bool:
            return (await self.subscriptions.describe(name))["status"] == status

        await self.until(has)

    async def until_scheduled(self, name: str) -> None:
        async def is_scheduled() -> bool:
            return "next_attempt_at" in await self.subscriptions.describe(name)

        await self.until(is_scheduled)

    async def until_phase(self, name: str, phase: str) -> None:
        async def has() -> bool:
            facts = await self.engine.store.load("__ds/subscriptions/" + name, ("l",))
            return facts is not None and decode_lease(facts.fields["l"]).phase == phase

        await self.until(has)

    async def wakes(self, stream: str = "wake/pool") -> list[dict[str, Any]]:
        return (await self.engine.read(stream)).items()

    async def until_wakes(self, count: int, stream: str = "wake/pool") -> list[dict[str, Any]]:
        async def enough() -> bool:
            return len(await self.wakes(stream)) >= count

        await self.until(enough)
        return await self.wakes(stream)


@pytest.fixture
async def nodes() -> AsyncIterator[Callable[..., Awaitable[Node]]]:
    """Starts nodes over stores, and stops those still running at the end."""
    engines: list[Engine] = []

    async def start(store: Store, **options: Any) -> Node:
        engine = Engine(store, subscriptions=SubscriptionOptions(**options))
        engines.append(engine)
        await engine.start()
        return Node(engine)

    yield start
    for engine in engines:
        await engine.stop()


@pytest.fixture
async def node(store: Store, nodes: Callable[..., Awaitable[Node]]) -> Node:
    return await nodes(store)
