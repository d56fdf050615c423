"""The batch that the user of a reader has in hand, and how much of it was handled."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from operator import length_hint
from typing import Any, Final

from durable_streams_client.batches import Batch, Page, page_of
from durable_streams_client.resuming import rest_of

_NOTHING: Final[Iterator[Any]] = iter(())


@dataclass(slots=True)
class InHand:
    """The batch that the user may still be working on, and its items that were handed out.

    Asking for the next item or batch says that the last one was handled. ``offset`` is the offset
    after everything that was recorded as handled.
    """

    offset: str
    batch: Batch[Any] | None = None
    values: list[Any] = field(default_factory=list)
    """The items of the batch, once they are handed out one by one."""
    rest: Iterator[Any] = _NOTHING
    """The items still to hand out. Counting these costs less than counting each item."""
    recorded: int = 0
    """How many of them ``offset`` counts as handled."""

    @property
    def taken(self) -> int:
        """How many of the items were handed out."""
        return len(self.values) - length_hint(self.rest)

    @property
    def has_rest(self) -> bool:
        """Whether items are handed out one by one, and some were not yet."""
        return length_hint(self.rest) > 0 and self.batch is not None

    @property
    def handled(self) -> int:
        """How many items were handled: all that were handed out but the last."""
        return max(self.taken - 1, self.recorded)

    def offset_at(self, count: int) -> str:
        """The offset after the first ``count`` items."""
        if self.batch is None or count <= self.recorded:
            return self.offset
        return page_of(self.batch).offset_at(count, len(self.values)) or self.offset

    def page_of_rest(self) -> Page | None:
        """The page of the items that were not handed out."""
        assert self.batch is not None
        return rest_of(page_of(self.batch), self.taken, self.batch.url)[0]

    def give_back(self) -> None:
        """Have no batch in hand."""
        self.batch = None
        if self.values:
            self.values = []
        self.rest = _NOTHING
        self.recorded = 0

    def hand_out(self, values: list[Any], count: int) -> None:
        """Hand out items one by one, those after the first ``count``."""
        self.values = values
        self.rest = iter(values[count:] if count else values)
