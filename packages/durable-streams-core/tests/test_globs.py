"""Which streams a pattern means (§6.2): a trie for many patterns, one pattern at a time, and a
definition that both must agree with.
"""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_streams_core.subscriptions.globs import (
    Globs,
    glob_matches,
    literal_prefix,
    parse_glob,
)

SEGMENTS = st.sampled_from(["a", "b", "a*", "*", "**"])
PATTERNS = st.lists(SEGMENTS, min_size=1, max_size=6).map("/".join)
PATHS = st.lists(st.sampled_from(["a", "b", "c", "a*"]), min_size=1, max_size=6).map("/".join)


def means(pattern: list[str], path: list[str]) -> bool:
    """The definition."""
    if not pattern:
        return not path
    first, *rest = pattern
    if first == "**":
        return any(means(rest, path[skip:]) for skip in range(len(path) + 1))
    return bool(path) and first in ("*", path[0]) and means(rest, path[1:])


@pytest.mark.parametrize(
    "pattern, path, expected",
    [
        ("events/*", "events/a", True),
        ("events/*", "events", False),
        ("events/*", "events/a/b", False),
        ("events/**", "events", True),
        ("events/**", "events/a/b", True),
        ("**", "a/b/c", True),
        ("**/log", "log", True),
        ("**/log", "a/b/log", True),
        ("a/**/z", "a/z", True),
        ("a/**/z", "a/b/c/z", True),
        ("a/**/z", "a/b/c", False),
        ("a*", "ab", False),
        ("a*", "a*", True),
    ],
)
def test_a_pattern_means_these_streams(pattern: str, path: str, expected: bool) -> None:
    assert glob_matches(parse_glob(pattern), path) is expected


@given(PATTERNS, PATHS)
def test_one_pattern_means_what_the_definition_says(pattern: Any, path: Any) -> None:
    glob = parse_glob(pattern)
    assert glob_matches(glob, path) == means(pattern.split("/"), path.split("/"))
    if glob_matches(glob, path):
        assert path.startswith(literal_prefix(glob))


@given(st.lists(PATTERNS, max_size=12), st.lists(PATHS, min_size=1, max_size=4), st.data())
def test_a_trie_finds_the_patterns_that_mean_a_path(patterns: Any, paths: Any, data: Any) -> None:
    globs = Globs()
    kept = {}
    for name, pattern in enumerate(patterns):
        globs.add(parse_glob(pattern), name)
        kept[name] = pattern
    for name in data.draw(st.sets(st.sampled_from(sorted(kept)))) if kept else ():
        globs.remove(parse_glob(kept.pop(name)), name)
    for path in paths:
        expected = {n for n, p in kept.items() if glob_matches(parse_glob(p), path)}
        assert globs.match(path) == expected
    for name, pattern in kept.items():
        globs.remove(parse_glob(pattern), name)
    assert not globs


def test_removing_what_is_not_there_changes_nothing() -> None:
    globs = Globs()
    globs.add(("a", "*"), 1)
    for pattern in ("a/**", "a/b/c", "*", "**", "z"):
        globs.remove(parse_glob(pattern), 1)
    globs.remove(("a", "*"), 2)
    assert globs.match("a/x") == {1}


def test_a_hostile_pattern_is_matched_in_no_time() -> None:
    glob = parse_glob("/".join(["**", "a"] * 32))
    assert not glob_matches(glob, "/".join(["a"] * 500 + ["b"]))
    globs = Globs()
    globs.add(glob, 1)
    assert globs.match("/".join(["a"] * 500 + ["b"])) == set()
    assert parse_glob("**/**/a/**") == ("**", "a", "**")


@pytest.mark.parametrize(
    "pattern, prefix",
    [("a/b", "a/b"), ("a/*/c", "a/"), ("a/**", "a"), ("**", ""), ("*", ""), ("a/b/*", "a/b/")],
)
def test_what_matching_paths_begin_with(pattern: str, prefix: str) -> None:
    assert literal_prefix(parse_glob(pattern)) == prefix
