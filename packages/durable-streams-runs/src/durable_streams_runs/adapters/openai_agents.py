"""Streams of the OpenAI Agents SDK as runs.

stream = text(lambda: Runner.run_streamed(agent, prompt))
await runs.start("answers/1", stream)
"""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Final

from durable_streams_runs.adapters.openai import ADDED, TEXT_DELTAS
from durable_streams_runs.adapters.source import Source, as_json, as_sent

__all__ = ["events", "text"]

RAW: Final = "raw_response_event"


def text(run: Any) -> Source[str]:
    """The text that the agents write, refusals included.

    ``run`` is a function that calls ``Runner.run_streamed``, which makes its first request when the
    run is a new one; or what ``Runner.run_streamed`` returns, which has begun already and is
    cancelled if the run is there.
    """
    return Source(_AgentsRun(run), _text)


def events(run: Any) -> Source[dict[str, Any]]:
    """The events of the agents, for a run of the format ``JSON``. Takes what :func:`text` takes.

    - Events of the Responses API, as it sends them.
    - ``{"type": "run_item_stream_event", "name": …, "item": …}``, with the item as a model gets it.
    - ``{"type": "agent_updated_stream_event", "agent": …}``, with the name of the agent.

    Events of other types are passed over.
    """
    return Source(_AgentsRun(run), _events)


class _AgentsRun:
    """The events of a run of agents, which is cancelled when it is closed."""

    def __init__(self, run: Any) -> None:
        if not callable(run) and not hasattr(run, "stream_events"):
            raise TypeError(f"what Runner.run_streamed returns is needed, not {type(run).__name__}")
        self._run = run

    def __aiter__(self) -> AsyncIterator[Any]:
        if not hasattr(self._run, "stream_events"):
            self._run = self._run()
        events: AsyncIterator[Any] = self._run.stream_events()
        return events

    async def aclose(self) -> None:
        if hasattr(self._run, "cancel"):
            self._run.cancel()


async def _text(stream: Any) -> AsyncGenerator[str, None]:
    async for event in stream:
        if event.type == RAW and event.data.type in TEXT_DELTAS:
            yield event.data.delta


async def _events(stream: Any) -> AsyncGenerator[dict[str, Any], None]:
    async for event in stream:
        match event.type:
            case "raw_response_event":
                yield as_sent(event.data, without=ADDED)
            case "run_item_stream_event":
                item = as_json(event.item.to_input_item())
                yield {"type": event.type, "name": event.name, "item": item}
            case "agent_updated_stream_event":
                yield {"type": event.type, "agent": event.new_agent.name}
