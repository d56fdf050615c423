"""Counts requests: by action and status, how long they took, and their bytes."""

from bisect import bisect_left
from collections.abc import Iterator
from operator import add
from time import perf_counter
from typing import Final

from durable_streams_core.metrics import SECONDS, Histogram, Metric
from durable_streams_core.protocol import LIVE_SSE
from durable_streams_server.http.observing import OTHER, Caller

_SHORT: Final = SECONDS[0]
_REFUSALS: Final = {413: "limit", 429: "limit", 503: "unavailable", 507: "full"}
"""Why a request was refused that may be good at another time or in another size, by its status."""


class _Tally:
    """The requests of one action that ended with one status. Their number is that of the times."""

    __slots__ = ("counts", "received", "seconds", "sent")

    def __init__(self) -> None:
        self.counts = [0] * (len(SECONDS) + 1)
        """How many took how long, as in a :class:`Histogram`."""
        self.seconds = 0.0
        self.received = self.sent = 0


class RequestMeter:
    """An observer that counts. Nothing is forgotten, because actions and statuses are few.

    A request is counted in one place; sums over it are made when somebody asks.
    """

    __slots__ = ("_actions",)

    def __init__(self) -> None:
        # Some are there from the first scrape on, so that their rates begin at 0.
        self._actions: dict[str, dict[int, _Tally]] = {"append": {}, "read": {}, OTHER: {}}

    def finished(self, caller: Caller, status: int, received: int, sent: int, began: float) -> None:
        """Count a request."""
        exchange = caller.exchange
        action = OTHER if exchange is None else exchange.kind
        try:
            tally = self._actions[action][status]
        except KeyError:
            tally = self._actions.setdefault(action, {})[status] = _Tally()
        took = perf_counter() - began
        tally.counts[0 if took <= _SHORT else bisect_left(SECONDS, took)] += 1
        tally.seconds += took
        if received:
            tally.received += received
        if sent:
            tally.sent += sent

    def metrics(self, events_sent: int) -> Iterator[Metric]:
        """The metrics of all requests; ``events_sent`` are the bytes of all SSE responses."""
        # Copies, because another thread may be looking.
        actions = {action: tallies.copy() for action, tallies in self._actions.copy().items()}
        requests: dict[tuple[str, ...], int] = {}
        seconds: dict[tuple[str, ...], Histogram] = {}
        received: dict[tuple[str, ...], int] = {}
        sent: dict[tuple[str, ...], int] = {}
        refusals = dict.fromkeys(_REFUSALS.values(), 0)
        for action, tallies in actions.items():
            took = Histogram(SECONDS)
            for status, tally in tallies.items():
                counts = tally.counts.copy()
                count = requests[action, str(status)] = sum(counts)
                took.counts = [*map(add, took.counts, counts)]
                took.total += tally.seconds
                if status in _REFUSALS:
                    refusals[_REFUSALS[status]] += count
            seconds[action,] = took
            received[action,] = sum(tally.received for tally in tallies.values())
            # The bytes of events are counted while they are sent.
            sent[action,] = sum(
                tally.sent
                for status, tally in tallies.items()
                if action != LIVE_SSE or status != 200
            )
        if events_sent:
            sent[LIVE_SSE,] = sent.get((LIVE_SSE,), 0) + events_sent
        yield Metric(
            "requests_total",
            "Requests that are finished, by action and by the status that was sent; 499 where the "
            "client left before its response.",
            ("action", "status"),
            requests,
        )
        yield Metric(
            "request_seconds",
            "How long a request took, from its head to the end of its response.",
            ("action",),
            seconds,
        )
        yield Metric(
            "received_bytes_total",
            "Bytes of request bodies.",
            ("action",),
            received,
        )
        yield Metric(
            "sent_bytes_total",
            "Bytes of response bodies, those of events as they are sent.",
            ("action",),
            sent,
        )
        yield Metric(
            "refused_total",
            "Requests that were refused for a limit (413, 429), for want of room (507), or because "
            "the server could not take them (503).",
            ("reason",),
            {(reason,): count for reason, count in refusals.items()},
        )
