import asyncio
import os
from collections.abc import AsyncIterator

from celery import Celery

from durable_streams_client import AsyncClient
from durable_streams_runs import Runs

celery = Celery(broker=os.environ["BROKER"], backend=os.environ["BROKER"])


@celery.task(acks_late=True)
def answer(answer_id: str, prompt: str) -> str:
    # A task is an ordinary function, so each has a loop of its own.
    return asyncio.run(answered(answer_id, prompt))


async def answered(answer_id: str, prompt: str) -> str:
    async with AsyncClient(os.environ["STREAMS"]) as client, Runs(client) as runs:
        run = await runs.start(f"answers/{answer_id}", model(prompt))
        return (await run.wait()).status


async def model(prompt: str) -> AsyncIterator[str]:
    """Stands for whatever writes your answers; it is asked to go on for ever by "wait"."""
    yield f"You said {prompt}."
    if prompt == "wait":
        await asyncio.Event().wait()
