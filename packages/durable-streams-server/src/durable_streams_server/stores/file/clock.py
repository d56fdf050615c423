"""The store's time: never behind what was recorded, whatever the machine's clock does."""

import time
from collections.abc import Callable


class Clock:
    """Milliseconds since 1970 that never go back.

    ``floor`` is the time last recorded. While the machine's clock is behind it, time goes on from
    there at its own pace, so that what had expired stays so and what has not yet will.
    """

    def __init__(self, floor: int = 0, wall: Callable[[], int] | None = None) -> None:
        self._wall = wall or wall_clock
        self.behind = max(0, floor - self._wall())
        """By how many milliseconds the machine's clock was behind."""
        self._floor = floor
        self._began = time.monotonic()
        self._last = floor

    def now(self) -> int:
        now = self._wall()
        if self.behind:
            now = max(now, self._floor + int((time.monotonic() - self._began) * 1000))
        if now < self._last:
            return self._last
        self._last = now
        return now


def wall_clock() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000
