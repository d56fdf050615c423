"""Path patterns: which stream paths a right or a limit is about.

A pattern is made of segments between slashes, like a path, and compared with the decoded path:

* ``*`` stands for any characters inside of one segment: ``*`` alone is one whole segment, and
  ``log-*`` a segment that begins with ``log-``.
* ``**`` as a whole segment stands for any number of segments, none included: ``chats/**`` means
  ``chats`` and everything below it.
* ``{name}``, where it is allowed, stands for one value that is put in later (:meth:`bind`).
* Everything else stands for itself. Upper and lower case differ.

No pattern means a path under the reserved ``__ds``, not even ``**``. Matching takes a time that
grows with the lengths of pattern and path only, whatever they hold.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from durable_streams_core.protocol import RESERVED_SEGMENT

MAX_BYTES: Final = 1024
MAX_SEGMENTS: Final = 64
MAX_VALUE: Final = 256
"""Characters of a value that is put into a pattern."""

_MANY: Final = "**"
_FORBIDDEN: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029\\]")
_NAMES: Final = re.compile(r"\{([A-Za-z0-9_-]+)\}")
_RESERVED: Final = RESERVED_SEGMENT + "/"


class PathPattern:
    """One pattern. Raises :class:`ValueError` for text that cannot be one.

    With ``names``, the pattern may hold ``{name}``; it then means nothing until :meth:`bind` has
    put the values in.
    """

    __slots__ = (
        "_below", "_bound", "_compiled", "_fixed", "_open", "_segments", "_star", "_subtree",
        "names", "text",
    )  # fmt: skip

    def __init__(self, text: str, *, names: bool = False) -> None:
        self.text = text
        self._bound = False
        """Whether values were put into it."""
        self._compiled: Callable[[str], object] | None = None
        _check(text)
        self.names = frozenset(_NAMES.findall(text)) if names else frozenset[str]()
        """The names that :meth:`bind` needs values for."""
        without = _NAMES.sub("", text) if names else text
        if "{" in without or "}" in without:
            raise ValueError(
                f"The pattern {text!r} must not hold braces"
                + (" but around the name of a claim." if names else ".")
            )
        self._segments = tuple(_parse(segment) for segment in text.split("/"))
        self._subtree = _subtree_of(self._segments)
        self._below = f"{self._subtree}/"
        self._fixed = _MANY not in self._segments
        star = text.split("*")
        self._star = (star[0], star[1]) if len(star) == 2 else None
        """The text on both sides of the only wildcard, which is ``*``."""
        self._open = type(self._segments[0]) is tuple
        """Whether the first segment means more than one name, and perhaps the reserved one."""

    def __repr__(self) -> str:
        return f"PathPattern({self.text!r})"

    def bind(self, values: Mapping[str, object]) -> "PathPattern | None":
        """The pattern with each name replaced by its value, None where a value cannot be one.

        A value is text that stays inside of its segment: without slashes, wildcards, braces and
        control characters, and the segment is neither empty nor ``.`` nor ``..``.
        """
        if not self.names:
            return self
        bound: dict[str, str] = {}
        for name in self.names:
            value = values.get(name)
            if not isinstance(value, str) or not is_value(value):
                return None
            bound[name] = value
        text = _NAMES.sub(lambda match: bound[match[1]], self.text)
        try:
            pattern = PathPattern(text)
        except ValueError:
            return None
        pattern._bound = True
        return pattern

    def matches(self, path: str) -> bool:
        """Whether the pattern means this path."""
        # The first three are most patterns, and cost a tenth of the last.
        if self._star is not None:
            before, after = self._star
            begin, end = len(before), len(path) - len(after)
            return (
                begin <= end
                and path.startswith(before)
                and path.endswith(after)
                and path.find("/", begin, end) < 0
                and not (self._open and _is_reserved(path))
            )
        subtree = self._subtree
        if subtree is not None:
            if subtree:
                return path.startswith(self._below) or path == subtree
            return not _is_reserved(path)
        if "*" not in self.text:
            return path == self.text
        names = path.split("/")
        if self._fixed:
            return _match_each(self._segments, names)
        return names[0] != RESERVED_SEGMENT and _match(self._segments, names)

    @property
    def size(self) -> int:
        """About how many bytes of memory it takes."""
        return 500 + 6 * len(self.text) + 100 * len(self._segments)

    def matcher(self) -> Callable[[str], object]:
        """A function that is true of the paths that the pattern means.

        For a pattern of configuration with one ``*`` it is a compiled expression, which costs half
        of :meth:`matches`. One that was bound is not compiled, because principals are many.
        """
        if self._star is None or self._bound:
            return self.matches
        if self._compiled is None:
            before, after = map(re.escape, self._star)
            not_reserved = f"(?!{RESERVED_SEGMENT}(?:/|\\Z))" if self._open else ""
            self._compiled = re.compile(f"{not_reserved}{before}[^/]*{after}").fullmatch
        return self._compiled

    @property
    def root(self) -> str | None:
        """The path that the pattern means with everything below it; None for any other pattern."""
        return self._subtree or None

    @property
    def is_literal(self) -> bool:
        """Whether it means one path, which is its text."""
        return "*" not in self.text

    def covers(self, glob: str) -> bool:
        """Whether the pattern means every path that a subscription's pattern means.

        In that language ``*`` and ``**`` are whole segments. An explicit stream counts as one too.
        False may also be said of a pattern that is covered in a roundabout way.
        """
        names = glob.split("/")
        return names[0] != RESERVED_SEGMENT and _match(self._segments, names, glob=True)


_Segment = str | tuple[str, ...]
"""A literal, :data:`_MANY`, or the literal parts around each ``*``."""


def _is_reserved(path: str) -> bool:
    return path.startswith(_RESERVED) or path == RESERVED_SEGMENT


def is_value(value: str) -> bool:
    """Whether text may be put into a pattern: it names one segment, or a part of one."""
    return (
        0 < len(value) <= MAX_VALUE
        and not any(character in value for character in "/*{}")
        and _FORBIDDEN.search(value) is None
    )


def _check(text: str) -> None:
    if len(text.encode(errors="replace")) > MAX_BYTES:
        raise ValueError(f"A pattern has at most {MAX_BYTES} bytes.")
    if _FORBIDDEN.search(text):
        raise ValueError(f"The pattern {text!r} holds a control character or a backslash.")
    segments = text.split("/")
    if len(segments) > MAX_SEGMENTS:
        raise ValueError(f"A pattern has at most {MAX_SEGMENTS} segments.")
    if segments[0] == RESERVED_SEGMENT:
        raise ValueError(
            f"The pattern {text!r} is about the reserved {RESERVED_SEGMENT}: rights on "
            "subscriptions are given by their ids."
        )
    for segment in segments:
        if segment in ("", ".", ".."):
            raise ValueError(
                f"The pattern {text!r} has an empty, '.' or '..' segment, which no path has: write "
                "it like a path, without a slash at either end."
            )
        if _MANY in segment and segment != _MANY:
            raise ValueError(
                f"In the pattern {text!r} ** must be a whole segment; * stands for characters "
                "inside of one."
            )


def _parse(segment: str) -> _Segment:
    return tuple(segment.split("*")) if "*" in segment and segment != _MANY else segment


def _subtree_of(segments: Sequence[_Segment]) -> str | None:
    """The path whose whole subtree a pattern means; None for any other pattern."""
    *above, last = segments
    if last == _MANY and all(isinstance(each, str) and each != _MANY for each in above):
        return "/".join(str(each) for each in above)
    return None


def _match_each(segments: Sequence[_Segment], names: Sequence[str]) -> bool:
    """Whether each segment means its name, where none is ``**``."""
    if len(segments) != len(names) or names[0] == RESERVED_SEGMENT:
        return False
    for segment, name in zip(segments, names, strict=True):
        if segment != name and not (type(segment) is tuple and _segment_matches(segment, name)):
            return False
    return True


def _match(segments: Sequence[_Segment], names: Sequence[str], *, glob: bool = False) -> bool:
    """Whether the segments mean the names.

    What follows a ``**`` is tried at each later name; an earlier ``**`` never needs another try,
    because what follows it has been found as early as possible.
    """
    position = here = 0
    many = resume = -1
    while here < len(names):
        segment = segments[position] if position < len(segments) else None
        if segment == _MANY:
            many, resume = position, here
            position += 1
        elif (
            segment is not None
            and not (glob and names[here] == _MANY)
            and _segment_matches(segment, names[here])
        ):
            position += 1
            here += 1
        elif many >= 0:
            resume += 1
            position, here = many + 1, resume
        else:
            return False
    return all(segment == _MANY for segment in segments[position:])


def _segment_matches(segment: _Segment, name: str) -> bool:
    if isinstance(segment, str):
        return segment == name
    first, *middle, last = segment
    end = len(name) - len(last)
    if end < len(first) or not (name.startswith(first) and name.endswith(last)):
        return False
    begin = len(first)
    for part in middle:
        found = name.find(part, begin, end)
        if found < 0:
            return False
        begin = found + len(part)
    return True
