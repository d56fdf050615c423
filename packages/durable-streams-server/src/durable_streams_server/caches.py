"""Bounded caches: one that counts entries and drops the oldest half, one that counts bytes."""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class TwoGenerationCache(Generic[Key, Value]):
    """Keeps at least the ``most`` entries added or used last, and at most twice as many."""

    __slots__ = ("_most", "_newer", "_older")

    def __init__(self, most: int) -> None:
        self._most = most
        self._newer: dict[Key, Value] = {}
        self._older: dict[Key, Value] = {}

    def get(self, key: Key) -> Value | None:
        """The value, which then counts as used; None without one."""
        value = self._newer.get(key)
        if value is None and self._older:
            value = self._older.get(key)
            if value is not None:
                self.add(key, value)
        return value

    def add(self, key: Key, value: Value) -> None:
        """Keep a value."""
        newer = self._newer
        newer[key] = value
        if len(newer) >= self._most:
            self._older = newer
            self._newer = {}

    def items(self) -> Iterator[tuple[Key, Value]]:
        """Oldest first; an entry in both generations comes twice, the newer one last."""
        yield from self._older.items()
        yield from self._newer.items()


class ByteCache(Generic[Key, Value]):
    """Keeps the values that were used last, as many as ``most`` bytes hold.

    One that is larger than that is not kept.
    """

    __slots__ = ("_kept", "_most", "_size")

    def __init__(self, most: int) -> None:
        self._most = most
        self._size = 0
        self._kept: OrderedDict[Key, tuple[Value, int]] = OrderedDict()

    def get(self, key: Key) -> Value | None:
        """The value, which then counts as used; None without one."""
        entry = self._kept.get(key)
        if entry is None:
            return None
        self._kept.move_to_end(key)
        return entry[0]

    def add(self, key: Key, value: Value, size: int) -> None:
        """Keep a value of so many bytes, in place of one under the same key."""
        before = self._kept.pop(key, None)
        if before is not None:
            self._size -= before[1]
        if size > self._most:
            return
        self._kept[key] = value, size
        self._size += size
        while self._size > self._most:
            _, (_, dropped) = self._kept.popitem(last=False)
            self._size -= dropped

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
        self._size = 0
