"""A real server on the file store, killed with SIGKILL where it hurts: each pending event is worked
on afterwards, and none that was acked comes again.
"""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web
from ports import free_port

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")


class Server:
    """The command, on one directory and one port, life after life."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/v1/stream/"
        self._process: asyncio.subprocess.Process | None = None
        self.http = httpx.AsyncClient(base_url=self.url, timeout=60)

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "durable_streams_server", "--store", f"file:{self.directory}"),
            *("--port", str(self.port), "--log-level", "error"),
            stdout=asyncio.subprocess.PIPE,
        )
        assert self._process.stdout is not None
        async with asyncio.timeout(60):
            line = await self._process.stdout.readline()
        assert b"Serving" in line, line

    async def kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGKILL)
            # Reading to the end also closes the pipe.
            await process.communicate()

    async def restart(self) -> None:
        await self.kill()
        await self.start()

    async def ask(
        self, method: str, route: str, body: Any = None, token: str | None = None
    ) -> httpx.Response:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return await self.http.request(
            method, f"__ds/subscriptions/{route}", json=body, headers=headers
        )

    async def cursor(self, name: str, path: str) -> str:
        streams = (await self.ask("GET", name)).json()["streams"]
        (found,) = [s["acked_offset"] for s in streams if s["path"] == path]
        return found  # type: ignore[no-any-return]

    async def append(self, path: str, data: bytes) -> str:
        answer = await self.http.put(path, headers={"Content-Type": "text/plain"})
        assert answer.status_code in (200, 201)
        answer = await self.http.post(path, content=data, headers={"Content-Type": "text/plain"})
        assert answer.status_code == 204
        return answer.headers["Stream-Next-Offset"]


class Receiver:
    def __init__(self) -> None:
        self.queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.answer = web.Response
        self.hold: asyncio.Event | None = None
        self.url = ""

    async def handle(self, request: web.Request) -> web.Response:
        self.queue.put_nowait(await request.json())
        if self.hold is not None:
            await self.hold.wait()
        return self.answer()

    async def next(self) -> dict[str, Any]:
        async with asyncio.timeout(60):
            return await self.queue.get()


def acking(webhook: dict[str, Any]) -> dict[str, Any]:
    return {
        "wake_id": webhook["wake_id"],
        "generation": webhook["generation"],
        "acks": [{"stream": s["path"], "offset": s["tail_offset"]} for s in webhook["streams"]],
        "done": True,
    }


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    server = Server(tmp_path / "data")
    try:
        await server.start()
        yield server
    finally:
        await server.kill()
        await server.http.aclose()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    receiver = Receiver()
    app = web.Application()
    app.router.add_post("/", receiver.handle)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    yield receiver
    await runner.cleanup()


async def subscribe(server: Server, receiver: Receiver, lease: int = 600_000) -> None:
    wish = {"type": "webhook", "pattern": "events/*", "webhook": {"url": receiver.url}}
    created = await server.ask("PUT", "s", {**wish, "lease_ttl_ms": lease})
    assert created.status_code == 201


@pytest.mark.parametrize("answered", [False, True])
async def test_killed_between_wake_and_callback(
    server: Server, receiver: Receiver, answered: bool
) -> None:
    await subscribe(server, receiver)
    if not answered:
        receiver.hold = asyncio.Event()
    tail = await server.append("events/a", b"one")
    webhook = await receiver.next()
    if answered:
        # Until the server has written down that a worker is at it, a restart delivers again.
        again = await server.ask("POST", "s/callback", {**acking(webhook), "acks": [], "done": False},
                                 webhook["callback_token"])  # fmt: skip
        assert again.status_code == 200
    await server.restart()
    if not answered:
        # Nobody has said that the wake arrived: it comes again, the very same.
        again = await receiver.next()
        assert (again["wake_id"], again["generation"]) == (
            webhook["wake_id"],
            webhook["generation"],
        )
    late = await server.ask("POST", "s/callback", acking(webhook), webhook["callback_token"])
    assert (late.status_code, late.json()) == (200, {"ok": True, "next_wake": False})
    assert await server.cursor("s", "events/a") == tail
    if receiver.hold is not None:
        receiver.hold.set()

    await server.append("events/b", b"two")
    webhook = await receiver.next()
    assert [stream["path"] for stream in webhook["streams"]] == ["events/b"]


@pytest.mark.parametrize("delay", [0.0, 0.001, 0.003])
async def test_killed_between_ack_and_response(
    server: Server, receiver: Receiver, delay: float
) -> None:
    await subscribe(server, receiver, lease=1000)
    receiver.answer = lambda: web.Response(status=202)
    tail = await server.append("events/a", b"one")
    webhook = await receiver.next()
    sending = asyncio.create_task(
        server.ask("POST", "s/callback", acking(webhook), webhook["callback_token"])
    )
    await asyncio.sleep(delay)
    await server.kill()
    answer = (await asyncio.gather(sending, return_exceptions=True))[0]
    await server.start()
    acked = await server.cursor("s", "events/a") == tail
    if isinstance(answer, httpx.Response):
        assert acked, "what was answered is done"
    receiver.answer = lambda: web.json_response({"done": True})
    if not acked:
        # The ack was lost with the server, so the event is worked on again.
        again = await receiver.next()
        while again["wake_id"] == webhook["wake_id"] and receiver.queue.qsize():
            again = await receiver.next()
        assert [stream["path"] for stream in again["streams"]] == ["events/a"]
    await server.append("events/b", b"two")
    while True:
        paths = [stream["path"] for stream in (await receiver.next())["streams"]]
        assert not (acked and "events/a" in paths)
        if "events/b" in paths:
            break


async def test_a_worker_and_the_server_die_while_the_lease_is_held(server: Server) -> None:
    await server.http.put("wake/pool", json=[])
    wish = {"type": "pull-wake", "pattern": "events/*", "wake_stream": "wake/pool"}
    await server.ask("PUT", "s", {**wish, "lease_ttl_ms": 1000})
    first = await server.append("events/a", b"one")
    await server.append("events/b", b"two")
    claim = (await server.ask("POST", "s/claim", {"worker": "first"})).json()
    half = {**acking(claim), "done": False, "acks": [{"stream": "events/a", "offset": first}]}
    assert (await server.ask("POST", "s/ack", half, claim["token"])).status_code == 200
    await server.restart()
    busy = await server.ask("POST", "s/claim", {"worker": "second"})
    if busy.status_code == 409:
        assert busy.json()["error"]["code"] == "ALREADY_CLAIMED"
        wakes, offset = [], "-1"
        async with asyncio.timeout(60):
            while not any(wake["generation"] > claim["generation"] for wake in wakes):
                answer = await server.http.get(
                    "wake/pool", params={"offset": offset, "live": "long-poll"}
                )
                offset = answer.headers["Stream-Next-Offset"]
                wakes += answer.json() if answer.status_code == 200 else []
        busy = await server.ask("POST", "s/claim", {"worker": "second"})
    second = busy.json()
    assert second["generation"] > claim["generation"]
    assert [s["path"] for s in second["streams"] if s["has_pending"]] == ["events/b"]
    stale = await server.ask("POST", "s/ack", acking(claim), claim["token"])
    assert (stale.status_code, stale.json()["error"]["code"]) == (409, "FENCED")
    done = await server.ask("POST", "s/ack", acking(second), second["token"])
    assert done.json() == {"ok": True, "next_wake": False}


async def test_killed_again_and_again_under_load_nothing_is_lost(
    server: Server, receiver: Receiver
) -> None:
    """Whatever was appended is told at least once, and acked in the end."""
    await subscribe(server, receiver, lease=1000)
    receiver.answer = lambda: web.json_response({"done": True})
    tails: dict[str, str] = {}
    for life in range(4):
        for n in range(10):
            tails[f"events/{n}"] = await server.append(f"events/{n}", b"%d" % life)
        await server.restart()
    seen: dict[str, str] = {}
    while any(seen.get(path, "") < tail for path, tail in tails.items()):
        for stream in (await receiver.next())["streams"]:
            seen[stream["path"]] = max(seen.get(stream["path"], ""), stream["tail_offset"])
    async with asyncio.timeout(60):
        while {path: await server.cursor("s", path) for path in tails} != tails:
            await asyncio.sleep(0)
