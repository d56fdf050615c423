"""Plain counters: what falls into which bucket, and how a metric is described."""

from hypothesis import given
from hypothesis import strategies as st

from durable_streams_core.metrics import COUNTS, SECONDS, Histogram, metric


@given(st.lists(st.floats(0, 200), max_size=50))
def test_every_value_is_counted_once_in_the_first_bucket_that_reaches_it(
    values: list[float],
) -> None:
    histogram = Histogram(SECONDS)
    for value in values:
        histogram.observe(value)
    assert sum(histogram.counts) == len(values)
    assert histogram.total == sum(values)
    for place, bound in enumerate(SECONDS):
        assert sum(histogram.counts[: place + 1]) == sum(value <= bound for value in values)


def test_a_value_may_be_counted_as_often_as_it_occurred() -> None:
    histogram = Histogram(COUNTS)
    histogram.observe(3, 256)
    histogram.observe(5000)
    assert (histogram.counts[2], histogram.counts[-1]) == (256, 1)
    assert histogram.total == 3 * 256 + 5000


def test_a_metric_without_labels_has_one_sample() -> None:
    described = metric("journal_bytes", "Bytes in the journal.", 7)
    assert (described.labels, described.samples) == ((), {(): 7})
