"""The Python on the page about subscriptions runs: workers, and receivers in each framework."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiohttp import web

from durable_streams_server import Engine
from durable_streams_server.frontends.mount import Mount
from durable_streams_server.frontends.servers import FRONT_ENDS, Address
from durable_streams_server.http.options import Options

PAGE = Path(__file__).parent.parent / "subscriptions.md"
PIECES = re.findall(
    r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
)


def piece(mark: str) -> str:
    (found,) = [text for text in PIECES if mark in text]
    return found


@pytest.fixture
async def engine() -> AsyncIterator[Any]:
    async with Engine("memory:") as engine:
        yield engine


@pytest.fixture
async def root(engine: Any) -> AsyncIterator[Any]:
    server = FRONT_ENDS["aiohttp"](
        Mount(engine, Options(), None), "/v1/stream/", Address("127.0.0.1", 0)
    )
    async with server as port:
        yield f"http://127.0.0.1:{port}/v1/stream/"


def run(mark: str, root: str, **names: Any) -> dict[str, Any]:
    """Execute one piece of the page against a server, with what it leaves to its reader."""
    text = piece(mark)
    for written in ("https://streams.example/v1/stream/", "http://127.0.0.1:4437/v1/stream/"):
        text = text.replace(written, root)
    names["__name__"] = "page"
    exec(text, names)  # noqa: S102 - that it runs is what is tested
    return names


async def signed(engine: Engine) -> tuple[bytes, dict[str, str]]:
    body = b'{"streams":[{"path":"a","acked_offset":"-1","tail_offset":"1"}]}'
    await engine.subscriptions.jwks()
    headers = {"Webhook-Signature": engine.subscriptions.keyring.sign(body)}
    return body, {**headers, "Content-Type": "application/json"}


async def test_fastapi_believes_what_is_signed(engine: Any, root: Any) -> None:
    worked = []

    async def work_on(*work: Any) -> None:
        worked.append(work)

    names = run("from fastapi", root, work_on=work_on)
    body, headers = await signed(engine)
    transport = httpx.ASGITransport(names["app"])
    async with httpx.AsyncClient(transport=transport, base_url="http://worker") as client:
        answer = await client.post("/hook", content=body, headers=headers)
        assert (answer.status_code, answer.json()) == (200, {"done": True})
        forged = await client.post("/hook", content=body + b" ", headers=headers)
        assert forged.status_code == 401
    assert worked == [("a", "-1", "1")]
    await names["client"].aclose()


async def test_aiohttp_believes_what_is_signed(engine: Any, root: Any) -> None:
    worked = []

    async def work_on(*work: Any) -> None:
        worked.append(work)

    names = run("cleanup_ctx", root, work_on=work_on)
    body, headers = await signed(engine)
    runner = web.AppRunner(names["app"])
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/hook"
    async with httpx.AsyncClient(timeout=60) as client:
        assert (await client.post(url, content=body, headers=headers)).json() == {"done": True}
        forged = await client.post(url, content=body + b" ", headers=headers)
        assert forged.status_code == 401
    assert worked == [("a", "-1", "1")]
    await runner.cleanup()


async def test_django_believes_what_is_signed(engine: Any, root: Any) -> None:
    pytest.importorskip("django", reason="Django is no dependency of these tests")
    from django.conf import settings
    from django.test import RequestFactory

    if not settings.configured:
        settings.configure(SECRET_KEY="x", ALLOWED_HOSTS=["*"])
    worked = []
    names = run("django.http", root, work_on=lambda *work: worked.append(work))
    body, headers = await signed(engine)

    def post(data: Any) -> Any:
        request = RequestFactory().post(
            "/hook", data=data, content_type="application/json", headers=headers
        )
        return names["hook"](request)

    answer = await asyncio.to_thread(post, body)
    assert (answer.status_code, answer.content) == (200, b'{"done": true}')
    assert (await asyncio.to_thread(post, body + b" ")).status_code == 401
    assert worked == [("a", "-1", "1")]
    names["verifier"]._client.close()  # noqa: SLF001 - the page leaves it open


async def test_subscriptions_are_made_and_worked_on(
    engine: Any, root: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    await asyncio.to_thread(run, "create_webhook", root)
    assert capsys.readouterr().out == "()\n"
    await engine.subscriptions.delete("mailer")

    def work() -> None:
        names: dict[str, Any] = {}
        text = piece("PullWorker(").replace(".run()", "")
        head, call = text.rsplit("\n    PullWorker", 1)
        text = f"{head}\n    client.stream('chats/1').create(content_type='application/json')"
        text += "\n    client.stream('chats/1').append({'n': 1})\n    worker = PullWorker" + call
        text += "\n    assert worker.work_once()\n    assert not worker.work_once()\n"
        exec(text.replace("http://127.0.0.1:4437/v1/stream/", root), names)  # noqa: S102

    await asyncio.to_thread(work)
    assert capsys.readouterr().out == "chats/1 {'n': 1}\n"
