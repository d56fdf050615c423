"""Groups of options: each has a title in ``--help`` and a module that reads its settings.

A new option belongs into one of these groups, as a :class:`click.Option`. Its
variable of the environment and its key of the configuration file follow from its name.
"""

import math
from collections.abc import Sequence
from typing import Any

import click
import msgspec

Settings = dict[str, Any]
"""The value of every option, by its name in Python."""


class OptionGroup(msgspec.Struct, frozen=True):
    """Options that belong together, under a title of their own in ``--help``."""

    title: str
    options: Sequence[click.Option]


class GroupedCommand(click.Group):
    """A command whose options come in groups. ``params`` are those without one."""

    def __init__(
        self,
        *args: Any,
        groups: Sequence[OptionGroup],
        params: list[click.Parameter],
        **kwargs: Any,
    ) -> None:
        options = [option for group in groups for option in group.options]
        super().__init__(*args, params=[*options, *params], **kwargs)
        self.groups = groups

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as click does, and refuse numbers that no bound keeps out: nan and inf."""
        rest = super().parse_args(ctx, args)
        for option in self.params:
            value = ctx.params.get(str(option.name))
            if isinstance(value, float) and not math.isfinite(value):
                raise click.BadParameter(f"{value} is not a time or a size.", ctx, option)
        return rest

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write each group under its title, then the other options and the commands."""
        grouped = {id(option) for group in self.groups for option in group.options}
        other = [option for option in self.get_params(ctx) if id(option) not in grouped]
        for title, options in [*map(msgspec.structs.astuple, self.groups), ("Options", other)]:
            with formatter.section(title):
                records = [option.get_help_record(ctx) for option in options]
                formatter.write_dl([record for record in records if record is not None])
        self.format_commands(ctx, formatter)


def not_empty(_context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Refuse the empty text that an unset variable of a shell leaves."""
    if value is not None and not value.strip():
        raise click.BadParameter(f"must not be empty; leave {parameter.opts[0]} out, or set it.")
    return value
