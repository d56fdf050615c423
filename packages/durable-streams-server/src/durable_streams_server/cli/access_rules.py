"""The access rules and limits of a file, which may change while the server runs."""

import asyncio
import logging
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import click

from durable_streams_server.access.access import Access
from durable_streams_server.access.certificates import ANY, Certificate
from durable_streams_server.access.config import LimitRules, read_access, read_limits
from durable_streams_server.access.limits import Limiter
from durable_streams_server.access.rights import Rights
from durable_streams_server.cli.config_file import TABLES, ConfigFile
from durable_streams_server.cli.logs import hide_secrets
from durable_streams_server.cli.option_groups import Settings
from durable_streams_server.engine.engine import Engine
from durable_streams_server.engine.quotas import PrefixQuota

log = logging.getLogger("durable_streams_server.cli")

Tables = Mapping[str, Mapping[str, Any]]

EVERYTHING: Final = Rights(all=["**"], subscriptions=["*"])


class AccessRules:
    """The tables ``[access]`` and ``[limits]`` of a file, as a server uses them.

    ``read`` returns the tables as they are now. Raises ``ValueError`` for a file that is at fault.
    """

    def __init__(self, path: str, read: Callable[[], Tables]) -> None:
        self._path = path
        self._read = read
        self._engine: Engine | None = None
        self.access, limits = self._parse()
        """The authorize function, None where the file says nothing of access."""
        self.limiter = Limiter(limits.principal, limits.principals)
        self.quotas = limits.quotas
        self._uncounted = False
        """Whether quotas of prefixes were given that have not been counted."""
        self._counting: asyncio.Task[None] | None = None

    @property
    def label(self) -> str:
        """The name of the part, for people."""
        return f"the file of access rules {self._path}"

    def serve(self, engine: Engine) -> None:
        """The engine whose quotas follow the file."""
        self._engine = engine

    def reload(self) -> str:
        """Take over the rules of the file; raises ``ValueError`` and keeps those in force.

        Await :meth:`settled` before saying that everything is in force.
        """
        access, limits = self._parse()
        if (access is None) != (self.access is None):
            raise ValueError(
                "the table [access] came or went, which lets everybody in or nobody. Restart the "
                "server if that is what you want."
            )
        if access is not None and self.access is not None:
            self.access.become(access)
        self.limiter.change(limits.principal, limits.principals)
        changed = limits.quotas != self.quotas
        self.quotas = limits.quotas
        counting = self._counting is not None and not self._counting.done()
        if self._engine is not None and (changed or (self._uncounted and not counting)):
            self._uncounted = any(isinstance(quota, PrefixQuota) for quota in limits.quotas)
            self._counting = self._engine.spawn(self._set_quotas(self._engine, limits))
        if not self._uncounted:
            return ""
        return (
            "what lies below its prefixes is being counted; until then a quota of a prefix that had "
            "none counts only what is added from now on"
        )

    async def settled(self) -> bool:
        """Wait until what was reloaded is in force; returns whether it is."""
        counting = self._counting
        if counting is not None:
            await asyncio.wait([counting])
        return not self._uncounted

    async def _set_quotas(self, engine: Engine, limits: LimitRules) -> None:
        try:
            await engine.set_quotas(limits.quotas)
        except Exception:
            log.exception(
                "the quotas of prefixes in %s could not be counted; SIGHUP tries again", self._path
            )
            return
        if self.quotas == limits.quotas and self._uncounted:
            self._uncounted = False
            log.info("the quotas of prefixes in %s are counted and in force", self._path)

    def _parse(self) -> tuple[Access | None, LimitRules]:
        tables = self._read()
        hide_secrets(f"access rules in {self._path}", _secrets_in(tables))
        access = tables.get("access")
        return (
            None if access is None else read_access(access, Path(self._path).parent),
            read_limits(tables.get("limits", {})),
        )


def _secrets_in(tables: Tables) -> list[str]:
    """The secrets of access rules, which may be at fault in any way."""
    access = tables.get("access", {})
    tokens = access.get("tokens")
    entries = [*(tokens if isinstance(tokens, list) else ()), access.get("jwt")]
    found = [entry.get("secret") for entry in entries if isinstance(entry, Mapping)]
    return [secret for secret in found if isinstance(secret, str)]


def access_rules_of(settings: Settings) -> AccessRules | None:
    """The rules that the command was given; raises ``ValueError`` for those that cannot be read."""
    path = settings["access"]
    config: ConfigFile | None = settings["config"]
    if config is not None and config.tables:
        if path is not None:
            raise ValueError(
                "The configuration file has tables of access or limits: leave --access out, or "
                "move them to its file."
            )
        rules = AccessRules(config.path, lambda: config.read_again().tables)
    elif path is not None:
        rules = AccessRules(path, lambda: _read_tables(path))
    else:
        return None
    if rules.access is not None and settings["token"] is not None:
        raise ValueError(
            "--token is one token for everything, and the access rules name others: give the token "
            "an entry in [[access.tokens]] instead."
        )
    return rules


def is_protected(settings: Settings) -> bool:
    """Whether a setting says who may do what."""
    config: ConfigFile | None = settings["config"]
    return bool(
        settings["token"]
        or settings["tls_client_ca"]
        or (config is not None and "access" in config.tables)
        or (settings["access"] is not None and _has_access(settings["access"]))
    )


def _has_access(path: str) -> bool:
    try:
        return "access" in _read_tables(path)
    except ValueError:
        # Such a file ends the command as soon as its rules are read.
        return True


def access_of(settings: Settings, rules: AccessRules | None) -> Access | None:
    """The authorize function of the command. Clients with a certificate may do everything where no
    other rule says what they may do.
    """
    if rules is not None and rules.access is not None:
        return rules.access
    if settings["tls_client_ca"] is None or settings["token"] is not None:
        return None
    return Access(certificates=[Certificate(ANY, EVERYTHING)])


def _read_tables(path: str) -> Tables:
    try:
        document = tomllib.loads(Path(path).read_bytes().decode())
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text.") from error
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not TOML: {error}.") from error
    for key, value in document.items():
        if key not in TABLES or not isinstance(value, dict):
            raise ValueError(f"{path} may hold the tables [access] and [limits] only, not {key!r}.")
    return document


ACCESS_FILE: Final = click.Option(
    ["--access"],
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False),
    help="Tokens, JWT, rights and limits, from the tables [access] and [limits] of this TOML file. "
    "SIGHUP reads it again.",
)
