"""How the command ends: exit codes, and what to do next after an error."""

import logging
import sys
from typing import Final

import click

from durable_streams_client import errors
from durable_streams_client.cli.commands import commands

EXIT_CODES: Final[tuple[tuple[type[errors.ClientError], int], ...]] = (
    (errors.InvalidArgument, 2),
    (errors.NotFound, 3),
    (errors.Gone, 3),
    (errors.Fenced, 4),
    (errors.Conflict, 4),
    (errors.TailMoved, 4),
    (errors.AccessDenied, 5),
    (errors.TransportError, 6),
    (errors.Unavailable, 7),
)

ADVICE: Final[tuple[tuple[type[errors.ClientError], str], ...]] = (
    (
        errors.ConnectFailed,
        (
            "Check the address (--url or STREAM_URL), and that a server listens there;"
            " `durable-streams-server` starts one. With --wait the command goes on trying."
        ),
    ),
    (errors.TimedOut, "Give it more time with --timeout SECONDS, or with --wait."),
    (errors.AccessDenied, "Give other credentials with DURABLE_STREAMS_TOKEN, --token or --auth."),
    (
        errors.NotFound,
        (
            "`durable-streams ls` lists streams, `durable-streams create NAME` and"
            " `append --create NAME` make one."
        ),
    ),
    (errors.StreamExists, "`durable-streams head NAME` shows its configuration."),
    (errors.StreamClosed, "`durable-streams read NAME` shows what it holds; write to another."),
    (errors.Conflict, "`durable-streams head NAME` shows the state of the stream."),
    (errors.MalformedResponse, "Check that --url is the root of a server's streams."),
)
"""What to do next, in the words of a shell; other errors have their own advice."""


def main() -> None:
    """Run the command; print errors as a sentence, and exit with their code."""
    logger = logging.getLogger("durable_streams_client")
    retries = logging.StreamHandler()
    retries.setFormatter(logging.Formatter("durable-streams: %(message)s"))
    logger.addHandler(retries)
    try:
        status = commands.main(prog_name="durable-streams", standalone_mode=False)
    except errors.ClientError as error:
        click.echo(f"durable-streams: {told(error)}", err=True)
        status = exit_code(error)
    except click.exceptions.Abort:
        status = 130
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except OSError as error:
        click.echo(f"durable-streams: {error}", err=True)
        status = 1
    finally:
        logger.removeHandler(retries)
    sys.exit(status)


def told(error: errors.ClientError) -> str:
    """The error and what to do next."""
    cause = cause_of(error)
    advice = next((text for kind, text in ADVICE if isinstance(cause, kind)), cause.advice)
    first = f"{error.message} " if cause is not error else ""
    return errors.advised(f"{first}{cause.summary()}", advice)


def exit_code(error: errors.ClientError) -> int:
    """The exit code of an error; that of its cause, if a producer failed."""
    cause = cause_of(error)
    return next((code for kind, code in EXIT_CODES if isinstance(cause, kind)), 1)


def cause_of(error: errors.ClientError) -> errors.ClientError:
    return error.cause if isinstance(error, errors.NotStored) else error
