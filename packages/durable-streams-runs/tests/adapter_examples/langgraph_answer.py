from langgraph.graph.state import CompiledStateGraph

from durable_streams_runs import Run, Runs
from durable_streams_runs.adapters.langchain import text


async def ask(runs: Runs, graph: CompiledStateGraph, run_id: str, prompt: str) -> Run:
    state = {"messages": [{"role": "user", "content": prompt}]}
    return await runs.start(run_id, text(graph.astream(state, stream_mode="messages")))
