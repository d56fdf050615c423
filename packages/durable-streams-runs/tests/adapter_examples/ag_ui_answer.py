from collections.abc import AsyncIterable

from ag_ui.core import RunAgentInput
from fastapi.responses import StreamingResponse

from durable_streams_runs import Runs
from durable_streams_runs.adapters.ag_ui import AG_UI, HEADERS, events, sse


async def ask(runs: Runs, asked: RunAgentInput, text: AsyncIterable[str]) -> StreamingResponse:
    answer = events(text, asked.thread_id, asked.run_id)
    run = await runs.start(f"threads/{asked.thread_id}/{asked.run_id}", answer, output=AG_UI)
    return StreamingResponse(sse(run.follow()), headers=HEADERS)
