"""An outage is in the log once, then at growing intervals, and once when it is over."""

import logging

import pytest

from durable_streams_redis.outages import Outage


def test_an_outage_is_logged_at_once_and_then_at_growing_intervals(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = 0.0
    outage = Outage(logging.getLogger("test"), clock=lambda: now)
    logged = []
    for second in range(300):
        now = float(second)
        caplog.clear()
        outage.note("refused")
        if caplog.records:
            logged.append(second)
    assert logged == [0, 5, 20, 65, 200]


def test_the_end_of_an_outage_is_logged_and_the_next_one_is_notified(
    caplog: pytest.LogCaptureFixture,
) -> None:
    now = 0.0
    outage = Outage(logging.getLogger("test"), clock=lambda: now)
    outage.end()
    assert not caplog.records
    outage.note("refused")
    now = 2.0
    outage.end()
    assert caplog.messages[-1] == "Redis is reached again after 2.0 s."
    outage.note("refused")
    assert len(caplog.records) == 3
