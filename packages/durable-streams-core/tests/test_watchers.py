"""The watchers of a store."""

from typing import Any

import pytest

from durable_streams_core import Change, Watchers

CHANGE = Change("a", "i", 1)


def test_each_hears_until_it_stops() -> None:
    watchers = Watchers()
    assert not watchers
    one, two = [], []
    stop = watchers.add(one.append)
    watchers.add(two.append)
    assert watchers
    watchers.tell([CHANGE])
    stop()
    stop()
    watchers.tell(None)
    assert (one, two) == ([[CHANGE]], [[CHANGE], None])


def test_one_that_fails_keeps_no_other_from_hearing(caplog: pytest.LogCaptureFixture) -> None:
    def fail(_: Any) -> None:
        raise ValueError("no")

    watchers = Watchers()
    heard = []
    watchers.add(fail)
    watchers.add(heard.append)
    watchers.tell([CHANGE])
    assert heard == [[CHANGE]]
    assert "a watcher failed" in caplog.text


def test_one_may_stop_another() -> None:
    watchers = Watchers()
    heard = []
    stops = []
    watchers.add(lambda _: stops[0]())
    stops.append(watchers.add(heard.append))
    watchers.tell([CHANGE])
    watchers.tell([CHANGE])
    assert heard == [[CHANGE]]


def test_who_watches_twice_stops_once_for_each() -> None:
    watchers = Watchers()
    heard = []
    stop = watchers.add(heard.append)
    watchers.add(heard.append)
    stop()
    stop()
    watchers.tell([CHANGE])
    assert heard == [[CHANGE]]


def test_a_change_that_a_watcher_makes_is_told_after_the_one_it_was_told_of() -> None:
    told: list[tuple[str, Any]] = []
    watchers = Watchers()

    def first(changes: Any) -> None:
        told.append(("first", changes))
        if changes is None:
            watchers.tell([])

    watchers.add(first)
    watchers.add(lambda changes: told.append(("second", changes)))
    watchers.tell(None)
    assert told == [("first", None), ("second", None), ("first", []), ("second", [])]
