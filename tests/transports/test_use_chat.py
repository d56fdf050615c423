"""Runs in the chat of the Vercel AI SDK: with upstream's transport, which reads the stream of the
run itself, and with the SDK's own, which reads a response of the application.

The chat is the class that `useChat` wraps for React. Needs the packages of `conformance/`.
"""

import asyncio
import json
import os
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Response
from fastapi.responses import StreamingResponse

from durable_streams_runs import RunFailed, Runs, Status
from durable_streams_runs.adapters.vercel import HEADERS, UI_MESSAGES, events, sse
from durable_streams_server import Engine, create_asgi

CONFORMANCE = Path(__file__).parents[2] / "conformance"
TRANSPORTS = ["durable", "default"]


class Chat:
    """An application with one chat, whose model says what the test gives."""

    def __init__(self, engine: Engine) -> None:
        self.words: asyncio.Queue[str | Exception | None] = asyncio.Queue()
        self.runs = Runs(engine, root="/streams/", formats=[UI_MESSAGES])
        self.app = FastAPI()
        self.app.mount("/streams", create_asgi(engine))
        for transport in TRANSPORTS:
            self._serve(transport, f"/{transport}")

    def _serve(self, transport: str, api: str) -> None:
        def answer(run_id: str) -> Any:
            if transport == "durable":
                return {"streamUrl": self.runs.url(run_id)}
            return StreamingResponse(sse(self.runs.follow(run_id)), headers=HEADERS)

        @self.app.post(api)
        async def ask() -> Any:
            text = events(self._model(), message_id="m1")
            await self.runs.start(f"{transport}/1", text, output=UI_MESSAGES)
            return answer(f"{transport}/1")

        @self.app.get(api + "/c1/stream")
        async def resume() -> Any:
            for info in await self.runs.list(f"{transport}/"):
                if info.status is Status.RUNNING:
                    return answer(info.id)
            return Response(status_code=204)

    async def _model(self) -> AsyncIterator[str]:
        while (word := await self.words.get()) is not None:
            if isinstance(word, Exception):
                raise word
            yield word

    @asynccontextmanager
    async def page(self, transport: str, action: str) -> AsyncIterator["Page"]:
        """A page that sends a message, or is loaded again."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            config = uvicorn.Config(self.app, log_level="warning", timeout_graceful_shutdown=1)
            server = uvicorn.Server(config)
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            api = f"http://127.0.0.1:{listener.getsockname()[1]}/{transport}"
            program = await asyncio.create_subprocess_exec(
                *("node", "use_chat.mjs", transport, action, api),
                cwd=CONFORMANCE,
                stdout=asyncio.subprocess.PIPE,
            )
            try:
                yield Page(program)
            finally:
                if program.returncode is None:
                    program.kill()
                await program.communicate()
                server.should_exit = True
                await serving


class Page:
    """The states that a page shows, one after the other."""

    def __init__(self, program: asyncio.subprocess.Process) -> None:
        assert program.stdout is not None
        self._output = program.stdout

    async def until(self, text: str) -> dict[str, Any]:
        """The first state with that text."""
        async for line in self._output:
            state: dict[str, Any] = json.loads(line)
            if text_of(state) == text:
                return state
        raise AssertionError(f"the page never showed {text!r}")

    async def states(self) -> list[dict[str, Any]]:
        """All states until the answer has ended; the last tells how."""
        return [json.loads(line) async for line in self._output]


def text_of(state: dict[str, Any]) -> str:
    return "".join(part["text"] for part in state.get("parts", ()))


@pytest.fixture
async def chat() -> AsyncIterator[Chat]:
    if shutil.which("node") is None or not (CONFORMANCE / "node_modules" / "ai").exists():
        message = "These tests need Node.js, and `npm ci` in conformance/"
        pytest.fail(message) if "CI" in os.environ else pytest.skip(message)
    async with Engine("memory:") as engine:
        made = Chat(engine)
        async with made.runs:
            yield made


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_page_shows_an_answer_and_resumes_it_when_it_is_loaded_again(
    chat: Chat, transport: str
) -> None:
    chat.words.put_nowait("Hel")
    async with chat.page(transport, "send") as page:
        first = await page.until("Hel")
    async with chat.page(transport, "resume") as page:
        assert (await page.until("Hel"))["id"] == first["id"] == "m1"
        chat.words.put_nowait("lo")
        chat.words.put_nowait(None)
        *_, shown, last = await page.states()
    assert shown["parts"] == [{"type": "text", "text": "Hello", "state": "done"}]
    assert last == {"status": "ready"}
    async with chat.page(transport, "resume") as page:
        # There is nothing to resume.
        assert (await page.states())[-1] == {"status": "ready"}


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_page_shows_why_an_answer_failed(chat: Chat, transport: str) -> None:
    chat.words.put_nowait("Hel")
    async with chat.page(transport, "send") as page:
        await page.until("Hel")
        chat.words.put_nowait(RunFailed("The model is tired."))
        *_, shown, last = await page.states()
    assert text_of(shown) == "Hel"
    assert last == {"status": "error", "error": "The model is tired."}


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_page_is_ready_after_its_answer_was_stopped(chat: Chat, transport: str) -> None:
    chat.words.put_nowait("Hel")
    async with chat.page(transport, "send") as page:
        await page.until("Hel")
        await chat.runs.stop(f"{transport}/1")
        *_, shown, last = await page.states()
    assert text_of(shown) == "Hel"
    assert last == {"status": "ready"}
