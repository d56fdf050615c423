"""The subcommand ``sign``: makes signed read URLs."""

import re
from typing import Final

import click

from durable_streams_core.errors import DurableStreamsError
from durable_streams_server.signing import ReadSigner

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@click.command()
@click.argument("path")
@click.option(
    "--expires",
    default="1h",
    metavar="TIME",
    help="How long it is good for: a number with s, m, h or d.",
)
@click.option(
    "--signing-key",
    required=True,
    multiple=True,
    envvar="DURABLE_STREAMS_SIGNING_KEY",
    metavar="SECRET",
    help="The server's key. Safer in the environment than here.",
)
def sign(path: str, expires: str, signing_key: tuple[str, ...]) -> None:
    """Print a query parameter that permits reading the stream PATH.

    Append it to the stream's URL: ``https://HOST/v1/stream/PATH?sig=…``.
    """
    match = re.fullmatch(r"(\d{1,6})([smhd])", expires)
    if match is None:
        raise click.BadParameter("write it as 30m, 12h or 7d.", param_hint="--expires")
    try:
        seconds = int(match[1]) * _UNITS[match[2]]
        click.echo(ReadSigner(signing_key).sign(path, seconds))
    except (DurableStreamsError, ValueError) as error:
        raise click.ClickException(str(error)) from error
