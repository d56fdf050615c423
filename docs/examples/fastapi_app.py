"""A FastAPI application that answers chats as streams.

    uvicorn fastapi_app:app

    curl -X POST localhost:8000/chats/42?prompt=hello
    curl -N 'localhost:8000/streams/chats/42?offset=-1&live=sse'

The handler writes to the stream in-process; browsers read it over HTTP at the mount. One that
reconnects goes on where it was, and one that comes late sees the whole answer.
"""

import asyncio
from collections.abc import AsyncIterator

from fastapi import BackgroundTasks, FastAPI

from durable_streams_server import Engine, create_asgi

streams = Engine("memory:")
app = FastAPI(lifespan=streams.lifespan)
app.mount("/streams", create_asgi(streams))


async def model(prompt: str) -> AsyncIterator[str]:
    """Stands for whatever writes your answers."""
    for word in f"You said {prompt} and I am thinking about it".split():
        await asyncio.sleep(0.01)
        yield word


async def write_answer(path: str, prompt: str) -> None:
    async for token in model(prompt):
        await streams.append(path, {"token": token})
    await streams.close_stream(path)


@app.post("/chats/{chat}", status_code=202)
async def ask(chat: str, prompt: str, background: BackgroundTasks) -> dict[str, str]:
    path = f"chats/{chat}"
    await streams.create(path, content_type="application/json", ttl=3600)
    background.add_task(write_answer, path, prompt)
    return {"stream": f"/streams/{path}"}
