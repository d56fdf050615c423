"""A bounded memory of what was met lately."""

from collections.abc import Iterator
from typing import Generic, TypeVar

Key = TypeVar("Key")
Known = TypeVar("Known")


class Lately(Generic[Key, Known]):
    """Keeps at least the last ``most`` that were added or met again, and at most twice as many."""

    __slots__ = ("_most", "_newer", "_older")

    def __init__(self, most: int) -> None:
        self._most = most
        self._newer: dict[Key, Known] = {}
        self._older: dict[Key, Known] = {}

    def get(self, key: Key) -> Known | None:
        found = self._newer.get(key)
        if found is None and self._older:
            found = self._older.get(key)
            if found is not None:
                self.add(key, found)
        return found

    def add(self, key: Key, known: Known) -> None:
        newer = self._newer
        newer[key] = known
        if len(newer) >= self._most:
            self._older = newer
            self._newer = {}

    def items(self) -> Iterator[tuple[Key, Known]]:
        """Oldest first; what is in both halves comes twice, the newer one last."""
        yield from self._older.items()
        yield from self._newer.items()
