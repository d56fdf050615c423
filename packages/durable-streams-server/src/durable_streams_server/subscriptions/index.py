"""An index of subscriptions: which of them a stream concerns, by name or by pattern.

The result for a path is remembered until a subscription comes or goes. So a further append to a
busy stream costs one lookup, however many subscriptions there are.
"""

from collections.abc import Hashable
from typing import Final, Generic, TypeVar

from durable_streams_core.protocol import RESERVED_SEGMENT
from durable_streams_core.subscriptions.globs import Globs

Item = TypeVar("Item", bound=Hashable)

REMEMBERED_BYTES: Final = 16 * 1024 * 1024
"""About how much memory the remembered results take before all are forgotten."""
_RESULT_BYTES: Final = 200
_ITEM_BYTES: Final = 8
_RESERVED: Final = RESERVED_SEGMENT + "/"


class Index(Generic[Item]):
    """Maps stream paths to the items that are interested in them."""

    def __init__(self) -> None:
        self._globs: Globs[Item] = Globs()
        self._streams: dict[str, set[Item]] = {}
        self.found: dict[str, tuple[Item, ...]] = {}
        """Remembered results, for lookups without a call; :meth:`find` works out the others."""
        self._size = 0

    def add_glob(self, segments: tuple[str, ...], item: Item) -> None:
        self._globs.add(segments, item)
        self._forget()

    def remove_glob(self, segments: tuple[str, ...], item: Item) -> None:
        self._globs.remove(segments, item)
        self._forget()

    def add_stream(self, path: str, item: Item) -> None:
        self._streams.setdefault(path, set()).add(item)
        self.found.pop(path, None)

    def remove_stream(self, path: str, item: Item) -> None:
        items = self._streams.get(path)
        if items is not None:
            items.discard(item)
            if not items:
                del self._streams[path]
        self.found.pop(path, None)

    def find(self, path: str) -> tuple[Item, ...]:
        items = self.found.get(path)
        if items is None:
            if path.startswith(_RESERVED):
                return ()
            items = tuple(self._globs.match(path) | self._streams.get(path, set()))
            size = len(path) + _RESULT_BYTES + _ITEM_BYTES * len(items)
            if self._size + size > REMEMBERED_BYTES:
                self._forget()
            self._size += size
            self.found[path] = items
        return items

    def _forget(self) -> None:
        self.found.clear()
        self._size = 0
