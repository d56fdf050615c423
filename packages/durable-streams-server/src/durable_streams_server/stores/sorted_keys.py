"""Strings in order, for tables of millions: adding one and reading a page sort nothing.

The strings are kept in short runs. Each run is a tuple, because the garbage collector looks at a
tuple of strings once and at a list of them again and again.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from typing import Final

RUN: Final = 512
"""Strings in a new run. One that has grown to twice as many is split."""


class SortedKeys:
    """Different strings, in order. Made from ``keys`` in any order, which is sorted once."""

    __slots__ = ("_firsts", "_runs")

    def __init__(self, keys: Iterable[str]) -> None:
        ordered = sorted(keys)
        self._runs = [tuple(ordered[begin : begin + RUN]) for begin in range(0, len(ordered), RUN)]
        self._firsts = [run[0] for run in self._runs]
        """The first string of each run."""

    def add(self, key: str) -> None:
        """Put a string in its place, unless it is there."""
        if not self._runs:
            self._runs, self._firsts = [(key,)], [key]
            return
        index = self._run_of(key)
        run = self._runs[index]
        place = bisect_left(run, key)
        if place == len(run) or run[place] != key:
            self._replace(index, (*run[:place], key, *run[place:]))

    def discard(self, key: str) -> None:
        """Take a string out, if it is there."""
        if not self._runs:
            return
        index = self._run_of(key)
        run = self._runs[index]
        place = bisect_left(run, key)
        if place < len(run) and run[place] == key:
            self._replace(index, run[:place] + run[place + 1 :])

    def after(self, key: str, *, inclusive: bool = False) -> Iterator[str]:
        """The strings behind ``key`` in order, with itself if it is there and ``inclusive``."""
        if not self._runs:
            return
        begin = self._run_of(key)
        bisect = bisect_left if inclusive else bisect_right
        yield from self._runs[begin][bisect(self._runs[begin], key) :]
        for index in range(begin + 1, len(self._runs)):
            yield from self._runs[index]

    def _run_of(self, key: str) -> int:
        """The number of the run in which a string is, if it is anywhere."""
        return max(0, bisect_right(self._firsts, key) - 1)

    def _replace(self, index: int, run: tuple[str, ...]) -> None:
        new = [run] if len(run) < 2 * RUN else [run[:RUN], run[RUN:]]
        if not run:
            new = []
        self._runs[index : index + 1] = new
        self._firsts[index : index + 1] = [part[0] for part in new]
