"""The silence of a server that owes replies, counted only while this event loop runs.

A loop that was busy has not read what the server sent meanwhile, and must not blame the server. So
turns of the loop are counted, each at least some time after the one before: a loop that does not
run counts none.
"""

import asyncio
from typing import Final

_TURN_SECONDS: Final = 0.1
_LONG: Final = 5
"""Turns without a reply after which a server counts as silent: 0.4 seconds or more."""


class Silence:
    """Counts from when a first reply is owed, and anew from each one that is heard."""

    def __init__(self) -> None:
        self._owed = 0
        self._turns = 0
        self._counting = False

    @property
    def is_long(self) -> bool:
        """Whether replies are owed and none has come for a while."""
        return self._owed > 0 and self._turns >= _LONG

    def begin(self) -> None:
        """One reply more is owed."""
        if not self._owed:
            self._turns = 0
        self._owed += 1
        if not self._counting:
            self._counting = True
            asyncio.get_running_loop().call_later(_TURN_SECONDS, self._count)

    def hear(self) -> None:
        """The server has replied."""
        self._turns = 0

    def end(self) -> None:
        """One reply less is owed: it came, or nobody waits for it any more."""
        self._owed -= 1

    def _count(self) -> None:
        self._counting = self._owed > 0
        if self._counting:
            self._turns += 1
            asyncio.get_running_loop().call_later(_TURN_SECONDS, self._count)
