"""Counts requests: by action and status, how long they took, and their bytes."""

from bisect import bisect_left
from collections.abc import Iterator
from time import perf_counter
from typing import Final

from durable_streams_core.metrics import SECONDS, Histogram, Metric
from durable_streams_core.protocol import LIVE_SSE
from durable_streams_server.http.observing import OTHER, Caller

_SHORT: Final = SECONDS[0]
_REFUSALS: Final = {413: "limit", 429: "limit", 503: "unavailable", 507: "full"}
"""Why a request was refused that may be good at another time or in another size, by its status."""


class ActionMeter:
    """The requests of one action."""

    __slots__ = ("received", "seconds", "sent", "statuses")

    def __init__(self) -> None:
        self.statuses: dict[int, int] = {}
        self.seconds = Histogram(SECONDS)
        self.received = self.sent = 0


class RequestMeter:
    """An observer that counts. Nothing is forgotten, because actions and statuses are few."""

    __slots__ = ("_actions",)

    def __init__(self) -> None:
        # Some are there from the first scrape on, so that their rates begin at 0.
        self._actions = {action: ActionMeter() for action in ("append", "read", OTHER)}

    def finished(self, caller: Caller, status: int, received: int, sent: int, began: float) -> None:
        """Count a request."""
        exchange = caller.exchange
        action = OTHER if exchange is None else exchange.kind
        meter = self._actions.get(action)
        if meter is None:
            meter = self._actions[action] = ActionMeter()
        try:
            meter.statuses[status] += 1
        except KeyError:
            meter.statuses[status] = 1
        took = perf_counter() - began
        seconds = meter.seconds
        seconds.counts[0 if took <= _SHORT else bisect_left(SECONDS, took)] += 1
        seconds.total += took
        if received:
            meter.received += received
        # The bytes of events are counted while they are sent, see `metrics`.
        if sent and (action != LIVE_SSE or status != 200):
            meter.sent += sent

    def metrics(self, events_sent: int) -> Iterator[Metric]:
        """The metrics of all requests; ``events_sent`` are the bytes of all SSE responses."""
        # Copies, because another thread may be looking.
        actions = self._actions.copy()
        statuses = {action: meter.statuses.copy() for action, meter in actions.items()}
        sent = {action: meter.sent for action, meter in actions.items()}
        if events_sent:
            sent[LIVE_SSE] = sent.get(LIVE_SSE, 0) + events_sent
        refusals = dict.fromkeys(_REFUSALS.values(), 0)
        for counts in statuses.values():
            for status, reason in _REFUSALS.items():
                refusals[reason] += counts.get(status, 0)
        yield Metric(
            "requests_total",
            "Requests that are finished, by action and by the status that was sent; 499 where the "
            "client left before its response.",
            ("action", "status"),
            {
                (action, str(status)): count
                for action, counts in statuses.items()
                for status, count in counts.items()
            },
        )
        yield Metric(
            "request_seconds",
            "How long a request took, from its head to the end of its response.",
            ("action",),
            {(action,): meter.seconds for action, meter in actions.items()},
        )
        yield Metric(
            "received_bytes_total",
            "Bytes of request bodies.",
            ("action",),
            {(action,): meter.received for action, meter in actions.items()},
        )
        yield Metric(
            "sent_bytes_total",
            "Bytes of response bodies, those of events as they are sent.",
            ("action",),
            {(action,): count for action, count in sent.items()},
        )
        yield Metric(
            "refused_total",
            "Requests that were refused for a limit (413, 429), for want of room (507), or because "
            "the server could not take them (503).",
            ("reason",),
            {(reason,): count for reason, count in refusals.items()},
        )
