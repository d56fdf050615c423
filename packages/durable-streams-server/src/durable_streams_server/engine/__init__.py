"""The engine: streams for the process that runs it, over any store, with no HTTP in it."""

from durable_streams_server.engine.engine import Engine
from durable_streams_server.engine.limits import Limits

__all__ = ["Engine", "Limits"]
