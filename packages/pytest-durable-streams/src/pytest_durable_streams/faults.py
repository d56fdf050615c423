"""Faults on demand: which requests go wrong, and how."""

import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Final
from urllib.parse import unquote

from durable_streams_client import AsyncClient, Client
from pytest_durable_streams.relay import Relay, Request
from pytest_durable_streams.server import ROOT, StreamsServer

MAX_SEEN: Final = 10_000
"""Requests that are kept for a test to look at; older ones are forgotten."""


@dataclass(frozen=True, slots=True)
class SeenRequest:
    """A request that came to the faulty way."""

    method: str
    """The method, in capitals."""
    path: str
    """The stream's name below the root, decoded."""
    query: str
    """The query, without its question mark."""
    headers: Mapping[str, str]
    """Headers by name in lower case."""
    body: bytes
    """The whole body."""


@dataclass(slots=True)
class Rule:
    """What goes wrong, with which requests and how often. :class:`Faults` makes it."""

    method: str | None
    path: str | None
    times: int | None
    delay: float = 0.0
    refusal: bytes | None = None
    """The response of a request that the server never gets."""
    forward: int = 1
    """How often the request is sent to the server."""
    cut: int | None = None
    """After so many bytes of the body the connection breaks; None for never."""
    headless: bool = False
    """Whether the connection breaks before the first byte of the response."""
    happened: int = field(default=0, init=False)
    """How often it has gone wrong so far."""
    _met: threading.Condition = field(default_factory=threading.Condition, init=False)

    def takes(self, request: SeenRequest) -> bool:
        """Whether this is to go wrong with ``request``, and has not done so often enough."""
        return (
            (self.times is None or self.happened < self.times)
            and self.method in (None, request.method)
            and (self.path is None or fnmatchcase(request.path, self.path))
        )

    def meet(self) -> None:
        """Count a request that goes wrong."""
        with self._met:
            self.happened += 1
            self._met.notify_all()

    def wait(self, times: int = 1, *, timeout: float = 30.0) -> None:
        """Wait until it has gone wrong so often; in async tests ``await to_thread(rule.wait)``.

        Raises ``TimeoutError`` after ``timeout`` seconds.
        """
        with self._met:
            if not self._met.wait_for(lambda: self.happened >= times, timeout):
                raise TimeoutError(
                    f"it went wrong {self.happened} times in {timeout} s, not {times}"
                )


class Faults:
    """A way to a server on which requests go wrong as a test demands.

    Use ``url`` in place of the server's. Each method below adds a rule; a request meets the first
    rule that fits, or none. All take the same three arguments:

    - ``times``: how many requests go wrong; None for all. By default 1.
    - ``method``: only requests with this method, such as ``"GET"``.
    - ``path``: only streams whose name fits this pattern, such as ``"chats/*"``.

    A rule counts in ``happened`` how often it was met.
    """

    def __init__(self, server: StreamsServer, relay: Relay) -> None:
        self.url = f"http://127.0.0.1:{relay.port}{ROOT}"
        """The URL below which streams are, with its last slash."""
        self.requests: deque[SeenRequest] = deque(maxlen=MAX_SEEN)
        """The requests that came, oldest first."""
        self._server = server
        self._relay = relay
        self._rules: list[Rule] = []
        self._mutex = threading.Lock()
        relay.rule_for = self._rule_for

    def client(self, **options: Any) -> Client:
        """Return a new client that takes the faulty way; ``options`` are those of a client."""
        return Client(self.url, **options)

    def async_client(self, **options: Any) -> AsyncClient:
        """Return a new async client that takes the faulty way."""
        return AsyncClient(self.url, **options)

    def refuse(
        self,
        status: int = 503,
        *,
        retry_after: int | None = None,
        times: int | None = 1,
        method: str | None = None,
        path: str | None = None,
    ) -> Rule:
        """Answer with ``status``, and with ``Retry-After`` if given (seconds); change nothing."""
        lines = [f"HTTP/1.1 {status} Refused", "Content-Length: 0", "Connection: close"]
        if retry_after is not None:
            lines.append(f"Retry-After: {retry_after}")
        refusal = "\r\n".join([*lines, "", ""]).encode()
        return self._add(Rule(method, path, times, refusal=refusal, forward=0))

    def delay(
        self,
        seconds: float,
        *,
        times: int | None = 1,
        method: str | None = None,
        path: str | None = None,
    ) -> Rule:
        """Let the request wait for so many seconds before the server gets it."""
        return self._add(Rule(method, path, times, delay=seconds))

    def cut(
        self,
        after: int = 0,
        *,
        times: int | None = 1,
        method: str | None = None,
        path: str | None = None,
    ) -> Rule:
        """Break the connection after so many bytes of the response's body, framing included."""
        return self._add(Rule(method, path, times, cut=after))

    def lose_request(
        self, *, times: int | None = 1, method: str | None = None, path: str | None = None
    ) -> Rule:
        """Break the connection before the server gets the request."""
        return self._add(Rule(method, path, times, forward=0, headless=True))

    def lose_response(
        self, *, times: int | None = 1, method: str | None = None, path: str | None = None
    ) -> Rule:
        """Break the connection after the server has done what the request asks."""
        return self._add(Rule(method, path, times, headless=True))

    def repeat(
        self, *, times: int | None = 1, method: str | None = None, path: str | None = None
    ) -> Rule:
        """Send the request to the server twice, as some proxies do; the second answer counts."""
        return self._add(Rule(method, path, times, forward=2))

    @contextmanager
    def outage(self) -> Iterator[None]:
        """Break all connections and refuse new ones as long as the block lasts."""
        self._server.run(self._relay.stop())
        try:
            yield
        finally:
            self._server.run(self._relay.start())

    def clear(self) -> None:
        """Forget all rules: nothing goes wrong from now on."""
        with self._mutex:
            self._rules.clear()

    def _add(self, rule: Rule) -> Rule:
        with self._mutex:
            self._rules.append(rule)
        return rule

    def _rule_for(self, request: Request) -> Rule | None:
        target, _, query = request.target.partition("?")
        seen = SeenRequest(
            request.method,
            unquote(target.removeprefix(ROOT)),
            query,
            request.headers,
            request.body,
        )
        self.requests.append(seen)
        with self._mutex:
            for rule in self._rules:
                if rule.takes(seen):
                    rule.meet()
                    return rule
        return None
