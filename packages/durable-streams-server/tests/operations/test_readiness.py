"""``/ready`` and ``Engine.readiness`` tell the truth about the service."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from remote import RemoteStore
from servers import Serve
from wire import Client, request_bytes

from durable_streams_core.entities import Refused
from durable_streams_core.errors import Unavailable
from durable_streams_server import Engine, MemoryStore
from durable_streams_server.engine import readiness
from durable_streams_server.frontends.mount import Mount
from durable_streams_server.http.options import Options


class ProbedStore(RemoteStore):
    """A store whose probes the test answers. ``asked`` is set whenever one was."""

    def __init__(self, behind: MemoryStore) -> None:
        super().__init__(behind)
        self.fault: Refused | Exception | None = None
        self.answering = asyncio.Event()
        self.answering.set()
        self.answered = asyncio.Condition()
        self.answers = 0

    async def probe(self) -> Refused | None:
        await self.answering.wait()
        fault = self.fault
        self.answers += 1
        async with self.answered:
            self.answered.notify_all()
        if isinstance(fault, Exception):
            raise fault
        return fault

    async def next_answers(self) -> None:
        """Wait until the state is that of an answer which was given after this call."""
        wanted = self.answers + 2
        async with self.answered:
            await self.answered.wait_for(lambda: self.answers >= wanted)


@pytest.fixture
def store(memory: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> ProbedStore:
    monkeypatch.setattr(readiness, "PROBE_SECONDS", 0.001)
    return ProbedStore(memory)


FULL = Refused("storage-full", "The disk is full.")


async def test_an_engine_starts_serves_drains_and_stops(memory: MemoryStore) -> None:
    engine = Engine(memory)
    assert engine.readiness().code == "starting"
    await engine.start()
    assert engine.readiness().ready
    engine.drain()
    assert engine.readiness().code == "draining"
    await engine.create("a", data=b"still served")
    await engine.stop()
    assert engine.readiness().code == "stopped"
    await engine.start()
    assert engine.readiness().ready
    await engine.stop()


async def test_a_fault_of_the_store_is_known_while_nobody_writes_and_so_is_its_end(
    store: ProbedStore, caplog: pytest.LogCaptureFixture
) -> None:
    async with Engine(store) as engine:
        assert engine.readiness().ready
        store.fault = FULL
        await store.next_answers()
        found = engine.readiness()
        assert (found.ready, found.status, found.code) == (False, 503, "storage-full")
        assert found.reason == "The disk is full."
        store.fault = None
        await store.next_answers()
        assert engine.readiness().ready
    logged = [record.getMessage() for record in caplog.records]
    assert logged == [
        "not ready (storage-full): The disk is full.",
        "ready again: the store takes commits",
    ]


async def test_the_metric_says_what_ready_says(store: ProbedStore) -> None:
    def shown() -> object:
        (metric,) = [each for each in engine.metrics() if each.name == "ready"]
        return metric.samples[()]

    engine = Engine(store)
    assert shown() == 0
    async with engine:
        assert shown() == 1
        store.fault = FULL
        await store.next_answers()
        assert shown() == 0


async def test_a_store_that_does_not_answer_is_not_ready_until_it_does(
    store: ProbedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readiness, "SILENT_SECONDS", 0.001)
    monkeypatch.setattr(readiness, "_GRACE_SECONDS", 0.001)
    async with Engine(store) as engine:
        store.answering.clear()
        while engine.readiness().ready:
            await asyncio.sleep(0)
        assert engine.readiness().code == "store-silent"
        store.answering.set()
        await store.next_answers()
        assert engine.readiness().ready


async def test_an_engine_stops_while_its_store_is_silent(store: ProbedStore) -> None:
    async with Engine(store) as engine:
        store.answering.clear()
        await asyncio.sleep(0)
    assert engine.readiness().code == "stopped"


async def test_a_probe_that_breaks_is_a_fault_and_logged_once(
    store: ProbedStore, caplog: pytest.LogCaptureFixture
) -> None:
    async with Engine(store) as engine:
        store.fault = RuntimeError("broken")
        await store.next_answers()
        await store.next_answers()
        assert engine.readiness().code == "store-failed"
        store.fault = None
        await store.next_answers()
        assert engine.readiness().ready
    assert len([record for record in caplog.records if record.exc_info]) == 1


async def test_a_fault_that_comes_and_goes_does_not_flood_the_log(
    store: ProbedStore, caplog: pytest.LogCaptureFixture
) -> None:
    async with Engine(store):
        for _ in range(20):
            store.fault = FULL
            await store.next_answers()
            store.fault = None
            await store.next_answers()
    assert len(caplog.records) == 2


async def test_ready_is_the_service_and_health_the_process(
    serve: Callable[..., Awaitable[Client]], store: ProbedStore
) -> None:
    client = await serve(store, health=True)
    ready = await client.raw(request_bytes("GET", "/ready"))
    assert (ready.status, ready.json) == (200, {"status": "ready"})
    assert ready["cache-control"] == "no-store"
    store.fault = FULL
    await store.next_answers()
    unready = await client.raw(request_bytes("GET", "/ready"))
    assert (unready.status, unready["retry-after"]) == (503, "1")
    assert unready.json == {
        "status": "unready",
        "code": "storage-full",
        "reason": "The disk is full.",
    }
    assert (await client.raw(request_bytes("GET", "/health"))).status == 200
    client.mount.engine.drain()
    assert (await client.raw(request_bytes("GET", "/ready"))).json["code"] == "draining"
    assert (await client.put("a")).status == 201


async def test_ready_is_not_served_unless_asked_for(
    serve: Callable[..., Awaitable[Client]],
) -> None:
    client = await serve()
    assert (await client.raw(request_bytes("GET", "/ready"))).status == 404


REQUESTS: list[tuple[str, str]] = [
    *(("GET", "a"), ("GET", "a?offset=-1&live=sse"), ("GET", "a?offset=-1&live=long-poll")),
    *(("HEAD", "a"), ("PUT", "a"), ("POST", "a"), ("DELETE", "a")),
    *(("GET", "__ds/streams"), ("GET", "__ds/subscriptions"), ("GET", "__ds/subscriptions/s")),
]


async def test_a_server_whose_store_is_not_open_yet_says_so(
    front_end: Serve, serving: AsyncExitStack, remote: RemoteStore
) -> None:
    engine = Engine(remote)
    mount = Mount(engine, Options(health=True), None)
    port = await serving.enter_async_context(front_end(mount, "/v1/stream/"))
    client = Client(port, "/v1/stream/", mount)
    serving.push_async_callback(client.close)
    assert (await client.raw(request_bytes("GET", "/health"))).status == 200
    ready = await client.raw(request_bytes("GET", "/ready"))
    assert (ready.status, ready.json["code"]) == (503, "starting")
    for method, target in REQUESTS:
        body = b"x" if method in ("PUT", "POST") else b""
        answer = await client.request(method, target, {"content-type": "text/plain"}, body)
        assert answer.status == 503, (method, target, answer)
        assert answer["retry-after"] == "1", (method, target)
    serving.push_async_callback(engine.stop)
    await engine.start()
    assert (await client.raw(request_bytes("GET", "/ready"))).status == 200
    assert (await client.put("a")).status == 201


async def test_an_engine_that_does_not_run_says_when_to_come_again(memory: MemoryStore) -> None:
    with pytest.raises(Unavailable) as caught:
        await Engine(memory).read("a")
    assert caught.value.headers["Retry-After"] == "1"


def test_states_are_json_for_applications(memory: MemoryStore) -> None:
    state: Any = Engine(memory).readiness()
    assert state.status == 503
    assert json.loads(state.body) == {
        "status": "unready",
        "code": "starting",
        "reason": "The server is starting: its store is not open yet.",
    }
