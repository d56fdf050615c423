"""The access log: one line for each finished request.

A line holds no secret. Of a query only the parameters of the protocol are shown, so a signature in
a URL is not, nor anything that a client puts there by mistake.
"""

import logging
import re
from time import perf_counter
from typing import Final

import msgspec

from durable_streams_server.http.observing import Caller
from durable_streams_server.operations.clients import TrustedProxies

log = logging.getLogger("durable_streams_server.operations")

LOGGER: Final = "durable_streams_server.access"
HIDDEN: Final = "…"
REQUEST_ID: Final = b"x-request-id"
TRACEPARENT: Final = b"traceparent"
MAX_PATH: Final = 2048
"""Letters of a path and query that are shown."""
_MAX_ID: Final = 128
_SHOWN: Final = frozenset(("offset", "live", "cursor", "prefix", "after", "limit"))
_UNSAFE: Final = re.compile(r"[^!-~]|[\"\\]")
_TRACE: Final = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the access log. ``seconds`` is the time from the head to the response's end."""

    client: str
    method: str
    path: str
    """Path and query as they were sent, less what is hidden."""
    status: int
    action: str
    """As in the metrics."""
    received: int
    sent: int
    seconds: float
    principal: str = ""
    request_id: str = ""
    trace_id: str = ""

    def __str__(self) -> str:
        return " ".join(f"{name}={value}" for name, value in self.fields().items())

    def fields(self) -> dict[str, str | int | float]:
        """The known facts of the request, by name."""
        known: dict[str, str | int | float] = {
            name: value
            for name in self.__struct_fields__
            if (value := getattr(self, name)) or not isinstance(value, str)
        }
        known["seconds"] = round(self.seconds, 6)
        return known


class AccessLog:
    """An observer that logs each request at level INFO, to the logger ``LOGGER``."""

    def __init__(self, proxies: TrustedProxies | None = None) -> None:
        self._proxies = proxies or TrustedProxies()
        self._log = logging.getLogger(LOGGER)

    def finished(self, caller: Caller, status: int, received: int, sent: int, began: float) -> None:
        """Log a request."""
        if self._log.isEnabledFor(logging.INFO):
            try:
                self._write(caller, status, received, sent, began)
            except Exception:
                log.exception("a line of the access log failed")

    def _write(self, caller: Caller, status: int, received: int, sent: int, began: float) -> None:
        exchange = caller.exchange
        trace = _TRACE.fullmatch(caller.header(TRACEPARENT) or b"")
        entry = Entry(
            self._proxies.client_of(caller),
            safe(caller.method),
            redacted(caller.target),
            status,
            "other" if exchange is None else exchange.kind,
            received,
            sent,
            perf_counter() - began,
            "" if exchange is None else _named(exchange.principal),
            safe((caller.header(REQUEST_ID) or b"").decode("latin-1")[:_MAX_ID]),
            "" if trace is None else trace[1].decode(),
        )
        # Made here, because logging would look for the caller through the whole stack.
        record = logging.LogRecord(LOGGER, logging.INFO, __file__, 0, "%s", (entry,), None)
        self._log.handle(record)


def _named(principal: str) -> str:
    """The principal, unless it says no more than the address."""
    return "" if principal.startswith("address:") else safe(principal)


def redacted(target: str) -> str:
    """A request target as it may be shown: without values that may be secrets."""
    path, mark, query = target.partition("?")
    if "://" in path:
        # The absolute form may name a user with a password.
        scheme, _, rest = path.partition("://")
        authority, slash, rest = rest.partition("/")
        path = f"{scheme}://{authority.rpartition('@')[2]}{slash}{rest}"
    if mark:
        shown = []
        for part in query.split("&"):
            name, equals, _ = part.partition("=")
            shown.append(part if equals and name in _SHOWN else HIDDEN)
        path = f"{path}?{'&'.join(dict.fromkeys(shown))}"
    return safe(path[:MAX_PATH])


def safe(text: str) -> str:
    """Text without spaces, quotes and control characters, which could forge fields or lines."""
    if text.isalnum() and text.isascii():
        return text
    return _UNSAFE.sub(lambda found: found[0] if found[0] == HIDDEN else "?", text)
