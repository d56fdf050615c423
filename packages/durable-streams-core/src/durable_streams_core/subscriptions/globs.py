"""Which streams a pattern means, and which patterns mean a stream (§6.2).

``*`` is one path segment and ``**`` any number of them, none included; both stand for whole
segments, so ``a*`` is a name like any other. Matching many patterns walks a trie once, whatever
their number, so that those which do not match cost nothing.
"""

from collections.abc import Hashable, Iterator
from typing import Final, Generic, TypeVar

ONE: Final = "*"
MANY: Final = "**"

Item = TypeVar("Item", bound=Hashable)


def parse_glob(pattern: str) -> tuple[str, ...]:
    """The segments of a pattern, neighbouring ``**`` made one."""
    segments: list[str] = []
    for segment in pattern.split("/"):
        if segment != MANY or segments[-1:] != [MANY]:
            segments.append(segment)
    return tuple(segments)


def literal_prefix(segments: tuple[str, ...]) -> str:
    """What every matching path begins with, as text."""
    for position, segment in enumerate(segments):
        if segment == MANY:
            # ``a/**`` means ``a`` as well.
            return "/".join(segments[:position])
        if segment == ONE:
            return "".join(s + "/" for s in segments[:position])
    return "/".join(segments)


class _Node(Generic[Item]):
    __slots__ = ("items", "many", "names", "one", "stays")

    def __init__(self, *, stays: bool = False) -> None:
        self.names: dict[str, _Node[Item]] = {}
        self.one: _Node[Item] | None = None
        self.many: _Node[Item] | None = None
        self.stays = stays
        self.items: set[Item] = set()

    def empty(self) -> bool:
        return not (self.items or self.names or self.one or self.many)


class Globs(Generic[Item]):
    """Items under their patterns, found by path."""

    def __init__(self) -> None:
        self._root: _Node[Item] = _Node()

    def add(self, segments: tuple[str, ...], item: Item) -> None:
        node = self._root
        for segment in segments:
            if segment == MANY:
                node.many = node.many or _Node(stays=True)
                node = node.many
            elif segment == ONE:
                node.one = node.one or _Node()
                node = node.one
            else:
                node = node.names.setdefault(segment, _Node())
        node.items.add(item)

    def remove(self, segments: tuple[str, ...], item: Item) -> None:
        """Undo :meth:`add`, and drop the nodes that nobody needs any more."""
        trail: list[tuple[_Node[Item], str]] = []
        node = self._root
        for segment in segments:
            trail.append((node, segment))
            child = _child(node, segment)
            if child is None:
                return
            node = child
        node.items.discard(item)
        for parent, segment in reversed(trail):
            if not node.empty():
                return
            if segment == MANY:
                parent.many = None
            elif segment == ONE:
                parent.one = None
            else:
                del parent.names[segment]
            node = parent

    def match(self, path: str) -> set[Item]:
        """The items of all patterns that mean this path."""
        active = set(_spread(self._root))
        for segment in path.split("/"):
            following: set[_Node[Item]] = set()
            for node in active:
                named = node.names.get(segment)
                if named is not None:
                    following.update(_spread(named))
                if node.one is not None:
                    following.update(_spread(node.one))
                if node.stays:
                    following.add(node)
            if not following:
                return set()
            active = following
        return {item for node in active for item in node.items}


def _child(node: _Node[Item], segment: str) -> _Node[Item] | None:
    if segment == MANY:
        return node.many
    return node.one if segment == ONE else node.names.get(segment)


def _spread(node: _Node[Item]) -> Iterator[_Node[Item]]:
    """The node, and the one after a ``**`` that stands for nothing."""
    yield node
    if node.many is not None:
        yield node.many


def glob_matches(segments: tuple[str, ...], path: str) -> bool:
    """Whether one pattern means this path, in time that grows with both lengths only."""
    names = path.split("/")
    if MANY not in segments:
        return len(names) == len(segments) and all(
            segment in (ONE, name) for segment, name in zip(segments, names, strict=True)
        )
    places = _stay_or_pass(segments, {0})
    for name in names:
        following = {place for place in places if segments[place : place + 1] == (MANY,)}
        following.update(
            place + 1
            for place in places
            if place < len(segments) and segments[place] in (ONE, name)
        )
        places = _stay_or_pass(segments, following)
    return len(segments) in places


def _stay_or_pass(segments: tuple[str, ...], places: set[int]) -> set[int]:
    """The places in a pattern, and those after a ``**`` that stands for nothing more."""
    return places | {place + 1 for place in places if segments[place : place + 1] == (MANY,)}
