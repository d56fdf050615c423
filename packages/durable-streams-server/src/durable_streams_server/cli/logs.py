"""The options of logs, and how the command sets logging up."""

import logging
from typing import Final

import click

from durable_streams_server.cli.option_groups import OptionGroup, Settings

LOGS: Final = OptionGroup(
    "Logs",
    [
        click.Option(
            ["--log-level"],
            default="info",
            type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
            help="Requests are logged at debug only.",
        ),
    ],
)


def set_up_logging(settings: Settings) -> None:
    """Log to standard error, at the level that the settings name."""
    logging.basicConfig(
        level=settings["log_level"].upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
