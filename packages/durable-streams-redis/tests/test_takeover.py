"""Another process drives the subscriptions of one that was killed, with nothing lost."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from itertools import count
from typing import Any, Self

import pytest
from aiohttp import web
from processes import Client, Running, running
from servers import RedisServer

from durable_streams_core.subscriptions.leases import IDLE, Lease, decode_lease
from durable_streams_core.subscriptions.members import MEMBERS, owner_of, shard_of
from durable_streams_core.subscriptions.records import LEASE, PREFIX
from durable_streams_redis import RedisStore

PATIENCE = 60
"""Seconds that a takeover may take here; it is a matter of one lease, which is six."""


class Receiver:
    """Takes webhooks, and answers each when told to."""

    def __init__(self) -> None:
        self.received = asyncio.Queue()
        self.answers = asyncio.Event()

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/hook", self._handle)
        self._runner = web.AppRunner(app, shutdown_timeout=0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/hook"
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.Response:
        self.received.put_nowait(await request.json())
        await self.answers.wait()
        return web.json_response({"done": True})

    async def until(self, path: str) -> Any:
        """The first wake that tells of a stream."""
        async with asyncio.timeout(PATIENCE):
            while True:
                body = await self.received.get()
                if path in {stream["path"] for stream in body["streams"]}:
                    return body


class Group:
    """Two processes on one deployment, and a look at what they agree on there."""

    def __init__(self, store: RedisStore, processes: list[Running]) -> None:
        self._store = store
        self.processes = processes
        self.names = []

    async def join(self) -> None:
        """Wait for the process that was started last to be a member; its name is the new one."""
        async with asyncio.timeout(PATIENCE):
            while not (new := await self._members() - set(self.names)):
                await asyncio.sleep(0.02)
        (name,) = new
        self.names.append(name)

    async def _members(self) -> set[str]:
        rows = await self._store.list(MEMBERS, "", 10)
        return {path.removeprefix(MEMBERS) for path, _ in rows}

    async def lease(self) -> Lease:
        facts = await self._store.load(f"{PREFIX}s", [LEASE])
        return decode_lease(facts.fields[LEASE])

    async def settled(self, receiver: Receiver) -> None:
        """Let the receiver answer, and wait until the wake is over."""
        receiver.answers.set()
        async with asyncio.timeout(PATIENCE):
            while (await self.lease()).phase != IDLE:
                await asyncio.sleep(0.02)

    @property
    def owner(self) -> int:
        """The process that drives the subscription, once all have seen each other: a place among
        the processes."""
        return self.names.index(owner_of(shard_of("s"), self.names))


@pytest.fixture
async def receiver() -> AsyncIterator[Any]:
    async with Receiver() as started:
        yield started


@pytest.fixture
async def group(receiver: Receiver, prefix: str) -> AsyncIterator[Group]:
    """The subscription ``s`` on ``events/*``, made through the first process, driven by either."""
    async with AsyncExitStack() as stack:
        server = stack.enter_context(RedisServer())
        url = f"{server.url}?prefix={prefix}"
        store = RedisStore(server.url, prefix=prefix)
        await store.open()
        stack.push_async_callback(store.close)
        processes = [stack.enter_context(running(url))]
        group = Group(store, processes)
        async with Client([processes[0].url]) as client:
            wish = {"type": "webhook", "pattern": "events/*", "webhook": {"url": receiver.url}}
            status, _, body = await client("PUT", "__ds/subscriptions/s", json.dumps(wish))
            assert status == 201, body
        await group.join()
        processes.append(stack.enter_context(running(url)))
        await group.join()
        yield group


@pytest.mark.parametrize("when", ["between wakes", "in the middle of one"])
async def test_what_a_killed_process_drove_another_one_delivers(
    group: Group, receiver: Receiver, when: str
) -> None:
    owner, other = group.owner, 1 - group.owner
    async with Client([process.url for process in group.processes]) as client:

        async def write(path: str) -> None:
            status, *_ = await client("PUT", path, "data", at=other, Content_Type="text/plain")
            assert status == 201

        for turn in count():
            await write(f"events/{turn}")
            first = await receiver.until(f"events/{turn}")
            if (await group.lease()).driver == group.names[owner]:
                break
            await group.settled(receiver)
            receiver.answers.clear()
        if when == "between wakes":
            await group.settled(receiver)
        group.processes[owner].kill()

        # From here on there is only the other one.
        await write("events/after")
        body = await receiver.until("events/after")
        if when == "between wakes":
            assert body["generation"] == first["generation"] + 1
            assert [stream["path"] for stream in body["streams"]] == ["events/after"]
        else:
            assert body["wake_id"] == first["wake_id"]
            assert body["generation"] == first["generation"]
            assert {stream["path"] for stream in body["streams"]} == {
                f"events/{turn}", "events/after",
            }  # fmt: skip
        await group.settled(receiver)
