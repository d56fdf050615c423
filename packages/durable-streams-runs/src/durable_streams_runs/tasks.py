"""Tasks: sources that are known by name, so that another process can run them."""

from collections.abc import AsyncIterable, Callable
from dataclasses import dataclass
from typing import Any

from durable_streams_runs.formats import Format

__all__ = ["Task"]


@dataclass(frozen=True, slots=True)
class Task:
    """A function that makes a source, under the name by which all processes know it.

    Made by ``Runs.task``. ``function`` takes the arguments of the run by name; if ``restart`` is
    set, also what was written already as its first argument: of a text run a ``str``, of a JSON
    run a list of messages.
    """

    name: str
    function: Callable[..., AsyncIterable[Any]]
    output: Format
    restart: bool

    def source(self, written: list[Any], args: dict[str, Any]) -> AsyncIterable[Any]:
        """The source of a run with these arguments, after ``written``."""
        if not self.restart:
            return self.function(**args)
        text = self.output.content_type.startswith("text/")
        return self.function("".join(written) if text else written, **args)
