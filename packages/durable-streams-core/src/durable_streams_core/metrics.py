"""Metrics: numbers that a server counts of itself, and the names under which they are shown.

Counting touches integers and :class:`Histogram` and nothing else. A collector asks for the
:class:`Metric` objects when somebody wants to see them. Names and units follow Prometheus: base
units, counters end in ``_total``, a histogram's name ends in its unit.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

__all__ = ["COUNTS", "SECONDS", "Histogram", "Metric", "Sample", "metric"]

SECONDS: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0, 30.0, 60.0,
)  # fmt: skip
"""Upper bounds for times, in seconds: from a commit in memory to a live response."""
COUNTS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""Upper bounds for sizes of batches."""


class Histogram:
    """How often a value fell into each of some fixed buckets, and the sum of all values.

    ``bounds`` are the upper bounds of the buckets, each included, in order; one more bucket takes
    everything above. Counting may go on in another thread while it is read.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """How many values fell into each bucket, not into those below it."""
        self.total: float = 0
        """The sum of all values."""

    def observe(self, value: float, times: int = 1) -> None:
        """Count a value, once or as often as it occurred."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times


Sample = int | float | Histogram


class Metric(msgspec.Struct, frozen=True):
    """One metric: its samples by the values of its labels.

    ``name`` has no prefix: ``journal_bytes`` is shown as ``durable_streams_journal_bytes``. The
    values of ``labels`` come from small fixed sets, never from a path, an id or a client.
    """

    name: str
    meaning: str
    """A sentence for the operator."""
    labels: tuple[str, ...]
    samples: Mapping[tuple[str, ...], Sample]


def metric(name: str, meaning: str, value: Sample) -> Metric:
    """A metric without labels."""
    return Metric(name, meaning, (), {(): value})
