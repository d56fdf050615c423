"""The counters of an engine, in plain numbers, and the metrics that they make."""

from collections.abc import Iterator

from durable_streams_core.metrics import COUNTS, SECONDS, Histogram, Metric, metric


class EngineMeter:
    """The counters of one engine, which its parts add to."""

    __slots__ = (
        "alone", "conflicted", "expired", "followers", "lag", "loop_lag", "refused", "together",
        "unknown",
    )  # fmt: skip

    def __init__(self) -> None:
        self.alone = 0
        """Commits of a single operation that were applied: most are."""
        self.together = Histogram(COUNTS)
        """The operations of all other commits that were applied."""
        self.conflicted = 0
        self.refused = 0
        self.unknown = 0
        self.expired = 0
        """Streams whose lifetime ended."""
        self.followers = 0
        """Readers of this process that follow a stream without HTTP."""
        self.lag = Histogram(SECONDS)
        """How long subscribers waited for a notification, once for each of them."""
        self.loop_lag = Histogram(SECONDS)

    def metrics(self) -> Iterator[Metric]:
        """The metrics of everything that is counted here."""
        operations = Histogram(COUNTS)
        operations.counts = list(self.together.counts)
        operations.total = self.together.total
        operations.observe(1, self.alone)
        yield Metric(
            "commits_total",
            "Commits that the engine sent to the store, by how they ended.",
            ("outcome",),
            {
                ("applied",): sum(operations.counts),
                ("conflicted",): self.conflicted,
                ("refused",): self.refused,
                ("unknown",): self.unknown,
            },
        )
        yield metric("commit_operations", "Operations that one applied commit carried.", operations)
        yield metric("expired_streams_total", "Streams whose lifetime ended.", self.expired)
        yield metric(
            "notification_lag_seconds",
            "How long a subscriber waited to be notified of a commit that this process knew of.",
            self.lag,
        )
        yield metric(
            "loop_lag_seconds",
            "How much later than due the event loop woke a timer, looked at about once a second.",
            self.loop_lag,
        )
