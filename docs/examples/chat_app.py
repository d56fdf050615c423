"""A chat whose answers survive a refresh, appear on every device, and end when a worker dies.

    uvicorn chat_app:app

Open http://localhost:8000 in two browsers, log in as the same person, and reload one of them in
the middle of an answer.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import FileResponse

from durable_streams_runs import Runs
from durable_streams_server import Engine, create_asgi


async def model(prompt: str) -> AsyncIterator[str]:
    """Stands for whatever writes your answers."""
    for word in f"You said “{prompt}”, and I am still thinking about what that means".split():
        await asyncio.sleep(0.1)
        yield word + " "


# Start, follow, stop, resume and access:
streams = Engine("file:./chats")
runs = Runs(streams, root="/streams/")
app = FastAPI(lifespan=runs.lifespan)
users: dict[str, str] = {}  # by session cookie


def user_of(scope: object) -> str | None:
    return users.get(Request(scope).cookies.get("session", ""))


async def authorize(action: str, path: str, scope: object) -> bool | int:
    if user := user_of(scope):
        return action in ("read", "head") and path.startswith(f"{user}/")
    return 401


app.mount("/streams", create_asgi(streams, authorize=authorize))


@app.post("/chat")
async def ask(prompt: str, request: Request) -> None:
    user = user_of(request.scope) or not_logged_in()
    run = await runs.start(f"{user}/answers/{secrets.token_hex(8)}", model(prompt))
    await streams.append(f"{user}/chat", {"prompt": prompt, "id": run.id, "answer": run.url})


@app.post("/stop")
async def stop(answer: str, request: Request) -> None:
    if not answer.startswith(f"{user_of(request.scope) or not_logged_in()}/answers/"):
        raise HTTPException(403)
    await runs.stop(answer)


# What every application has:
def not_logged_in() -> str:
    raise HTTPException(401, "Log in first.")


@app.get("/")
async def page() -> FileResponse:
    return FileResponse(Path(__file__).with_name("chat.html"))


@app.post("/login")
async def login(name: str, response: Response) -> None:
    session = secrets.token_urlsafe()
    users[session] = name
    await streams.create(f"{name}/chat", content_type="application/json")
    response.set_cookie("session", session, httponly=True, samesite="strict")
