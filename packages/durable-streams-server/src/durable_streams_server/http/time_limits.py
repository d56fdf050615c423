"""Ends long-polls whose time is up (§5.7)."""

import asyncio
import logging
from itertools import islice
from typing import Protocol

from durable_streams_server.engine.fanout import SLICE

log = logging.getLogger("durable_streams_server.http")


class Limited(Protocol):
    """What ends when its time is up."""

    def finish(self) -> None:
        """The time is up."""


class TimeLimits:
    """Time limits of one length: they end in the order in which they began, so one timer is enough.

    The timer is not cancelled when a limit is discarded, because most are, and another follows.
    """

    __slots__ = ("_ends", "_loop", "_seconds", "_timer")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._ends: dict[Limited, float] = {}
        """The loop's time at which each limit ends, the next one first."""
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        """The loop of the timer; it may have been closed, and the next limit is one of another."""

    def add(self, limited: Limited) -> None:
        """Call ``limited.finish`` when the time, which begins now, is up."""
        loop = asyncio.get_running_loop()
        self._ends[limited] = end = loop.time() + self._seconds
        if self._loop is not loop:
            self._loop = loop
            self._timer = loop.call_at(end, self._end)

    def discard(self, limited: Limited) -> None:
        """It ended before its time was up; safe to call again."""
        self._ends.pop(limited, None)

    def close(self) -> None:
        """Forget all limits."""
        self._ends.clear()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop = None

    def _end(self) -> None:
        """End those whose time is up, a slice of them in each turn of the loop."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        ends = self._ends
        for limited, end in tuple(islice(ends.items(), SLICE)):
            if end > now:
                break
            # It may have left while another ended.
            if ends.pop(limited, None) is not None:
                try:
                    limited.finish()
                except Exception:
                    log.exception("ending a long-poll failed")
        following = next(iter(ends.values()), None)
        if following is None:
            self._timer = self._loop = None
        else:
            self._timer = loop.call_at(following, self._end)
