"""The command ``durable-streams-server``: one process that serves until it is told to stop."""

import logging
from typing import Any, Final

import click

from durable_streams_core.errors import DurableStreamsError
from durable_streams_server import __version__
from durable_streams_server.cli.access_rules import is_protected
from durable_streams_server.cli.config_file import CONFIGURATION
from durable_streams_server.cli.environment import PREFIX, check_environment
from durable_streams_server.cli.listening import LISTENING, is_loopback_host, listen_problem
from durable_streams_server.cli.logs import LOGS, set_up_logging
from durable_streams_server.cli.maintenance import check, export, import_
from durable_streams_server.cli.operating import OPERATIONS
from durable_streams_server.cli.option_groups import GroupedCommand, OptionGroup
from durable_streams_server.cli.process import loop_runner, prepare_process
from durable_streams_server.cli.requests import ACCESS, BROWSERS, REQUESTS
from durable_streams_server.cli.rolling import ROLLING
from durable_streams_server.cli.serve import serve
from durable_streams_server.cli.show_config import config_command
from durable_streams_server.cli.sign import sign
from durable_streams_server.cli.streams import STREAMS, WEBHOOKS

log = logging.getLogger("durable_streams_server.cli")

GROUPS: Final[tuple[OptionGroup, ...]] = (
    *(CONFIGURATION, LISTENING, ROLLING, STREAMS, ACCESS, REQUESTS, BROWSERS, WEBHOOKS, OPERATIONS),
    LOGS,
)
"""The options of the command, in the order of ``--help``."""


@click.command(
    cls=GroupedCommand,
    groups=GROUPS,
    invoke_without_command=True,
    context_settings={"auto_envvar_prefix": PREFIX, "show_default": True},
    epilog="Every option can also be set in the environment, as DURABLE_STREAMS_PORT for --port, "
    "and in the --config file, as port.",
)
@click.version_option(__version__, prog_name="durable-streams-server")
@click.pass_context
def main(context: click.Context, /, **settings: Any) -> None:
    """Serve durable streams over HTTP."""
    if context.invoked_subcommand is not None:
        return
    check_environment(context.command)
    set_up_logging(settings)
    if not (is_protected(settings) or settings["uds"] or is_loopback_host(settings["host"])):
        log.warning(
            "Everybody who reaches %s may read, write and delete every stream. Set --token or "
            "--access, or listen on 127.0.0.1 behind a proxy that checks access.",
            settings["host"],
        )
    prepare_process()
    try:
        loop_runner()(serve(settings))
    except DurableStreamsError as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(listen_problem(error, settings)) from error


show_config = config_command([option for group in GROUPS for option in group.options], GROUPS)
"""The subcommand ``config``."""

for command in check, show_config, export, import_, sign:
    main.add_command(command)
