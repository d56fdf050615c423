"""The time of engines under test, which a test can move forward."""

import asyncio
from weakref import WeakSet

from durable_streams_server import Engine
from durable_streams_server.stores.clock import Clock


class StreamsClock:
    """Goes on by itself, and jumps when a test says so.

    Lifetimes of streams (``Stream-TTL``, ``Stream-Expires-At``), leases and the tokens of
    subscriptions follow it. Waits do not: a long-poll and a retry last as long as ever.

        clock.advance(3600)  # everything that lives for an hour has expired
    """

    def __init__(self) -> None:
        self._clock = Clock()
        self._ahead = 0
        self._engines: WeakSet[Engine] = WeakSet()

    def __call__(self) -> int:
        """The time in milliseconds since 1970, as stores ask for it."""
        return self._clock.now() + self._ahead

    def drive(self, engine: Engine) -> None:
        """Have ``engine``, whose store has this clock, look around whenever the clock jumps."""
        self._engines.add(engine)

    def advance(self, seconds: float) -> None:
        """Jump ahead by so many seconds.

        What expires by that is gone at once, and its readers learn it. An engine that runs in the
        loop of the caller learns it in the next turns of the loop, one in another thread before
        this returns. Raises ``ValueError`` for a negative number: time does not go back.
        """
        if seconds < 0:
            raise ValueError(f"seconds must be 0 or more, got {seconds}")
        self._ahead += round(seconds * 1000)
        for engine in list(self._engines):
            _sweep(engine)


def _sweep(engine: Engine) -> None:
    loop = engine.loop
    if loop is None or not loop.is_running():
        return
    try:
        here = asyncio.get_running_loop() is loop
    except RuntimeError:
        here = False
    if here:
        _ = engine.spawn(engine.sweep())
    else:
        asyncio.run_coroutine_threadsafe(engine.sweep(), loop).result()
