"""Checks and reads the variables of the environment that set the command's options."""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Final

import click

from durable_streams_server.nearest import nearest

PREFIX: Final = "DURABLE_STREAMS"

_OTHERS: Final = frozenset(("URL", "TIMEOUT"))
"""Variables of the command ``durable-streams``, the client's."""
_SERVICE_LINK: Final = re.compile(r"SERVICE_(HOST|PORT(_.+)?)|PORT_\d+_.+")
"""Variables that Kubernetes sets beside a service of the name ``durable-streams``."""

_SERVICE_ADDRESS: Final = re.compile(r"(tcp|udp|sctp)://")


class PortOption(click.Option):
    """An option whose variable Kubernetes may set to the address of a service of our name."""

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """The variable's value, None for the address of a service."""
        value = super().resolve_envvar_value(ctx)
        return None if value is not None and _SERVICE_ADDRESS.match(value) else value


def check_environment(command: click.Command, environment: Mapping[str, str] | None = None) -> None:
    """Raise :class:`click.UsageError` for a variable that begins like ours and sets no option.

    Neither may one of ours be empty: click takes that for one that is not set, and somebody who
    named a file of access rules with it would serve everybody.
    """
    known = [str(parameter.name).upper() for parameter in command.params if parameter.name]
    given = os.environ if environment is None else environment
    for variable, value in given.items():
        prefix, separator, name = variable.partition(PREFIX + "_")
        if prefix or not separator or name in _OTHERS:
            continue
        if name in known:
            if not value.strip():
                raise click.UsageError(
                    f"The variable {variable} of the environment is empty: unset it, or give it a "
                    "value."
                )
            continue
        if name.startswith("_") or _SERVICE_LINK.fullmatch(name):
            continue
        raise click.UsageError(_unknown(variable, name, known))


def _unknown(variable: str, name: str, known: Sequence[str]) -> str:
    meant = nearest(name.upper(), known)
    if meant is not None:
        advice = f"Did you mean {PREFIX}_{meant}?"
    else:
        advice = "Each option in --help has a variable of its name."
    return f"The variable {variable} of the environment sets no option. {advice}"
