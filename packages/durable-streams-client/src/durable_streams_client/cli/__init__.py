"""The command ``durable-streams``, for using streams from a shell."""

from durable_streams_client.cli.commands import commands
from durable_streams_client.cli.ending import main

__all__ = ["commands", "main"]
