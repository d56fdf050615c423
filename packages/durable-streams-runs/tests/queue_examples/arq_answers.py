import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

from arq.connections import RedisSettings

from durable_streams_client import AsyncClient
from durable_streams_runs import Runs


async def startup(ctx: dict[str, Any]) -> None:
    stack = ctx["stack"] = AsyncExitStack()
    client = await stack.enter_async_context(AsyncClient(os.environ["STREAMS"]))
    ctx["runs"] = await stack.enter_async_context(Runs(client))


async def shutdown(ctx: dict[str, Any]) -> None:
    await ctx["stack"].aclose()


async def answer(ctx: dict[str, Any], answer_id: str, prompt: str) -> str:
    run = await ctx["runs"].start(f"answers/{answer_id}", model(prompt))
    return (await run.wait()).status


async def model(prompt: str) -> AsyncIterator[str]:
    """Stands for whatever writes your answers; it is asked to go on for ever by "wait"."""
    yield f"You said {prompt}."
    if prompt == "wait":
        await asyncio.Event().wait()


class WorkerSettings:
    functions = (answer,)
    on_startup, on_shutdown = startup, shutdown
    redis_settings = RedisSettings.from_dsn(os.environ["BROKER"])
