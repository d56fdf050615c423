from anthropic import AsyncAnthropic
from anthropic.types import MessageParam

from durable_streams_runs import Run, Runs
from durable_streams_runs.adapters.anthropic import text


async def ask(runs: Runs, client: AsyncAnthropic, run_id: str, chat: list[MessageParam]) -> Run:
    answer = client.messages.stream(model="claude-opus-5-5", max_tokens=1024, messages=chat)
    return await runs.start(run_id, text(answer))
