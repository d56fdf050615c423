"""How parts of the server commit operations without knowing the engine."""

from collections.abc import Awaitable, Callable
from typing import Any

from durable_streams_core.operations import Operation

Perform = Callable[[str, Operation[Any]], Awaitable[Any]]
"""Commits an operation on a path and returns its result: :meth:`Engine.perform`."""
