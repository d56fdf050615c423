"""Time limits of one length: each ends once, in the order in which they began."""

import asyncio
from collections.abc import Callable

import pytest

from durable_streams_server.engine.fanout import SLICE
from durable_streams_server.http.time_limits import TimeLimits


class Waiting:
    """Notes that its time is up."""

    def __init__(self, ended: list["Waiting"], then: Callable[[], object] | None = None) -> None:
        self._ended = ended
        self._then = then
        self.over = asyncio.Event()

    def finish(self) -> None:
        self._ended.append(self)
        self.over.set()
        if self._then is not None:
            self._then()


async def test_more_than_one_slice_end_in_the_order_in_which_they_began() -> None:
    limits = TimeLimits(0.001)
    ended: list[Waiting] = []
    waiting = [Waiting(ended) for _ in range(2 * SLICE + 1)]
    for one in waiting:
        limits.add(one)
    await waiting[-1].over.wait()
    assert ended == waiting


async def test_a_limit_that_begins_when_the_last_one_has_ended_ends_too() -> None:
    limits = TimeLimits(0.001)
    ended: list[Waiting] = []
    for one in (Waiting(ended), Waiting(ended)):
        limits.add(one)
        await one.over.wait()
    assert len(ended) == 2


async def test_a_limit_that_begins_while_another_ends_is_not_forgotten() -> None:
    limits = TimeLimits(0.001)
    ended: list[Waiting] = []
    second = Waiting(ended)
    first = Waiting(ended, lambda: limits.add(second))
    limits.add(first)
    await second.over.wait()
    assert ended == [first, second]


async def test_what_is_discarded_does_not_end_even_while_another_ends() -> None:
    limits = TimeLimits(0.001)
    ended: list[Waiting] = []
    gone, last = Waiting(ended), Waiting(ended)
    first = Waiting(ended, lambda: limits.discard(gone))
    for one in (first, gone, last):
        limits.add(one)
    await last.over.wait()
    assert ended == [first, last]


async def test_one_that_fails_keeps_no_other_from_ending(caplog: pytest.LogCaptureFixture) -> None:
    limits = TimeLimits(0.001)
    ended: list[Waiting] = []

    def fail() -> None:
        raise RuntimeError("on purpose")

    failing, last = Waiting(ended, fail), Waiting(ended)
    limits.add(failing)
    limits.add(last)
    await last.over.wait()
    assert "ending a long-poll failed" in caplog.text


async def test_nothing_ends_after_a_close() -> None:
    limits, later = TimeLimits(0.001), TimeLimits(0.002)
    ended: list[Waiting] = []
    limits.add(Waiting(ended))
    limits.close()
    last = Waiting(ended)
    later.add(last)
    await last.over.wait()
    assert ended == [last]


def test_a_limit_ends_in_a_second_event_loop_though_the_first_was_closed_with_its_timer() -> None:
    limits = TimeLimits(0.001)

    async def begin_and_leave() -> None:
        left = Waiting([])
        limits.add(left)
        limits.discard(left)

    async def begin_and_wait() -> None:
        waiting = Waiting([])
        limits.add(waiting)
        await waiting.over.wait()

    asyncio.run(begin_and_leave())
    asyncio.run(begin_and_wait())
