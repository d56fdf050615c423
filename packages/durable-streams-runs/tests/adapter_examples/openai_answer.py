from openai import AsyncOpenAI

from durable_streams_runs import Run, Runs
from durable_streams_runs.adapters.openai import text


async def ask(runs: Runs, client: AsyncOpenAI, run_id: str, prompt: str) -> Run:
    answer = client.responses.create(model="gpt-6.2-sol", input=prompt, stream=True)
    return await runs.start(run_id, text(answer))
