"""What holds for all adapters."""

import ast
import asyncio
import re
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.metadata import requires, version
from pathlib import Path
from typing import Any

import pytest
from sources import Held, text

from durable_streams_runs import Runs
from durable_streams_runs.adapters.source import Source

LIBRARIES = [
    *("ag-ui-protocol", "anthropic", "langchain-core", "langgraph", "openai"),
    *("openai-agents", "pydantic-ai-slim"),
]
"""The libraries whose events the adapters know, and that their tests use."""


EXAMPLES = sorted((Path(__file__).parent / "adapter_examples").glob("*.py"))


def test_no_adapter_imports_its_library() -> None:
    code = """if True:
        import pkgutil, sys
        import durable_streams_runs.adapters as adapters
        for each in pkgutil.iter_modules(adapters.__path__):
            if each.name != "mcp":  # whose event store is a subclass of the SDK's
                __import__(f"{adapters.__name__}.{each.name}")
        print(*sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    loaded = done.stdout.split()
    assert "durable_streams_runs.adapters.openai" in loaded
    names = {name.replace("-", "_") for name in LIBRARIES}
    assert not {"pydantic", "pydantic_ai", "agents", "ag_ui", *names} & set(loaded)


@pytest.mark.parametrize("library", LIBRARIES)
def test_the_extra_asks_for_the_version_that_is_tested_here(library: str) -> None:
    """An adapter relies on the shape of a library's events, which a major version may change."""
    tested = version(library).split(".")
    major, minor = int(tested[0]), int(tested[1])
    wanted = [
        requirement
        for requirement in requires("durable-streams-runs") or ()
        if re.match(rf"{library}[<>].*extra ==", requirement)
    ]
    assert len(wanted) == 1
    lowest = re.search(r">=([0-9]+)\.([0-9]+)", wanted[0])
    assert lowest is not None
    assert (int(lowest[1]), int(lowest[2])) <= (major, minor)
    assert f"<{major + 1}" in wanted[0]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_has_ten_lines_at_most(example: Path) -> None:
    """Beside its imports. The tests of each adapter run its example."""
    body = ast.parse(example.read_text()).body
    functions = [each for each in body if not isinstance(each, ast.Import | ast.ImportFrom)]
    assert 0 < len("\n".join(map(ast.unparse, functions)).splitlines()) <= 10


async def read(stream: Any) -> AsyncGenerator[str, None]:
    async for item in stream:
        yield item


def as_iterator(stream: Any) -> Any:
    return stream


async def as_call(stream: Any) -> Any:
    return stream


@asynccontextmanager
async def as_context(stream: Any) -> AsyncIterator[Any]:
    yield stream


FORMS = [as_iterator, as_call, as_context]


@pytest.mark.parametrize("form", FORMS)
async def test_a_stream_is_read_to_its_end(runs: Runs, form: Any) -> None:
    held = Held()
    held.give("a", "b")
    held.finish()
    run = await runs.start("x", Source(form(held.stream()), read))
    assert await text(run) == ("ab", "done")


@pytest.mark.parametrize("form", FORMS)
async def test_a_stream_that_raises_midway_makes_a_failed_run(runs: Runs, form: Any) -> None:
    held = Held()
    held.give("a", OSError("internal secret"))
    run = await runs.start("x", Source(form(held.stream()), read))
    assert await text(run) == ("a", "failed")
    assert "secret" not in str((await run.status()).error)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("begun", [False, True], ids=["before its first item", "after it"])
async def test_a_stop_cancels_a_stream_that_waits(runs: Runs, form: Any, begun: bool) -> None:
    held = Held()
    if begun:
        held.give("a")
    run = await runs.start("x", Source(form(held.stream()), read))
    if begun:
        await anext(aiter(run.follow()))
    await held.begun.wait()
    await run.stop()
    await held.cancelled.wait()


async def test_a_stop_cancels_a_call_whose_answer_has_not_begun(runs: Runs) -> None:
    asked, cancelled = asyncio.Event(), asyncio.Event()

    async def call() -> Any:
        try:
            asked.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    run = await runs.start("x", Source(call(), read))
    await asked.wait()
    await run.stop()
    await cancelled.wait()


@pytest.mark.parametrize("form", FORMS)
async def test_an_item_that_a_run_does_not_take_closes_the_stream(runs: Runs, form: Any) -> None:
    held = Held()
    held.give("a", 1)
    run = await runs.start("x", Source(form(held.stream()), read))
    assert await text(run) == ("a", "failed")
    await held.cancelled.wait()


@pytest.mark.parametrize("form", FORMS)
async def test_a_stream_for_which_there_is_a_run_is_not_opened(runs: Runs, form: Any) -> None:
    first, second = Held(), Held()
    await runs.start("x", first.stream())
    run = await runs.start("x", Source(form(second.stream()), read))
    assert not run.started
    assert not second.begun.is_set()


class Manager(AbstractAsyncContextManager[Any, Any]):
    """Keeps the call for a stream until it is entered, as the SDKs do."""

    def __init__(self, call: Any) -> None:
        self._call = call

    async def __aenter__(self) -> Any:
        return await self._call

    async def __aexit__(self, *_: object) -> None: ...


async def test_a_manager_that_is_not_entered_leaves_no_call_behind() -> None:
    """Python would warn that it was never awaited, which is an error here."""
    await Source(Manager(as_call(None)), read).aclose()


def test_a_stream_of_no_asynchronous_kind_is_refused() -> None:
    with pytest.raises(TypeError, match="asynchronous client is needed, not list"):
        Source([], read)  # type: ignore[arg-type]
