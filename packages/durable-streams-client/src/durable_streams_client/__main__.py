"""``python -m durable_streams_client`` is the command ``durable-streams``."""

from durable_streams_client.cli import main

main()
