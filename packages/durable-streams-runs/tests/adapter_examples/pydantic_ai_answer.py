from pydantic_ai import Agent
from pydantic_ai.ui.vercel_ai import VercelAIAdapter

from durable_streams_runs import Run, Runs
from durable_streams_runs.adapters.pydantic_ai import events, text
from durable_streams_runs.adapters.vercel import UI_MESSAGES


async def ask(runs: Runs, agent: Agent, run_id: str, prompt: str) -> Run:
    return await runs.start(run_id, text(agent.run_stream(prompt)))


async def ask_in_chat(runs: Runs, agent: Agent, run_id: str, body: bytes) -> Run:
    request = VercelAIAdapter.build_run_input(body)
    chat = VercelAIAdapter(agent, request, sdk_version=6, server_message_id=run_id)
    return await runs.start(run_id, events(chat.run_stream()), output=UI_MESSAGES)
