"""Logs an outage once, and then at growing intervals for as long as it lasts."""

import logging
import time
from collections.abc import Callable
from typing import Final

_FIRST_SECONDS: Final = 5.0
_GROWTH: Final = 3
_MOST_SECONDS: Final = 3600.0


class Outage:
    """The outage of one server, as its log sees it."""

    def __init__(
        self, logger: logging.Logger, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._logger = logger
        self._clock = clock
        self._since: float | None = None
        self._next = 0.0
        self._interval = _FIRST_SECONDS

    def note(self, reason: str) -> None:
        """Say that the server cannot be reached, but not again within the interval."""
        now = self._clock()
        if self._since is None:
            self._since, self._interval = now, _FIRST_SECONDS
            self._logger.warning("Redis cannot be reached (%s): trying again.", reason)
        elif now < self._next:
            return
        else:
            self._logger.warning(
                "Redis cannot be reached for %.0f s now (%s).", now - self._since, reason
            )
            self._interval = min(self._interval * _GROWTH, _MOST_SECONDS)
        self._next = now + self._interval

    def end(self) -> None:
        """Say that the server is back, if it was away."""
        if self._since is not None:
            self._logger.warning(
                "Redis is reached again after %.1f s.", self._clock() - self._since
            )
            self._since = None
