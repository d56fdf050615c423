"""Store time: it goes on at its own pace, whatever is done to the machine's clock."""

import time
from collections.abc import Callable


def wall_clock() -> int:
    """Milliseconds since 1970, as the machine has it."""
    return time.time_ns() // 1_000_000


class Clock:
    """Milliseconds since 1970 that never go back and never stand still.

    The clock follows ``wall``, the machine's clock, forward. While that is behind, the clock goes
    on at the pace of ``monotonic`` (seconds), so that what had expired stays so and what has not
    yet will. It begins at ``floor``, the time last recorded, if the machine's clock is behind it.
    """

    def __init__(
        self,
        floor: int = 0,
        wall: Callable[[], int] = wall_clock,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._wall = wall
        self._monotonic = monotonic
        now = wall()
        self.behind = max(0, floor - now)
        """By how many milliseconds the machine's clock was behind at the start."""
        self._time = max(now, floor)
        self._at = monotonic()

    def now(self) -> int:
        at = self._monotonic()
        paced = self._time + int((at - self._at) * 1000)
        wall = self._wall()
        if wall > paced:
            self._time, self._at = wall, at
            return wall
        return paced

    @property
    def ahead(self) -> int:
        """By how many milliseconds the machine's clock is behind now."""
        return self.now() - self._wall()
