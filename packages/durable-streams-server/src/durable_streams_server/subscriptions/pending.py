"""Which streams of a subscription have pending work.

A driver remembers the streams that changed as candidates. Looking up pending work checks the
candidates against the store, and every linked stream where the candidates may not be all.
"""

from collections.abc import Sequence
from typing import Final

from durable_streams_core.subscriptions.operations import ForgetStreams, Tail
from durable_streams_core.subscriptions.records import Standing
from durable_streams_server.perform import Perform
from durable_streams_server.subscriptions import state as states
from durable_streams_server.subscriptions.positions import Positions
from durable_streams_server.subscriptions.state import SubscriptionState

SNAPSHOT: Final = 1000
"""Streams that one wake lists; further pending ones lead to the next wake."""
_FORGOTTEN_AT_ONCE: Final = 500


class PendingWork:
    """Looks up pending work; all it remembers is in the :class:`SubscriptionState`."""

    def __init__(self, positions: Positions, perform: Perform) -> None:
        self._positions = positions
        self._perform = perform

    async def of(self, state: SubscriptionState) -> list[Standing]:
        """Streams with pending work, at most ``SNAPSHOT``."""
        async with state.checking:
            while True:
                if not state.complete:
                    await self._check_all(state)
                found = await self._check_candidates(state)
                # The candidates may have filled up before every stream was checked.
                if found or state.complete:
                    return found[:SNAPSHOT]

    async def _check_candidates(self, state: SubscriptionState) -> list[Standing]:
        found: list[Standing] = []
        candidates = list(state.candidates)
        for begin in range(0, len(candidates), SNAPSHOT):
            streams = candidates[begin : begin + SNAPSHOT]
            # Removed before the look, so that a change during the look adds it again.
            for stream in streams:
                state.candidates.pop(stream, None)
            try:
                standings = await self._positions.of(state.path, state.incarnation, streams)
                await self._forget(state, standings)
            except BaseException:
                state.complete = False
                raise
            for standing in standings:
                if standing.pending:
                    state.candidates[standing.path] = None
                    found.append(standing)
            if len(found) >= SNAPSHOT:
                break
        return found

    async def _check_all(self, state: SubscriptionState) -> None:
        state.complete = True
        gone: list[Standing] = []
        try:
            standings = self._positions.all(state.path, state.incarnation, state.config)
            async for standing in standings:
                if standing.head is None:
                    gone.append(standing)
                elif standing.pending:
                    if len(state.candidates) >= states.MAX_CANDIDATES:
                        # Enough for now; the rest is checked when these are handled.
                        state.complete = False
                        break
                    state.candidates[standing.path] = None
            await self._forget(state, gone)
        except BaseException:
            state.complete = False
            raise

    async def _forget(self, state: SubscriptionState, standings: Sequence[Standing]) -> None:
        """Drop the cursors of streams that are gone."""
        gone = [
            Tail(standing.path, standing.cursor.incarnation)
            for standing in standings
            if standing.head is None
            and standing.cursor is not None
            and not standing.cursor.explicit
        ]
        for begin in range(0, len(gone), _FORGOTTEN_AT_ONCE):
            streams = gone[begin : begin + _FORGOTTEN_AT_ONCE]
            await self._perform(state.path, ForgetStreams(state.incarnation, streams))
