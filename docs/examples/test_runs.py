"""Tests of runs: with an engine in the process, over a bad connection, and with a shutdown."""

import asyncio
from collections.abc import AsyncIterator

from durable_streams_client import AsyncClient
from durable_streams_runs import Runs, Status
from durable_streams_server import Engine
from pytest_durable_streams import Faults


async def model(prompt: str) -> AsyncIterator[str]:
    yield f"You said {prompt}."


async def endless(prompt: str) -> AsyncIterator[str]:
    yield f"You said {prompt}."
    await asyncio.Event().wait()


async def test_an_answer_is_streamed(streams_engine: Engine) -> None:
    async with streams_engine, Runs(streams_engine) as runs:
        run = await runs.start("answers/1", model("hello"))
        assert "".join([part.text async for part in run.follow()]) == "You said hello."
        assert (await run.wait()).status is Status.DONE


async def test_an_answer_survives_a_bad_connection(streams_faults: Faults) -> None:
    streams_faults.lose_response(times=2, method="POST")
    streams_faults.repeat(times=None, method="PUT")
    async with AsyncClient(streams_faults.url) as client, Runs(client) as runs:
        run = await runs.start("answers/1", model("hello"))
        assert (await run.wait()).status is Status.DONE


async def test_a_shutdown_tells_readers(streams_engine: Engine) -> None:
    async with streams_engine:
        async with Runs(streams_engine) as first:
            await first.start("answers/1", endless("hello"))
        async with Runs(streams_engine) as second:
            assert (await second.wait("answers/1")).status is Status.INTERRUPTED
