"""Streams of LangChain and LangGraph as runs, against the libraries and a fake model."""

from typing import Any

import pytest
from sources import Held, output, text

from durable_streams_runs import JSON, Runs
from durable_streams_runs.adapters import langchain

# The libraries are imported where they are used: each process of the tests reads every module.
STATE: Any = {"messages": [{"role": "user", "content": "Hello?"}]}


@pytest.fixture
def held() -> Held:
    """The words of the model."""
    return Held()


@pytest.fixture
def model(held: Held) -> Any:
    from langchain_core.language_models import BaseChatModel
    from langchain_core.messages import AIMessage, AIMessageChunk
    from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult

    class FakeModel(BaseChatModel):
        @property
        def _llm_type(self) -> str:
            return "fake"

        def _generate(self, *args: Any, **options: Any) -> Any:
            raise NotImplementedError

        async def _agenerate(self, *args: Any, **options: Any) -> Any:
            whole = AIMessage("".join([word async for word in held.stream()]))
            return ChatResult(generations=[ChatGeneration(message=whole)])

        async def _astream(self, *args: Any, **options: Any) -> Any:
            async for word in held.stream():
                yield ChatGenerationChunk(message=AIMessageChunk(content=word))

    return FakeModel()


@pytest.fixture
def graph(model: Any) -> Any:
    from langgraph.graph import START, MessagesState, StateGraph

    async def answer(state: MessagesState) -> Any:
        return {"messages": [await model.ainvoke(state["messages"])]}

    made = StateGraph(MessagesState)
    made.add_node("answer", answer)
    made.add_edge(START, "answer")
    return made.compile()


def say(held: Held, *words: str) -> None:
    held.give(*words)
    held.finish()


async def test_a_graph_is_a_text_run(runs: Runs, held: Held, graph: Any) -> None:
    from adapter_examples.langgraph_answer import ask

    say(held, "Hel", "lo")
    assert await text(await ask(runs, graph, "answers/1", "Hello?")) == ("Hello", "done")


@pytest.mark.parametrize(
    "options",
    [
        {"stream_mode": ["messages", "updates", "values", "custom"]},
        {"stream_mode": "messages", "subgraphs": True},
        {"stream_mode": ["updates", "messages"], "subgraphs": True},
        {"stream_mode": "messages", "version": "v2"},
        {"stream_mode": ["values", "messages"], "subgraphs": True, "version": "v2"},
    ],
)
async def test_messages_are_found_among_other_modes(
    runs: Runs, held: Held, graph: Any, options: dict[str, Any]
) -> None:
    say(held, "Hel", "lo")
    run = await runs.start("answers/1", langchain.text(graph.astream(STATE, **options)))
    assert await text(run) == ("Hello", "done")


async def test_only_models_write_text(runs: Runs, graph: Any) -> None:
    from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

    from durable_streams_runs.adapters.langchain import text as text_of

    async def messages() -> Any:
        yield ToolMessage("42", tool_call_id="t"), {"langgraph_node": "tools"}
        yield HumanMessage("Sure?"), {"langgraph_node": "ask"}
        yield AIMessage([{"type": "text", "text": "Yes."}]), {"langgraph_node": "answer"}

    run = await runs.start("answers/1", text_of(messages()))
    assert await text(run) == ("Yes.", "done")


async def test_a_model_and_a_chain_are_text_runs(runs: Runs, held: Held, model: Any) -> None:
    from langchain_core.output_parsers import StrOutputParser

    for name, runnable in ("model", model), ("chain", model | StrOutputParser()):
        say(held, "Hel", "lo")
        run = await runs.start(name, langchain.text(runnable.astream("Hello?")))
        assert await text(run) == ("Hello", "done")


@pytest.mark.parametrize("mode", ["values", "updates"])
async def test_a_stream_without_messages_has_no_text_and_says_so(
    runs: Runs, held: Held, graph: Any, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    say(held, "Hello")
    run = await runs.start("answers/1", langchain.text(graph.astream(STATE, stream_mode=mode)))
    assert await text(run) == ("", "failed")
    assert "the stream mode 'messages'" in caplog.text


async def test_the_items_of_a_graph_are_stored_as_json(runs: Runs, held: Held, graph: Any) -> None:
    say(held, "Hel", "lo")
    stream = graph.astream(STATE, stream_mode=["messages", "updates"])
    run = await runs.start("answers/1", langchain.events(stream), output=JSON)
    *messages, update, status = await output(run)
    assert status == "done"
    assert [(mode, data[0]["content"]) for mode, data in messages if data[0]["content"]] == [
        ("messages", "Hel"),
        ("messages", "lo"),
    ]
    assert {data[1]["langgraph_node"] for _, data in messages} == {"answer"}
    assert update[0] == "updates"
    assert update[1]["answer"]["messages"][0]["content"] == "Hello"


async def test_a_model_that_raises_makes_a_failed_run(runs: Runs, held: Held, graph: Any) -> None:
    held.give("Hel", OSError("internal secret"))
    stream = graph.astream(STATE, stream_mode="messages")
    run = await runs.start("answers/1", langchain.text(stream))
    assert await text(run) == ("Hel", "failed")
    assert "secret" not in str((await run.status()).error)


@pytest.mark.parametrize("words", [[], ["Hel"]], ids=["before its first word", "after it"])
async def test_a_stop_ends_the_call_of_the_model(
    runs: Runs, held: Held, graph: Any, words: list[str]
) -> None:
    held.give(*words)
    stream = graph.astream(STATE, stream_mode="messages")
    run = await runs.start("answers/1", langchain.text(stream))
    if words:
        await anext(aiter(run.follow()))
    await held.begun.wait()
    await run.stop()
    await held.cancelled.wait()


async def test_a_start_that_attaches_calls_no_model(runs: Runs, held: Held, graph: Any) -> None:
    first = Held()
    await runs.start("answers/1", first.stream())
    stream = graph.astream(STATE, stream_mode="messages")
    assert not (await runs.start("answers/1", langchain.text(stream))).started
    assert not held.begun.is_set()
