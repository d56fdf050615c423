"""Reads the configuration file of the command: TOML with a key for each option.

Keys, types and bounds are those of the command's options, so every option can be set in the file.
Flags win over the environment, and the environment over the file: click takes what the file says as
defaults.
"""

import math
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import click
from click.core import ParameterSource

from durable_streams_server.cli.option_groups import OptionGroup
from durable_streams_server.nearest import nearest

TABLES: Final = ("access", "limits")
"""Tables that the file may hold beside the options; access control reads them."""

_META: Final = "durable_streams_server.config_file"


class ConfigFile:
    """A configuration file. ``context`` is that of the command whose options it sets.

    Raises :class:`click.UsageError`, with a sentence that names the file and the key, for a file
    that cannot be read, an unknown key, and a value of the wrong type or out of bounds.
    """

    def __init__(self, path: str, context: click.Context) -> None:
        self.path = path
        self._context = context
        document = self._parse()
        options = {key_of(option): option for option in settable(context.command)}
        self.tables: dict[str, Mapping[str, Any]] = {
            name: self._table(name, document.pop(name))
            for name in TABLES
            if name in document and not (name in options and isinstance(document[name], str))
        }
        """The tables beside the options, as they are in the file."""
        self.values: dict[str, Any] = {}
        """The options that the file sets, by their names in Python."""
        for key, value in document.items():
            option = options.get(key)
            if option is None:
                raise self._unknown(key, [*options, *TABLES])
            self.values[str(option.name)] = self._checked(key, value, option)

    def read_again(self) -> "ConfigFile":
        """The file as it is now; raises as the constructor does."""
        return ConfigFile(self.path, self._context)

    def may_change(self, name: str) -> bool:
        """Whether no flag and no variable sets this option, which the file may then set."""
        source = self._context.get_parameter_source(name)
        return source in (ParameterSource.DEFAULT, ParameterSource.DEFAULT_MAP)

    def _parse(self) -> dict[str, Any]:
        try:
            return tomllib.loads(Path(self.path).read_bytes().decode())
        except OSError as error:
            raise self._error(f"cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise self._error("is not UTF-8 text") from error
        except (tomllib.TOMLDecodeError, RecursionError) as error:
            raise self._error(f"is not TOML: {error}") from error

    def _table(self, name: str, value: object) -> Mapping[str, Any]:
        if not isinstance(value, dict):
            raise self._error(f"{name} is a table: write it as [{name}]")
        return value

    def _checked(self, key: str, value: object, option: click.Option) -> object:
        """The value, if the option takes it."""
        fits, expected = _expected(option)
        values = value if option.multiple else [value]
        if not isinstance(values, list) or not all(map(fits, values)):
            raise self._error(f"{key} must be {expected}, got {_shown(value)}")
        try:
            option.process_value(self._context, value)
        except click.BadParameter as error:
            raise self._error(f"{key}: {error.message}") from error
        except OverflowError as error:
            raise self._error(f"{key} is too large") from error
        return value

    def _unknown(self, key: str, known: list[str]) -> click.UsageError:
        dashed = key.replace("_", "-").lower()
        meant = dashed if dashed in known else nearest(dashed, known)
        advice = "Each option in --help is a key" if meant is None else f"Did you mean {meant}?"
        if meant == dashed:
            advice = f"Keys are written with dashes, as flags are: {meant}"
        return self._error(f"there is no option {key!r}. {advice}")

    def _error(self, sentence: str) -> click.UsageError:
        end = "" if sentence.endswith((".", "?")) else "."
        return click.UsageError(f"{self.path}: {sentence}{end}", self._context)


def settable(command: click.Command) -> list[click.Option]:
    """The options of a command that say how to serve."""
    return [
        option
        for option in command.params
        if isinstance(option, click.Option) and option.expose_value and option.name != "config"
    ]


def key_of(option: click.Option) -> str:
    """The option's key in the file: its name with dashes."""
    return str(option.name).replace("_", "-")


def _expected(option: click.Option) -> tuple[Callable[[object], bool], str]:
    """Says of a value of the file whether its type fits, and what to call one that does."""
    kind = option.type
    if option.is_flag:
        fits, expected = _is_bool, "true or false"
    elif isinstance(kind, click.types.IntParamType):
        fits, expected = _is_whole, "a whole number"
    elif isinstance(kind, click.types.FloatParamType):
        fits, expected = _is_number, "a number that is not endless"
    else:
        fits, expected = _is_text, "a text in quotes"
    return fits, f"a list, each of it {expected}" if option.multiple else expected


def _is_bool(value: object) -> bool:
    return isinstance(value, bool)


def _is_whole(value: object) -> bool:
    return type(value) is int


def _is_number(value: object) -> bool:
    return type(value) is int or (type(value) is float and math.isfinite(value))


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _shown(value: object) -> str:
    """The kind of a value, and not the value itself, which may be a secret."""
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    names |= {list: "a list", dict: "a table"}
    return names.get(type(value), "a date or time")


def _load(
    context: click.Context, _parameter: click.Parameter, path: str | None
) -> ConfigFile | None:
    if path is None:
        # A subcommand takes the one that was named before it.
        known: ConfigFile | None = context.meta.get(_META)
        file = known
    else:
        file = context.meta[_META] = ConfigFile(path, context)
    if file is not None:
        context.default_map = file.values
    return file


CONFIGURATION: Final = OptionGroup(
    "Configuration",
    [
        click.Option(
            ["--config"],
            metavar="FILE",
            type=click.Path(exists=True, dir_okay=False),
            is_eager=True,
            callback=_load,
            help="Take options from this TOML file too: port = 4437 for --port 4437. Flags and "
            "variables win over it.",
        ),
    ],
)
