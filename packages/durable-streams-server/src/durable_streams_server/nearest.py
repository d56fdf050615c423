"""Finds the name that somebody most likely meant."""

from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like ``name``; None if none is much like it."""
    best = min(known, key=lambda each: _distance(name, each), default=None)
    if best is None or _distance(name, best) > len(name) // 2:
        return None
    return best


def _distance(a: str, b: str) -> int:
    """How many letters have to be put in, left out, replaced, or swapped with their neighbour."""
    rows = [list(range(len(b) + 1))]
    for i, letter in enumerate(a, 1):
        row = [i]
        for j, other in enumerate(b, 1):
            least = min(row[-1] + 1, rows[-1][j] + 1, rows[-1][j - 1] + (letter != other))
            if i > 1 and j > 1 and (letter, a[i - 2]) == (b[j - 2], other):
                least = min(least, rows[-2][j - 2] + 1)
            row.append(least)
        rows.append(row)
    return rows[-1][-1]
