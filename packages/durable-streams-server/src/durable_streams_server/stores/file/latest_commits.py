"""The latest commits of the journal, whose resends the store answers after a start."""

from collections import deque
from collections.abc import Mapping
from typing import Any, Final

from durable_streams_core.entities import Applied, Head
from durable_streams_server.caches import TwoGenerationCache
from durable_streams_server.stores.file.journal_reader import JournalGroup
from durable_streams_server.stores.file.write_behind import Stored
from durable_streams_server.stores.table import REMEMBERED_COMMITS, Recent

_MUCH: Final = 256 * 1024


class LatestCommits:
    """Keeps the entries of the latest groups, and the heads of entities that they removed."""

    def __init__(self) -> None:
        self._groups: deque[list[list[Any]]] = deque()
        self._count = 0
        # A removal comes after all commits to what it removes, so it is among the latest as well.
        self._removed: TwoGenerationCache[int, Head] = TwoGenerationCache(2 * REMEMBERED_COMMITS)

    def note(self, group: JournalGroup) -> None:
        """Keep a group's entries, without their data where that is much."""
        groups = self._groups
        groups.append(group.entries)
        self._count += len(group.entries)
        while self._count - len(groups[0]) >= REMEMBERED_COMMITS:
            self._count -= len(groups.popleft())
        if group.end - group.begin > _MUCH:
            for entry in group.entries:
                if len(entry) <= 5:
                    entry[2:4] = entry[2] + len(entry[3]), b""

    def removed(self, number: int, head: Head) -> None:
        """Keep the head of an entity that an entry removed."""
        self._removed.add(number, head)

    def add_to(self, recent: Recent, by_number: Mapping[int, tuple[str, Stored]]) -> None:
        """Add the outcome of each commit to ``recent``, and forget the entries."""
        for entries in self._groups:
            for entry in entries:
                if not entry[1]:
                    continue
                if len(entry) > 5 and entry[9] == entry[0]:
                    recent.add(entry[1], Applied(0))
                else:
                    self._add_append(entry, recent, by_number)
        self._groups.clear()

    def _add_append(
        self, entry: list[Any], recent: Recent, by_number: Mapping[int, tuple[str, Stored]]
    ) -> None:
        number, commit_id, tail = entry[0], entry[1], entry[2] + len(entry[3])
        named = by_number.get(number)
        head = self._removed.get(number) if named is None else named[1].head
        if head is not None:
            recent.add(commit_id, Applied(tail, head.timeline_at(tail)))
        else:
            # Of a stream that was gone before the snapshot was whole, the snapshot knows it.
            recent.add(commit_id, recent.get(commit_id) or Applied(tail))
