"""The subcommand ``config``: prints the settings in force, and where each comes from."""

import json
from collections.abc import Sequence
from typing import Any

import click
from click.core import ParameterSource

from durable_streams_server.cli.access_rules import access_rules_of
from durable_streams_server.cli.config_file import ConfigFile, key_of, settable
from durable_streams_server.cli.environment import PREFIX, check_environment
from durable_streams_server.cli.hiding import HIDDEN, without_secrets
from durable_streams_server.cli.option_groups import OptionGroup, Settings
from durable_streams_server.cli.requests import options_of
from durable_streams_server.http.targets import parse_root
from durable_streams_server.signing import ReadSigner


def config_command(
    params: Sequence[click.Parameter], groups: Sequence[OptionGroup]
) -> click.Command:
    """The subcommand for a command with these options."""

    @click.pass_context
    def show(context: click.Context, /, **_: Any) -> None:
        check_environment(context.command)
        for group in groups:
            lines = [_line(context, option) for option in group.options if option in shown]
            if lines:
                click.echo(f"# {group.title}\n" + "\n".join(lines) + "\n")
        file: ConfigFile | None = context.params["config"]
        for name in () if file is None else file.tables:
            click.echo(f"# [{name}] is set in {file.path if file else ''}")
        settings = {
            str(option.name): _given(context, option).params[str(option.name)] for option in shown
        }
        try:
            _check({**settings, "config": file})
        except (ValueError, ImportError) as error:
            raise click.UsageError(str(error)) from error

    command = click.Command(
        "config",
        params=list(params),
        callback=show,
        context_settings={"auto_envvar_prefix": PREFIX, "show_default": False},
        short_help="Print the settings in force, and where each comes from.",
        help="Print the settings in force as a configuration file, with the place that each comes "
        "from. Secrets are hidden. Takes the options of the server, here or before its name.",
    )
    shown = settable(command)
    return command


def _check(settings: Settings) -> None:
    """Raise what a server would end with that had these settings."""
    access_rules_of(settings)
    options_of(settings)
    parse_root(settings["root"])
    if settings["signing_key"]:
        ReadSigner(settings["signing_key"])


def _given(context: click.Context, option: click.Option) -> click.Context:
    """The context of the command that was given an option: this one, or the one before it."""
    name = str(option.name)
    parent = context.parent
    if (
        parent is not None
        and context.get_parameter_source(name) is not ParameterSource.COMMANDLINE
        and parent.get_parameter_source(name) is ParameterSource.COMMANDLINE
    ):
        return parent
    return context


def _line(context: click.Context, option: click.Option) -> str:
    context = _given(context, option)
    value = context.params[str(option.name)]
    key = key_of(option)
    line = f"# {key} is not set" if value is None else f"{key} = {_shown(option, value)}"
    return f"{line}  # {_origin(context, option)}"


def _origin(context: click.Context, option: click.Option) -> str:
    match context.get_parameter_source(str(option.name)):
        case ParameterSource.COMMANDLINE:
            return "flag"
        case ParameterSource.ENVIRONMENT:
            return f"{PREFIX}_{str(option.name).upper()}"
        case ParameterSource.DEFAULT_MAP:
            file: ConfigFile = context.params["config"]
            return file.path
        case _:
            return "default"


def _shown(option: click.Option, value: Any) -> str:
    """The value as TOML, without what is secret."""
    if isinstance(value, tuple):
        return f"[{', '.join(_shown(option, each) for each in value)}]"
    if option.metavar == "SECRET":
        value = HIDDEN
    elif isinstance(value, str):
        value = without_secrets(value)
    return json.dumps(value, ensure_ascii=False)
