from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_streams_core.errors import InvalidRequest
from durable_streams_core.paths import MAX_PATH_BYTES, check_path, decode_path


def refused(function: Any, path: Any) -> Any:
    with pytest.raises(InvalidRequest) as caught:
        function(path)
    return caught.value


@pytest.mark.parametrize(
    "raw, path",
    [
        ("chats/42", "chats/42"),
        ("a", "a"),
        ("a.b/.c/..d/e..", "a.b/.c/..d/e.."),
        ("z%C3%BCrich", "zürich"),
        ("%F0%9F%98%80", "\U0001f600"),
        ("a%20b%3Fc%23d", "a b?c#d"),
        ("a+b", "a+b"),
        ("%61", "a"),
        ("%2561", "%61"),
        ("%252F", "%2F"),
        ("x/__ds", "x/__ds"),
        ("__ds2/x", "__ds2/x"),
        ("a:b@c!$&'()*,;=", "a:b@c!$&'()*,;="),
    ],
)
def test_a_path_is_the_decoded_utf_8_of_the_target(raw: str, path: str) -> None:
    assert decode_path(raw) == path


@pytest.mark.parametrize(
    "raw",
    [
        "", "/", "a/", "/a", "a//b", ".", "..", "a/..", "../a", "a/./b", "%2e%2e", "a/%2E",
        "a%2Fb", "a%2fb", "a%5Cb", "a%5cb", "a\\b",
        "a%00b", "a%0Ab", "a%0D", "a%09", "a%7F", "a%C2%85", "a%E2%80%A8", "a%E2%80%A9",
        "%", "a%2", "a%zz", "%%41", "%C3%28", "%FF", "%ED%A0%80", "zürich", "\n", "a\x00",
    ],
)  # fmt: skip
def test_a_hostile_path_is_refused(raw: str) -> None:
    assert refused(decode_path, raw).code == "invalid-path"


@pytest.mark.parametrize("raw", ["__ds", "__ds/", "__ds/subscriptions/x", "%5F%5fds/x", "_%5Fds"])
def test_no_stream_lives_under_the_reserved_prefix(raw: str) -> None:
    assert refused(decode_path, raw).code in ("reserved-path", "invalid-path")
    assert refused(check_path, "__ds").code == "reserved-path"
    assert refused(check_path, "__ds/x").code == "reserved-path"


@pytest.mark.parametrize("path", ["\ud800", "a\udfffb", "a\x80", "\u2028", "a\\b"])
def test_a_path_given_as_text_is_checked_as_well(path: str) -> None:
    assert refused(check_path, path).code == "invalid-path"


@pytest.mark.parametrize("path", ["a" * MAX_PATH_BYTES, "ü" * (MAX_PATH_BYTES // 2)])
def test_a_path_may_be_as_long_as_the_limit_in_bytes(path: str) -> None:
    assert check_path(path) == path
    assert decode_path(quote(path)) == path
    error = refused(check_path, path + "b")
    assert (error.status, error.code) == (414, "path-too-long")
    assert refused(decode_path, quote(path + "b")).status == 414


def test_a_far_too_long_path_is_not_even_decoded() -> None:
    assert refused(decode_path, "%zz" * MAX_PATH_BYTES + "%").status == 414
    assert refused(lambda path: decode_path(path, 5), "abcdef").status == 414


@given(st.text(max_size=30))
def test_two_targets_never_name_one_stream_unless_they_decode_to_the_same(path: Any) -> None:
    try:
        assert check_path(path) == path
    except InvalidRequest:
        return
    assert decode_path(quote(path, safe="/")) == path


@given(st.text("/.%2eEfFa\\\0_ds", max_size=12))
def test_no_decoded_path_leads_out_of_the_root(raw: Any) -> None:
    try:
        path = decode_path(raw)
    except InvalidRequest:
        return
    assert not {"", ".", ".."}.intersection(path.split("/"))
    assert path.split("/")[0] != "__ds"
    assert "\\" not in path
    assert "\0" not in path
