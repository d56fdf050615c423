"""Header fields and query parameters: what may be sent, and how several sources combine."""

import re
from collections.abc import Iterable
from typing import Any, Final

from durable_streams_client.errors import InvalidArgument
from durable_streams_core import protocol

RESERVED_PARAMS: Final = frozenset(
    {protocol.OFFSET_PARAM, protocol.LIVE_PARAM, protocol.CURSOR_PARAM}
)
RESERVED_HEADERS: Final = frozenset({"content-length", "transfer-encoding"})

_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def check_header(name: str, value: str) -> None:
    """Raise InvalidArgument for what cannot be sent as a header field."""
    if not _NAME.fullmatch(name) or name.lower() in RESERVED_HEADERS:
        raise InvalidArgument(f"{name!r} cannot be the name of a header")
    if not (value.isascii() and value.isprintable()):
        raise InvalidArgument(
            f"the header {name} must hold printable ASCII only",
            advice="Percent-encode or base64-encode what else it should say.",
        )


def check_param(name: str, value: str) -> None:
    """Raise InvalidArgument for a parameter that is the protocol's own, or is not Unicode."""
    if name in RESERVED_PARAMS:
        raise InvalidArgument(
            f"the parameter {name!r} is the protocol's own",
            advice="Pass an offset to `read` or `follow`, and `live` to `follow`.",
        )
    try:
        f"{name}={value}".encode()
    except UnicodeEncodeError:
        raise InvalidArgument(f"the parameter {name!r} is not Unicode text") from None


def check_pairs(pairs: list[tuple[str, Any]], what: str) -> None:
    """Check headers or parameters as far as their values are known already."""
    check = check_header if what == "headers" else check_param
    for name, value in pairs:
        check(name, "" if value is None or callable(value) else str(value))


def merged(*layers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Header fields of several sources: a later one replaces an earlier one's of the same name.

    Names are compared without their case. A name that one source repeats is sent as often.
    """
    fields: dict[str, list[tuple[str, str]]] = {}
    for layer in layers:
        fresh: dict[str, list[tuple[str, str]]] = {}
        for name, value in layer:
            fresh.setdefault(name.lower(), []).append((name, value))
        fields.update(fresh)
    return [field for same in fields.values() for field in same]
