"""The subscriptions that this process drives, and which of them a stream concerns."""

from collections.abc import Iterator

from durable_streams_server.subscriptions.index import Index
from durable_streams_server.subscriptions.state import SubscriptionState


class Registry:
    """Driven subscriptions by path, with an index of their patterns and links."""

    def __init__(self) -> None:
        self._states: dict[str, SubscriptionState] = {}
        self.index: Index[SubscriptionState] = Index()

    def __len__(self) -> int:
        return len(self._states)

    def __iter__(self) -> Iterator[SubscriptionState]:
        """A snapshot: subscriptions may come and go while it is iterated."""
        return iter(list(self._states.values()))

    def get(self, path: str) -> SubscriptionState | None:
        return self._states.get(path)

    def holds(self, state: SubscriptionState) -> bool:
        """Whether this very state is the one that is driven."""
        return self._states.get(state.path) is state

    def add(self, state: SubscriptionState) -> None:
        self._states[state.path] = state
        glob = state.config.glob
        if glob is not None:
            self.index.add_glob(glob, state)

    def remove(self, state: SubscriptionState) -> None:
        """Drive it no longer; safe to call again."""
        if state.dropped:
            return
        state.dropped = True
        state.disarm()
        if self.holds(state):
            del self._states[state.path]
        glob = state.config.glob
        if glob is not None:
            self.index.remove_glob(glob, state)
        for stream in state.links:
            self.index.remove_stream(stream, state)

    def set_links(self, state: SubscriptionState, streams: set[str]) -> None:
        """Note which streams are linked explicitly; new ones may have pending work."""
        if state.dropped:
            return
        for stream in streams - state.links:
            self.index.add_stream(stream, state)
            state.stream_changed(stream)
        for stream in state.links - streams:
            self.index.remove_stream(stream, state)
        state.links = streams
