"""A chat whose answers survive a refresh and appear on every device.

    uvicorn chat_app:app

Open http://localhost:8000 in two browsers, log in as the same person, and reload one of them in
the middle of an answer.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import FileResponse

from durable_streams_server import Engine, create_asgi

streams = Engine("memory:")
users: dict[str, str] = {}  # by session cookie
answers: dict[str, asyncio.Task[None]] = {}  # under way, by path


def user_of(request: Request) -> str:
    user = users.get(request.cookies.get("session", ""))
    if user is None:
        raise HTTPException(401, "Log in first.")
    return user


async def authorize(action: str, path: str, scope: object) -> bool | int:
    """Browsers read their own chats; only the handlers below write."""
    with suppress(HTTPException):
        return action in ("read", "head") and path.startswith(f"{user_of(Request(scope))}/")
    return 401


app = FastAPI(lifespan=streams.lifespan)
app.mount("/streams", create_asgi(streams, authorize=authorize))
User = Annotated[str, Depends(user_of)]


@app.get("/")
async def page() -> FileResponse:
    return FileResponse(Path(__file__).with_name("chat.html"))


@app.post("/login")
async def login(name: str, response: Response) -> None:
    session = secrets.token_urlsafe()
    users[session] = name
    await streams.create(f"{name}/chat", content_type="application/json")
    response.set_cookie("session", session, httponly=True, samesite="strict")


async def model(prompt: str) -> AsyncIterator[str]:
    """Stands for whatever writes your answers."""
    for word in f"You said “{prompt}”, and I am still thinking about what that means".split():
        await asyncio.sleep(0.1)
        yield word + " "


async def answer(path: str, prompt: str) -> None:
    end = "stopped"
    try:
        async for token in model(prompt):
            await streams.append(path, {"token": token})
        end = "done"
    finally:
        await streams.append(path, {"end": end})


@app.post("/chat")
async def ask(prompt: str, user: User) -> None:
    path = f"{user}/chat"
    await streams.append(path, {"prompt": prompt})
    answers[path] = asyncio.create_task(answer(path, prompt))


@app.post("/stop")
async def stop(user: User) -> None:
    if task := answers.pop(f"{user}/chat", None):
        task.cancel()
