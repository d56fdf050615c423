"""Path patterns mean what their definition says, and never more."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_streams_core.errors import InvalidRequest
from durable_streams_core.paths import check_path
from durable_streams_core.subscriptions.globs import glob_matches, parse_glob
from durable_streams_server import Rights
from durable_streams_server.path_patterns import PathPattern

SEGMENTS = st.text("aAb-é*.", min_size=1, max_size=4)
PATHS = st.lists(SEGMENTS | st.sampled_from(["__ds", "**"]), min_size=1, max_size=5).map("/".join)
PATTERNS = st.lists(
    st.text("aAb*", min_size=1, max_size=4) | st.just("**"), min_size=1, max_size=5
).map("/".join)


def meaning(pattern: str) -> re.Pattern[str]:
    """The definition as a regular expression over a path that ends in a slash."""
    parts = [
        "(?:[^/]+/)*"
        if segment == "**"
        else "".join("[^/]*" if c == "*" else re.escape(c) for c in segment) + "/"
        for segment in pattern.split("/")
    ]
    return re.compile("".join(parts))


def parsed(text: str) -> PathPattern | None:
    try:
        return PathPattern(text)
    except ValueError:
        return None


def is_path(path: str) -> bool:
    try:
        return check_path(path) == path
    except InvalidRequest:
        return False


@given(PATTERNS, PATHS)
def test_a_pattern_means_what_its_definition_says(text: str, path: str) -> None:
    pattern = parsed(text)
    if pattern is not None and is_path(path):
        assert pattern.matches(path) == (meaning(text).fullmatch(path + "/") is not None)


@given(PATTERNS, PATHS, PATHS)
def test_a_subscription_never_follows_more_than_the_pattern_means(
    text: str, glob: str, path: str
) -> None:
    pattern = parsed(text)
    followed = is_path(path) and glob_matches(parse_glob(glob), path)
    if pattern is not None and followed and pattern.covers(glob):
        assert pattern.matches(path)


@pytest.mark.parametrize(
    "text, covered, beyond",
    [
        (
            "chats/**",
            ["chats", "chats/*", "chats/**", "chats/a/**/b"],
            ["**", "*", "*/a", "chat/*"],
        ),
        ("chats/*", ["chats/*", "chats/a"], ["chats/**", "chats", "chats/*/a", "*/*"]),
        ("**", ["**", "a", "*/b"], ["__ds/**", "__ds/subscriptions/*"]),
        ("a-*", ["a-1", "a-*"], ["*", "a", "**"]),
    ],
)
def test_patterns_cover_patterns(text: str, covered: list[str], beyond: list[str]) -> None:
    pattern = PathPattern(text)
    assert all(pattern.covers(glob) for glob in covered)
    assert not any(pattern.covers(glob) for glob in beyond)


@given(PATHS)
def test_nothing_means_a_reserved_path(path: str) -> None:
    for text in ("**", "*/**", "*", "**/*", "_*/**"):
        assert not PathPattern(text).matches(f"__ds/{path}")
        assert not PathPattern(text).matches("__ds")


@pytest.mark.parametrize(
    "text, says",
    [
        ("", "empty"),
        ("/a", "slash"),
        ("a/", "slash"),
        ("a//b", "empty"),
        ("a/../b", "empty"),
        ("a/./b", "empty"),
        ("a\\b", "backslash"),
        ("a\nb", "control"),
        ("a**", "whole segment"),
        ("***", "whole segment"),
        ("__ds/streams", "reserved"),
        ("a/{sub}", "braces"),
        ("a" * 1025, "bytes"),
        ("/".join("a" * 65), "segments"),
    ],
)
def test_text_that_cannot_be_a_pattern_is_refused(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        PathPattern(text)


@pytest.mark.parametrize("text", ["a/{", "a/{}", "a/{a b}", "{sub", "}", "{a}}", "{{a}}"])
def test_braces_stand_around_names_only(text: str) -> None:
    with pytest.raises(ValueError, match="braces"):
        PathPattern(text, names=True)


@given(st.text() | st.none() | st.integers() | st.lists(st.text()))
def test_a_value_adds_neither_segments_nor_wildcards(value: object) -> None:
    pattern = PathPattern("chats/{sub}/**", names=True).bind({"sub": value})
    if pattern is not None:
        assert isinstance(value, str)
        assert pattern.text.split("/") == ["chats", value, "**"]
        assert "*" not in value
        assert pattern.matches(f"chats/{value}/x")
        assert not pattern.matches("chats/somebody else/x")
        assert not pattern.covers("chats/*/x")


@pytest.mark.parametrize(
    "value", ["a/../b", "*", "**", "", ".", "..", "a\\b", "a\0", "{x}", "\ud800"]
)
def test_a_value_that_is_not_a_segment_makes_the_pattern_mean_nothing(value: str) -> None:
    assert PathPattern("chats/{sub}", names=True).bind({"sub": value}) is None


def test_a_value_cannot_reach_the_reserved_paths() -> None:
    assert PathPattern("{sub}/**", names=True).bind({"sub": "__ds"}) is None
    assert PathPattern("__{sub}/**", names=True).bind({"sub": "ds"}) is None


def test_hostile_paths_take_no_time() -> None:
    pattern = PathPattern("/".join(["**", *["*a*a*a*a*b"] * 20]))
    assert not pattern.matches("/".join(["a" * 20] * 45))


@given(st.lists(PATTERNS, min_size=1, max_size=5), PATHS)
def test_rights_permit_what_any_of_their_patterns_means(texts: list[str], path: str) -> None:
    patterns = [pattern for text in texts if (pattern := parsed(text)) is not None]
    if patterns:
        rights = Rights(read=[pattern.text for pattern in patterns])
        meant = any(pattern.matches(path) for pattern in patterns)
        assert rights.permits("read", path) == meant
        assert not rights.permits("append", path)
        for pattern in patterns:
            assert bool(pattern.matcher()(path)) == pattern.matches(path)
