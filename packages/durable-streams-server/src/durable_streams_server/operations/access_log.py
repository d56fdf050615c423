"""The access log: one line for each finished request.

A line holds no secret. Of a query only the parameters of the protocol are shown, so a signature in
a URL is not, nor anything that a client puts there by mistake.
"""

import logging
import re
from collections.abc import Callable
from time import perf_counter
from typing import Final

import msgspec

from durable_streams_server.http.observing import OTHER, Caller
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
_MISPLACED: Final = re.compile(r"(?is)(#|%23|%3f).*")
"""A query that is part of the path, because its ``?`` was encoded by mistake, and a fragment."""
_TRACE: Final = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")


class Entry(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
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
        line = (
            f"client={self.client} method={self.method} path={self.path} status={self.status} "
            f"action={self.action} received={self.received} sent={self.sent} "
            f"seconds={self.seconds:.6f}"
        )
        if self.principal:
            line += f" principal={self.principal}"
        if self.request_id:
            line += f" request_id={self.request_id}"
        return f"{line} trace_id={self.trace_id}" if self.trace_id else line


class AccessLog:
    """An observer that logs each request.

    ``take`` is given each entry. Without it an entry becomes a record of ``logging``, at level INFO
    of the logger ``LOGGER``, which costs about ten times as much as the lines of the command.
    """

    def __init__(
        self,
        proxies: TrustedProxies | None = None,
        *,
        take: Callable[[Entry], None] | None = None,
    ) -> None:
        self._client_of = _peer_of if proxies is None or not proxies else proxies.client_of
        self._log = logging.getLogger(LOGGER)
        self._take = take

    def finished(self, caller: Caller, status: int, received: int, sent: int, began: float) -> None:
        """Log a request."""
        take = self._take
        if take is None:
            if not self._log.isEnabledFor(logging.INFO):
                return
            take = self._log_record
        try:
            take(self._entry(caller, status, received, sent, began))
        except Exception:
            log.exception("a line of the access log failed")

    def _entry(self, caller: Caller, status: int, received: int, sent: int, began: float) -> Entry:
        exchange = caller.exchange
        request_id = caller.header(REQUEST_ID)
        trace = caller.header(TRACEPARENT)
        traced = None if trace is None else _TRACE.fullmatch(trace)
        return Entry(
            self._client_of(caller),
            safe(caller.method),
            redacted(caller.target),
            status,
            OTHER if exchange is None else exchange.kind,
            received,
            sent,
            round(perf_counter() - began, 6),
            "" if exchange is None else safe(exchange.named),
            "" if request_id is None else safe(request_id.decode("latin-1")[:_MAX_ID]),
            "" if traced is None else traced[1].decode(),
        )

    def _log_record(self, entry: Entry) -> None:
        # Made here, because logging would look for the caller through the whole stack.
        record = logging.LogRecord(LOGGER, logging.INFO, __file__, 0, "%s", (entry,), None)
        self._log.handle(record)


def _peer_of(caller: Caller) -> str:
    return caller.peer


def redacted(target: str) -> str:
    """A request target as it may be shown: without values that may be secrets."""
    path, mark, query = target.partition("?")
    if "://" in path:
        # The absolute form may name a user with a password.
        scheme, _, rest = path.partition("://")
        authority, slash, rest = rest.partition("/")
        path = f"{scheme}://{authority.rpartition('@')[2]}{slash}{rest}"
    if "%" in path or "#" in path:
        path = _MISPLACED.sub(rf"\1{HIDDEN}", path)
    if mark:
        shown = []
        for part in query.split("&"):
            name, equals, _ = part.partition("=")
            shown.append(part if equals and name in _SHOWN else HIDDEN)
        path = f"{path}?{'&'.join(dict.fromkeys(shown))}"
    return safe(path[:MAX_PATH])


def safe(text: str) -> str:
    """Text without spaces, quotes and control characters, which could forge fields or lines."""
    # Several times as fast as the expression.
    if (
        text.isascii()
        and text.isprintable()
        and " " not in text
        and '"' not in text
        and "\\" not in text
    ):
        return text
    return _UNSAFE.sub(lambda found: found[0] if found[0] == HIDDEN else "?", text)
