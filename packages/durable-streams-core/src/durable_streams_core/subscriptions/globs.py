"""Which streams a pattern means, and which patterns mean a stream (§6.2).

``*`` is one path segment and ``**`` any number of them, none included; both stand for whole
segments, so ``a*`` is a name like any other. Matching many patterns walks a trie once, whatever
their number, so that those which do not match cost nothing.
"""

from collections.abc import Hashable, Iterator
from typing import Final, Generic, TypeVar

__all__ = ["Globs"]

_ONE: Final = "*"
_MANY: Final = "**"

_Item = TypeVar("_Item", bound=Hashable)


def parse_glob(pattern: str) -> tuple[str, ...]:
    """The segments of a pattern, neighbouring ``**`` made one."""
    segments: list[str] = []
    for segment in pattern.split("/"):
        if segment != _MANY or segments[-1:] != [_MANY]:
            segments.append(segment)
    return tuple(segments)


def literal_prefix(segments: tuple[str, ...]) -> str:
    """What every matching path begins with, as text."""
    for position, segment in enumerate(segments):
        if segment == _MANY:
            # ``a/**`` means ``a`` as well.
            return "/".join(segments[:position])
        if segment == _ONE:
            return "".join(s + "/" for s in segments[:position])
    return "/".join(segments)


class _Node(Generic[_Item]):
    __slots__ = ("items", "many", "names", "one", "stays")

    def __init__(self, *, stays: bool = False) -> None:
        self.names: dict[str, _Node[_Item]] = {}
        self.one: _Node[_Item] | None = None
        self.many: _Node[_Item] | None = None
        self.stays = stays
        self.items: set[_Item] = set()

    def empty(self) -> bool:
        return not (self.items or self.names or self.one or self.many)


class Globs(Generic[_Item]):
    """Items under their patterns, found by path."""

    def __init__(self) -> None:
        self._root: _Node[_Item] = _Node()

    def __bool__(self) -> bool:
        """Whether there is any pattern."""
        return not self._root.empty()

    def add(self, segments: tuple[str, ...], item: _Item) -> None:
        """Add an item under a parsed pattern."""
        node = self._root
        for segment in segments:
            if segment == _MANY:
                node.many = node.many or _Node(stays=True)
                node = node.many
            elif segment == _ONE:
                node.one = node.one or _Node()
                node = node.one
            else:
                node = node.names.setdefault(segment, _Node())
        node.items.add(item)

    def remove(self, segments: tuple[str, ...], item: _Item) -> None:
        """Undo :meth:`add`, and drop the nodes that nobody needs any more."""
        trail: list[tuple[_Node[_Item], str]] = []
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
            if segment == _MANY:
                parent.many = None
            elif segment == _ONE:
                parent.one = None
            else:
                del parent.names[segment]
            node = parent

    def match(self, path: str) -> set[_Item]:
        """The items of all patterns that mean this path."""
        active = set(_spread(self._root))
        for segment in path.split("/"):
            following: set[_Node[_Item]] = set()
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


def _child(node: _Node[_Item], segment: str) -> _Node[_Item] | None:
    if segment == _MANY:
        return node.many
    return node.one if segment == _ONE else node.names.get(segment)


def _spread(node: _Node[_Item]) -> Iterator[_Node[_Item]]:
    """The node, and the one after a ``**`` that stands for nothing."""
    yield node
    if node.many is not None:
        yield node.many


def glob_matches(segments: tuple[str, ...], path: str) -> bool:
    """Whether one pattern means this path, in time that grows with both lengths only."""
    names = path.split("/")
    if _MANY not in segments:
        return len(names) == len(segments) and all(
            segment in (_ONE, name) for segment, name in zip(segments, names, strict=True)
        )
    places = _stay_or_pass(segments, {0})
    for name in names:
        following = {place for place in places if segments[place : place + 1] == (_MANY,)}
        following.update(
            place + 1
            for place in places
            if place < len(segments) and segments[place] in (_ONE, name)
        )
        places = _stay_or_pass(segments, following)
    return len(segments) in places


def _stay_or_pass(segments: tuple[str, ...], places: set[int]) -> set[int]:
    """The places in a pattern, and those after a ``**`` that stands for nothing more."""
    return places | {place + 1 for place in places if segments[place : place + 1] == (_MANY,)}
