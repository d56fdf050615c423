"""The command ``durable-streams-server``."""

from durable_streams_server.cli.command import main

__all__ = ["main"]
