"""The counters of one engine's subscriptions, in plain numbers."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final

from durable_streams_core.metrics import Metric, metric
from durable_streams_core.subscriptions.leases import (
    EXPIRE,
    FAIL,
    HELD,
    IDLE,
    RETRYING,
    WAITING,
    WAKE,
    WAKING,
)
from durable_streams_server.subscriptions import webhooks

PHASES: Final = (IDLE, WAKING, WAITING, HELD, RETRYING)


class SubscriptionMeter:
    """The counters that the scheduler and the service add to."""

    __slots__ = ("claims", "deliveries", "expired", "retries", "wakes")

    def __init__(self) -> None:
        self.wakes = 0
        self.deliveries = dict.fromkeys((webhooks.DONE, webhooks.ACCEPTED, webhooks.FAILED), 0)
        """Webhooks by what came of them."""
        self.retries = 0
        self.claims = 0
        """Leases that workers claimed."""
        self.expired = 0
        """Leases that ended because nobody extended them."""

    def stepped(self, step: str) -> None:
        """Count a step of a lease that was committed."""
        if step == WAKE:
            self.wakes += 1
        elif step == FAIL:
            self.retries += 1
        elif step == EXPIRE:
            self.expired += 1

    def metrics(self, phases: Iterable[str]) -> Iterator[Metric]:
        """The metrics of everything counted here, and of the phases of the driven subscriptions."""
        yield metric("subscription_wakes_total", "Wakes that this process began.", self.wakes)
        yield Metric(
            "webhook_deliveries_total",
            "Webhooks that were sent or could not be, by what came of them.",
            ("outcome",),
            {(outcome,): count for outcome, count in self.deliveries.items()},
        )
        yield metric(
            "subscription_retries_total",
            "Wakes that failed and are tried again later.",
            self.retries,
        )
        yield metric("subscription_claims_total", "Leases that workers claimed here.", self.claims)
        yield metric(
            "subscription_lease_expiries_total",
            "Leases that ended because their worker did not extend them.",
            self.expired,
        )
        found = Counter(phases)
        yield Metric(
            "subscriptions",
            "Subscriptions that this process drives, by the phase of their lease.",
            ("phase",),
            {(phase,): found[phase] for phase in PHASES},
        )
