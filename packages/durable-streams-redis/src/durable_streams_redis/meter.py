"""The counters of a Redis store, in plain numbers, and the metrics that they make."""

from collections.abc import Sequence

from durable_streams_core.metrics import COUNTS, SECONDS, Histogram, Metric, metric


class RedisMeter:
    """The counters of one store, over all times that it was open."""

    __slots__ = ("batches", "connections", "reconnects", "resyncs", "round_trips", "streams")

    def __init__(self) -> None:
        self.round_trips = Histogram(SECONDS)
        """How long each pipeline took, those without an answer included."""
        self.batches = Histogram(COUNTS)
        """The commits of each pipeline of commits."""
        self.connections = 0
        self.reconnects = 0
        """How often a feed was connected again."""
        self.resyncs = 0
        self.streams: dict[bytes, int] = {}
        """The entities of each shard, by its feed, as last seen."""

    def metrics(self) -> Sequence[Metric]:
        """The metrics of everything that is counted here."""
        return (
            metric(
                "streams",
                "Streams that the store keeps, as of some seconds ago: also deleted ones that "
                "forks still read, and subscriptions.",
                sum(self.streams.copy().values()),
            ),
            metric(
                "batch_commits", "Commits that one write to the store made durable.", self.batches
            ),
            metric(
                "redis_round_trip_seconds",
                "How long Redis took to answer a pipeline of commands; its count is the number of "
                "round trips.",
                self.round_trips,
            ),
            metric(
                "redis_connections_total", "Connections that were made to Redis.", self.connections
            ),
            metric(
                "redis_reconnects_total",
                "How often the connection that follows the feeds was made again.",
                self.reconnects,
            ),
            metric(
                "redis_resyncs_total",
                "How often readers had to look again, because changes may have been missed.",
                self.resyncs,
            ),
        )
