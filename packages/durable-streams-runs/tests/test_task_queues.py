"""The recipes for Celery and arq, run by their own workers with Valkey as the broker."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sources import text, yielding

from durable_streams_client import AsyncClient
from durable_streams_runs import RunNotFound, Runs, Status

RECIPES = Path(__file__).parent / "queue_examples"
SECONDS = 200

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the libraries


@contextmanager
def worker(*command: str, broker: str, streams: str) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "BROKER": broker, "STREAMS": streams}
    with subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=RECIPES,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
async def web(server: str) -> AsyncIterator[Runs]:
    """The runs of the web application, which follows and stops what the workers run."""
    async with AsyncClient(server) as client, Runs(client) as runs:
        yield runs


async def begun(runs: Runs, run_id: str) -> None:
    """Wait until a worker has run and has written something."""
    while True:
        try:
            async for part in runs.follow(run_id):
                if part.items:
                    return
        except RunNotFound:
            await asyncio.sleep(0.02)


async def check(runs: Runs, answer: Any) -> None:
    """``answer(answer_id, prompt)`` puts a job into the queue and waits for its result."""
    async with asyncio.timeout(SECONDS):
        assert await answer("1", "hello") == Status.DONE
        run = await runs.start("answers/1", yielding(["never"]))
        assert (run.started, await text(run)) == (False, ("You said hello.", "done"))
        # A job that is repeated finds the run that it made before.
        assert await answer("1", "again") == Status.DONE
        assert await text(run) == ("You said hello.", "done")
        waiting = asyncio.create_task(answer("2", "wait"))
        await begun(runs, "answers/2")
        assert (await runs.stop("answers/2")).status is Status.STOPPED
        assert await waiting == Status.STOPPED


async def test_celery_runs_answers_that_the_web_application_follows_and_stops(
    valkey: str, server: str, web: Runs
) -> None:
    celery = pytest.importorskip("celery")
    broker = valkey.replace("unix://", "redis+socket://")
    queue = celery.Celery(broker=broker, backend=broker)

    async def answer(answer_id: str, prompt: str) -> Any:
        job = queue.send_task("celery_answers.answer", (answer_id, prompt))
        return await asyncio.to_thread(job.get, timeout=SECONDS)

    flags = ("--pool", "solo", "--without-gossip", "--without-mingle", "--without-heartbeat")
    with worker("celery", "-A", "celery_answers", "worker", *flags, broker=broker, streams=server):
        await check(web, answer)
    queue.close()


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="arq 0.25 needs a loop before it runs")
async def test_arq_runs_answers_that_the_web_application_follows_and_stops(
    valkey: str, server: str, web: Runs
) -> None:
    arq = pytest.importorskip("arq")
    root, broker = server + "arq/", valkey + "?db=0"
    queue = await arq.create_pool(arq.connections.RedisSettings.from_dsn(broker))

    async def answer(answer_id: str, prompt: str) -> Any:
        job = await queue.enqueue_job("answer", answer_id, prompt)
        # `result` misses a job that ends between its two looks.
        while (found := await job.result_info()) is None:
            await asyncio.sleep(0.02)
        return found.result

    with worker("arq", "arq_answers.WorkerSettings", broker=broker, streams=root):
        async with AsyncClient(root) as client, Runs(client) as runs:
            await check(runs, answer)
    await queue.aclose()
