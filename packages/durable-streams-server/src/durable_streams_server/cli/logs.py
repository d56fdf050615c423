"""The options of logs, and how the command sets logging up."""

import logging
import sys
from collections.abc import Iterable, Mapping
from typing import Any, Final

import click

from durable_streams_server.cli.hiding import secrets_in
from durable_streams_server.cli.option_groups import OptionGroup, Settings
from durable_streams_server.operations.access_log import LOGGER
from durable_streams_server.operations.clients import TrustedProxies
from durable_streams_server.operations.log_formats import (
    JsonFormatter,
    LineFormatter,
    RepeatedFaults,
)
from durable_streams_server.operations.log_handler import LineHandler


def _trusted(
    _context: click.Context, _parameter: click.Parameter, networks: tuple[str, ...]
) -> tuple[str, ...]:
    try:
        TrustedProxies(networks)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
    return networks


LOGS: Final = OptionGroup(
    "Logs",
    [
        click.Option(
            ["--log-level"],
            default="info",
            type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
            help="The least that is logged.",
        ),
        click.Option(
            ["--log-format"],
            default="text",
            type=click.Choice(["text", "json"], case_sensitive=False),
            help="json writes each event as one object on one line.",
        ),
        click.Option(
            ["--access-log"],
            is_flag=True,
            help="Log each request: who, what, its status, bytes and time; no secrets.",
        ),
        click.Option(
            ["--trusted-proxy"],
            multiple=True,
            metavar="NETWORK",
            callback=_trusted,
            help="Proxy whose X-Forwarded-For names the client for logs and limits: a network, an "
            "address, or unix for whoever connects to the Unix socket; repeat for several.",
        ),
    ],
)


def secrets_of(settings: Mapping[str, Any]) -> list[str | None]:
    """The secrets among settings, or among the settings of a file."""
    return [
        settings.get("token"),
        *settings.get("signing_key", ()),
        *secrets_in(settings.get("store") or ""),
    ]


def set_up_logging(settings: Settings) -> None:
    """Log to standard error, at the level and in the format that the settings name."""
    secrets = secrets_of(settings)
    formatter = JsonFormatter if settings["log_format"] == "json" else LineFormatter
    lines = formatter([secret for secret in secrets if secret])
    handler: logging.Handler
    try:
        handler = LineHandler(sys.stderr.fileno(), lines)
    except (AttributeError, OSError):
        # Standard error is closed, or an object of whoever runs this in a process of their own.
        handler = logging.StreamHandler()
        handler.setFormatter(lines)
    handler.addFilter(RepeatedFaults())
    logging.basicConfig(level=settings["log_level"].upper(), handlers=[handler])
    if settings["access_log"]:
        # It was asked for, whatever the level of other lines.
        logging.getLogger(LOGGER).setLevel(logging.INFO)


def hide_secrets(source: str, secrets: Iterable[str | None]) -> None:
    """Take the secrets of a file, as it is now and was before, out of the log."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, LineFormatter):
            handler.formatter.hide(source, [secret for secret in secrets if secret])


def line_handler() -> LineHandler | None:
    """The handler that :func:`set_up_logging` made."""
    handlers = logging.getLogger().handlers
    return next((each for each in handlers if isinstance(each, LineHandler)), None)
