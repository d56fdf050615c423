from agents import Agent, Runner

from durable_streams_runs import Run, Runs
from durable_streams_runs.adapters.openai_agents import text


async def ask(runs: Runs, agent: Agent, run_id: str, prompt: str) -> Run:
    return await runs.start(run_id, text(lambda: Runner.run_streamed(agent, prompt)))
