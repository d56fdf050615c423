"""Answers and jobs that outlive their connection: runs on durable streams.

runs = Runs(streams)  # an Engine, or an AsyncClient

async with runs:
    run = await runs.start("chats/42", model.stream(prompt))
    async for part in run.follow():
        print(part.text, end="")
"""

from importlib.metadata import version

from durable_streams_runs.errors import (
    NotARun,
    RunError,
    RunFailed,
    RunNotFound,
    RunsUnavailable,
)
from durable_streams_runs.formats import JSON, TEXT, Format, JsonFormat, TextFormat
from durable_streams_runs.jobs import program_output
from durable_streams_runs.limits import Limits
from durable_streams_runs.router import create_router
from durable_streams_runs.runs import Run, Runs
from durable_streams_runs.states import End, Part, RunInfo, Status
from durable_streams_runs.tasks import Task

__version__ = version("durable-streams-runs")

__all__ = [
    "JSON",
    "TEXT",
    "End",
    "Format",
    "JsonFormat",
    "Limits",
    "NotARun",
    "Part",
    "Run",
    "RunError",
    "RunFailed",
    "RunInfo",
    "RunNotFound",
    "Runs",
    "RunsUnavailable",
    "Status",
    "Task",
    "TextFormat",
    "create_router",
    "program_output",
]
