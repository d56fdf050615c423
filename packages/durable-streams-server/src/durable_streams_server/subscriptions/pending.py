"""Which streams of a subscription have pending work.

A driver remembers the streams that changed as candidates. Looking up pending work checks the
candidates against the store, and every linked stream where the candidates may not be all.
"""

from collections.abc import Sequence
from typing import Final

from durable_streams_core.subscriptions.operations import ForgetStreams, Tail
from durable_streams_core.subscriptions.records import LinkedStream
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

    async def of(self, state: SubscriptionState) -> list[LinkedStream]:
        """Streams with pending work, at most ``SNAPSHOT``."""
        async with state.checking:
            while True:
                if not state.complete:
                    await self._check_all(state)
                pending = await self._check_candidates(state)
                # The candidates may have filled up before every stream was checked.
                if pending or state.complete:
                    return pending[:SNAPSHOT]

    async def _check_candidates(self, state: SubscriptionState) -> list[LinkedStream]:
        pending: list[LinkedStream] = []
        candidates = list(state.candidates)
        for begin in range(0, len(candidates), SNAPSHOT):
            streams = candidates[begin : begin + SNAPSHOT]
            # Removed before the look, so that a change during the look adds it again.
            for stream in streams:
                state.candidates.pop(stream, None)
            try:
                linked_streams = await self._positions.of(state.path, state.incarnation, streams)
                await self._forget(state, linked_streams)
            except BaseException:
                state.complete = False
                raise
            for linked in linked_streams:
                if linked.pending:
                    state.candidates[linked.path] = None
                    pending.append(linked)
            if len(pending) >= SNAPSHOT:
                break
        return pending

    async def _check_all(self, state: SubscriptionState) -> None:
        state.complete = True
        gone: list[LinkedStream] = []
        try:
            linked_streams = self._positions.all(state.path, state.incarnation, state.config)
            async for linked in linked_streams:
                if linked.head is None:
                    gone.append(linked)
                elif linked.pending:
                    if len(state.candidates) >= states.MAX_CANDIDATES:
                        # Enough for now; the rest is checked when these are handled.
                        state.complete = False
                        break
                    state.candidates[linked.path] = None
            await self._forget(state, gone)
        except BaseException:
            state.complete = False
            raise

    async def _forget(
        self, state: SubscriptionState, linked_streams: Sequence[LinkedStream]
    ) -> None:
        """Drop the cursors of streams that are gone."""
        gone = [
            Tail(linked.path, linked.cursor.incarnation)
            for linked in linked_streams
            if linked.head is None and linked.cursor is not None and not linked.cursor.explicit
        ]
        for begin in range(0, len(gone), _FORGOTTEN_AT_ONCE):
            streams = gone[begin : begin + _FORGOTTEN_AT_ONCE]
            await self._perform(state.path, ForgetStreams(state.incarnation, streams))
