"""Reads the tables ``[access]`` and ``[limits]`` of a configuration file.

Every fault is a ``ValueError`` with a sentence that names the key. Secrets are never in it.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from durable_streams_server.access.access import Access
from durable_streams_server.access.certificates import Certificate
from durable_streams_server.access.jwt_tokens import JwtVerifier
from durable_streams_server.access.limits import PrincipalLimits
from durable_streams_server.access.rights import RIGHTS, Rights
from durable_streams_server.access.tokens import Token
from durable_streams_server.engine.quotas import PrefixQuota, Quota, StreamQuota
from durable_streams_server.nearest import nearest

Table = Mapping[str, Any]

_JWT: Final = (
    "algorithms", "audience", "issuer", "jwks", "key", "key-file", "leeway", "principal", "secret",
)  # fmt: skip
PRINCIPALS: Final = ("token:", "jwt:", "cert:", "address:")
"""How the names of principals begin."""
_LIMITS: Final = tuple(name.replace("_", "-") for name in PrincipalLimits.__struct_fields__)
_FIELDS: Final = [
    name
    for kind in (PrincipalLimits, StreamQuota, PrefixQuota)
    for name in kind.__struct_fields__
    if "_" in name
]
"""The names that errors of these classes hold, which a file spells with a hyphen."""
_KINDS: Final[Mapping[str, type | tuple[type, ...]]] = {
    "a text in quotes": str,
    "a number": (int, float),
    "a whole number": int,
}


class LimitRules(msgspec.Struct, frozen=True):
    """The limits of a file."""

    principal: PrincipalLimits = PrincipalLimits()
    """Of every principal that is not named."""
    principals: Mapping[str, PrincipalLimits] = msgspec.field(default_factory=dict)
    """By the name of a principal."""
    quotas: Sequence[Quota] = ()


def read_access(table: Table, directory: Path | None = None) -> Access:
    """The rules of a table ``[access]``, as an ``authorize`` function.

    >>> token = {"name": "ingest", "secret": "use-a-random-one", "write": ["logs/**"]}
    >>> access = read_access({"tokens": [token]})

    Args:
        table: what the file holds, as ``tomllib`` reads it.
        directory: where relative names of files begin; None for the current one.

    Raises:
        ValueError: for a key that is unknown, missing or of the wrong kind; the sentence names it.

    """
    _check_keys("access", table, ("tokens", "jwt", "certificates", "anonymous"))
    jwt = table.get("jwt")
    anonymous = table.get("anonymous")
    if not any(table.get(key) for key in ("tokens", "jwt", "certificates", "anonymous")):
        raise ValueError(
            "access: nobody has any right, so nothing could be done: add [[access.tokens]] or "
            "another of its tables."
        )
    tokens = [_token(entry) for entry in _entries("access.tokens", table.get("tokens", []))]
    certificates = [
        _certificate(entry)
        for entry in _entries("access.certificates", table.get("certificates", []))
    ]
    with _Where("access"):
        return Access(
            tokens=tokens,
            jwt=None if jwt is None else _jwt(_table("access.jwt", jwt), directory or Path()),
            certificates=certificates,
            anonymous=None if anonymous is None else _anonymous(anonymous),
        )


def read_limits(table: Table) -> LimitRules:
    """The rules of a table ``[limits]``; raises ``ValueError`` as :func:`read_access` does."""
    _check_keys("limits", table, ("principal", "principals", "streams", "prefixes"))
    named = _table("limits.principals", table.get("principals", {}))
    for name in named:
        if not name.startswith(PRINCIPALS):
            raise _fault(
                f"limits.principals: a principal is named with its kind, such as "
                f"{'token:' + name!r}, and not {name!r}. The kinds are {', '.join(PRINCIPALS)}."
            )
    quotas: list[Quota] = []
    for entry in _entries("limits.streams", table.get("streams", [])):
        _check_keys("limits.streams", entry, ("path", "max-bytes"))
        with _Where("limits.streams"):
            quotas.append(
                StreamQuota(path=_text(entry, "path"), max_bytes=_whole(entry, "max-bytes"))
            )
    for entry in _entries("limits.prefixes", table.get("prefixes", [])):
        _check_keys("limits.prefixes", entry, ("prefix", "max-bytes", "max-streams"))
        with _Where("limits.prefixes"):
            quotas.append(
                PrefixQuota(
                    prefix=_text(entry, "prefix"),
                    max_bytes=_whole(entry, "max-bytes") if "max-bytes" in entry else None,
                    max_streams=_whole(entry, "max-streams") if "max-streams" in entry else None,
                )
            )
    return LimitRules(
        _principal_limits("limits.principal", table.get("principal", {})),
        {
            name: _principal_limits(f"limits.principals.{name!r}", value)
            for name, value in named.items()
        },
        tuple(quotas),
    )


class _Where:
    """Puts the name of a table before what is wrong in it."""

    def __init__(self, where: str) -> None:
        self._where = where

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ValueError | TypeError | OSError | ImportError):
            sentence = str(error)
            for name in _FIELDS:
                sentence = sentence.replace(name, name.replace("_", "-"))
            if not sentence.startswith(self._where):
                sentence = f"{self._where}: {sentence}"
            raise _fault(sentence) from error


def _token(entry: Table) -> Token:
    name = entry.get("name")
    where = "access.tokens" if not isinstance(name, str) else f'access.tokens "{name}"'
    _check_keys(where, entry, ("name", "secret", "sha256", *RIGHTS))
    with _Where(where):
        return Token(
            _text(entry, "name"),
            _rights(entry),
            secret=_optional_text(entry, "secret"),
            sha256=_optional_text(entry, "sha256"),
        )


def _certificate(entry: Table) -> Certificate:
    _check_keys("access.certificates", entry, ("subject", *RIGHTS))
    with _Where("access.certificates"):
        return Certificate(_text(entry, "subject"), _rights(entry, names=True))


def _anonymous(value: object) -> Rights:
    table = _table("access.anonymous", value)
    _check_keys("access.anonymous", table, RIGHTS)
    with _Where("access.anonymous"):
        return _rights(table)


def _jwt(table: Table, directory: Path) -> JwtVerifier:
    _check_keys("access.jwt", table, (*_JWT, *RIGHTS))
    with _Where("access.jwt"):
        key = _optional_text(table, "key")
        file = _optional_text(table, "key-file")
        if file is not None:
            if key is not None:
                raise ValueError("give key or key-file, and not both.")
            try:
                key = (directory / file).read_text("ascii")
            except OSError as error:
                raise ValueError(f"key-file {file} cannot be read: {error.strerror}.") from error
            except UnicodeDecodeError as error:
                raise ValueError(f"key-file {file} is not PEM.") from error
        optional: dict[str, Any] = {}
        if "leeway" in table:
            optional["leeway"] = _number(table, "leeway")
        if "principal" in table:
            optional["principal"] = _text(table, "principal")
        return JwtVerifier(
            _rights(table, names=True),
            algorithms=_texts(table, "algorithms"),
            issuer=_text(table, "issuer"),
            audience=_text(table, "audience"),
            key=key,
            secret=_optional_text(table, "secret"),
            jwks=_optional_text(table, "jwks"),
            **optional,
        )


def _rights(table: Table, *, names: bool = False) -> Rights:
    given = {right: _texts(table, right) for right in RIGHTS if right in table}
    return Rights(**given, names=names)


def _principal_limits(where: str, value: object) -> PrincipalLimits:
    table = _table(where, value)
    _check_keys(where, table, _LIMITS)
    with _Where(where):
        given: dict[str, Any] = {}
        for key in table:
            read = _whole if key == "live-readers" else _number
            given[key.replace("-", "_")] = read(table, key)
        return PrincipalLimits(**given)


# Kinds of values. Every fault is of the file, and so a ValueError.


def _fault(sentence: str) -> ValueError:
    return ValueError(sentence)


def _check_keys(where: str, table: Table, known: Iterable[str]) -> None:
    names = tuple(known)
    for key in table:
        if key not in names:
            dashed = key.replace("_", "-").lower()
            meant = dashed if dashed in names else nearest(dashed, names)
            advice = (
                f"The keys here are {', '.join(names)}."
                if meant is None
                else f"Did you mean {meant}?"
            )
            raise ValueError(f"{where}: there is no key {key!r}. {advice}")


def _table(where: str, value: object) -> Table:
    if not isinstance(value, Mapping):
        raise _fault(f"{where} must be a table: write it as [{where}].")
    return value


def _entries(where: str, value: object) -> Sequence[Table]:
    if not isinstance(value, list) or not all(isinstance(entry, Mapping) for entry in value):
        raise ValueError(f"{where} must be a list of tables: write each as [[{where}]].")
    return value


def _value(table: Table, key: str, kind: str) -> Any:
    if key not in table:
        raise ValueError(f"the key {key} is missing; it is {kind}.")
    value = table[key]
    if isinstance(value, bool) or not isinstance(value, _KINDS[kind]):
        raise _fault(f"{key} must be {kind}.")
    return value


def _text(table: Table, key: str) -> str:
    return str(_value(table, key, "a text in quotes"))


def _optional_text(table: Table, key: str) -> str | None:
    return _text(table, key) if key in table else None


def _number(table: Table, key: str) -> float:
    return float(_value(table, key, "a number"))


def _whole(table: Table, key: str) -> int:
    return int(_value(table, key, "a whole number"))


def _texts(table: Table, key: str) -> list[str]:
    value = table.get(key)
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise ValueError(f"{key} must be a list of texts in quotes.")
    return value
