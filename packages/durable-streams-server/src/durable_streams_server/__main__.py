"""``python -m durable_streams_server``."""

from durable_streams_server.cli.command import main

main(prog_name="durable-streams-server")
