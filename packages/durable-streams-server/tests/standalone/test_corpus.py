"""A corpus of raw requests: valid ones are answered as the aiohttp app does, the others refused."""

import asyncio
import re
import sys
from collections.abc import Callable

import pytest
from raw_answers import Answers, exchange
from raw_corpus import CASES, GET, Case

from durable_streams_server import Engine
from durable_streams_server.frontends.mount import Mount
from durable_streams_server.frontends.servers import Address, aiohttp_server
from durable_streams_server.frontends.standalone import StandaloneServer
from durable_streams_server.http.options import Options
from durable_streams_server.stores.memory import MemoryStore

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop] | None] = {"asyncio": None}
if sys.platform != "win32":
    import uvloop

    LOOPS["uvloop"] = uvloop.new_event_loop

ANY = Address("127.0.0.1", 0)
FRAMING = {b"date", b"server", b"connection", b"content-length", b"transfer-encoding"}
SENTINEL = GET.replace(b"/s ", b"/the-end ") + b"\r\n"


@pytest.fixture(autouse=True)
def clients_take_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused client has a minute to send the rest, not half a second: a busy machine may stop it
    in the middle, and what it sends after that would reset the connection.
    """
    sending = "durable_streams_server.frontends.standalone.sending"
    monkeypatch.setattr(f"{sending}.LINGER_SECONDS", 60.0)


async def on_standalone(raw: bytes, *, cut: bool = False) -> bytes:
    async with Engine(MemoryStore(clock=lambda: 1_800_000_000_000)) as engine:
        await engine.create("s", content_type="text/plain", data="hello")
        server = StandaloneServer(Mount(engine, Options(), None), "/v1/stream/")
        port = await server.listen("127.0.0.1", 0)
        try:
            pieces = [raw[n : n + 1] for n in range(len(raw))] if cut else [raw]
            return await exchange(port, *pieces)
        finally:
            await server.stop()


async def on_aiohttp(raw: bytes) -> bytes:
    async with Engine(MemoryStore(clock=lambda: 1_800_000_000_000)) as engine:
        await engine.create("s", content_type="text/plain", data="hello")
        mount = Mount(engine, Options(), None)
        async with aiohttp_server(mount, "/v1/stream/", ANY) as port:
            return await exchange(port, raw, end=False)


def comparable(data: bytes) -> list[tuple[int, list[tuple[bytes, bytes]], bytes]]:
    """Answers, less framing and what differs from run to run."""
    return [
        (
            status,
            sorted((k, _no_id(v)) for k, v in headers.items() if k not in FRAMING),
            body,
        )
        for status, headers, body in Answers(data).all
    ]


def _no_id(value: bytes) -> bytes:
    return re.sub(rb'"[0-9a-f]{16}:', b'"incarnation:', value)


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_is_answered(case: Case, loop: str) -> None:
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        answers = Answers(runner.run(on_standalone(case.raw + SENTINEL)))
    expected = case.statuses if case.closes else (*case.statuses, 404)
    assert answers.statuses == expected
    assert answers.complete
    for status, headers, body in answers.all:
        if status >= 400:
            assert headers[b"content-type"] == b"application/problem+json"
            assert body
    if case.closes:
        assert answers.all[-1][1][b"connection"] == b"close"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_how_it_is_cut_makes_no_difference(case: Case) -> None:
    """One byte at a time, the receiver is left in every state."""
    whole = comparable(await on_standalone(case.raw + SENTINEL))
    assert comparable(await on_standalone(case.raw + SENTINEL, cut=True)) == whole


@pytest.mark.parametrize("case", [c for c in CASES if c.shared], ids=lambda case: case.name)
async def test_the_aiohttp_app_answers_alike(case: Case) -> None:
    raw = case.raw.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
    status, headers, body = comparable(await on_standalone(raw))[0]
    ((other_status, other_headers, other_body),) = comparable(await on_aiohttp(raw))
    assert (status, headers, body) == (other_status, other_headers, other_body)


async def test_a_refusal_answers_nothing_behind_it() -> None:
    """A request that is smuggled behind a refused one is never answered."""
    for case in CASES:
        if case.closes and case.statuses[-1] >= 400:
            answers = Answers(await on_standalone(case.raw + GET + b"\r\n"))
            assert answers.statuses == case.statuses, case.name
