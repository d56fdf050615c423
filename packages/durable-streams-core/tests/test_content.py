"""Content: how bodies become stored bytes, and stored bytes pages (§9)."""

import json
import time
import tracemalloc
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from durable_streams_core.content import (
    MAX_CONTENT_TYPE_LENGTH,
    Kind,
    cut,
    incomplete_suffix,
    is_boundary,
    media_type,
    require_same_type,
    skip_messages,
    to_page,
    to_stored,
)
from durable_streams_core.errors import Conflict, InvalidRequest
from durable_streams_core.json_messages import MAX_JSON_DEPTH, split_json, store_json


def refused(body: Any, code: Any = "invalid-json") -> Any:
    with pytest.raises(InvalidRequest) as caught:
        split_json(body)
    assert caught.value.code == code
    return caught.value


# Content types


@pytest.mark.parametrize(
    "content_type, kind",
    [
        ("application/json", Kind.JSON),
        ("Application/JSON; charset=utf-8", Kind.JSON),
        ("text/plain", Kind.TEXT),
        ("text/html;charset=UTF-8", Kind.TEXT),
        ('text/plain; charset="utf-8"', Kind.TEXT),
        ("text/plain; charset=us-ascii", Kind.TEXT),
        ("text/plain; charset=utf8; format=flowed", Kind.TEXT),
        ("text/plain; charset=latin1", Kind.BINARY),
        ("text/plain;a=b;CharSet=utf-16", Kind.BINARY),
        ('text/plain; note="; charset=latin1"', Kind.TEXT),
        ('text/plain; note="a\\"b"; charset="Latin1"', Kind.BINARY),
        ("application/octet-stream", Kind.BINARY),
        ("application/ndjson", Kind.BINARY),
        ("application/vnd.api+json", Kind.BINARY),
        ("image/png; charset=utf-8", Kind.BINARY),
    ],
)
def test_a_content_type_decides_how_bytes_are_cut_and_shown(content_type: str, kind: Any) -> None:
    assert media_type(content_type).kind is kind


@pytest.mark.parametrize(
    "content_type",
    ["", "json", "text/", "/plain", "text plain", "text/plain, text/html", "text/plain\n",
     "text/plain; charset", "text/plain; charset=", "text/plain; charset= utf-8", "text/plän",
     'text/plain; a="b', 'text/plain; a="\x01"', "text/plain; a=b c", "a/b\x00",
     "a/" + "b" * MAX_CONTENT_TYPE_LENGTH],
)  # fmt: skip
def test_a_malformed_content_type_is_refused(content_type: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        media_type(content_type)
    assert caught.value.code == "invalid-content-type"


@pytest.mark.parametrize(
    "content_type",
    [
        "a/b" + ";   " * 60 + "\x00",
        "a/b" + " ; x" * 60,
        'a/b;c="' + "\\a" * 120,
        "a/b;" + "x=" * 120,
    ],
)
def test_a_content_type_that_tries_every_way_to_match_is_refused_at_once(content_type: str) -> None:
    began = time.process_time()
    with pytest.raises(InvalidRequest):
        media_type(content_type)
    assert time.process_time() - began < 1


@pytest.mark.parametrize(
    "asked, stream",
    [
        ("text/plain", "text/plain"),
        ("TEXT/Plain", "text/plain; charset=utf-8"),
        ("application/json;charset=UTF8", "application/json"),
        ("image/png; a=b", "image/png"),
        ("not even a type", "not even a type"),
    ],
)
def test_types_that_mean_the_same_fit(asked: str, stream: str) -> None:
    require_same_type(asked, stream)


@pytest.mark.parametrize(
    "asked, stream",
    [
        ("text/plain", "text/html"),
        ("text/plain; charset=latin1", "text/plain"),
        ("application/json", "text/plain"),
        ("application/octet-stream", "application/json"),
    ],
)
def test_other_types_do_not(asked: str, stream: str) -> None:
    with pytest.raises(Conflict) as caught:
        require_same_type(asked, stream)
    assert caught.value.code == "content-type-mismatch"


# JSON


@pytest.mark.parametrize(
    "body, messages",
    [
        (b"{}", [b"{}"]),
        (b" 1 ", [b"1"]),
        (b'"a"', [b'"a"']),
        (b"null", [b"null"]),
        (b"[]", []),
        (b" [ ] \r\n", []),
        (b"[1, 2 ,3]", [b"1", b"2", b"3"]),
        (b"[[1,2],[3]]", [b"[1,2]", b"[3]"]),
        (b"[[]]", [b"[]"]),
        (b'[{"a": [1, 2]}, "]"]', [b'{"a": [1, 2]}', b'"]"']),
        (b"[1.0, 1e5, -0, 12345678901234567890123, 0.10]",
         [b"1.0", b"1e5", b"-0", b"12345678901234567890123", b"0.10"]),
        (b'{"a":1,"a":2}', [b'{"a":1,"a":2}']),
        (b'{\r\n\t"a":\n1\r}', [b'{  \t"a": 1 }']),
        (b'["\\n", "\\r\\n"]', [b'"\\n"', b'"\\r\\n"']),
        ('["\u2028", "ü\U0001f600"]'.encode(), ['"\u2028"'.encode(), '"ü\U0001f600"'.encode()]),
        (b'"\\ud83d\\ude00"', [b'"\\ud83d\\ude00"']),
        (b'"\\uD800"', [b'"\\uD800"']),
        (b'[1,"\\udfff",  {"\\ud800":"\\\\ud800"}]', [b"1", b'"\\udfff"', b'{"\\ud800":"\\\\ud800"}']),
        (b'[ ["\\ud800"] , ["\\ud800"] ,[["\\ud800"]]]',
         [b'["\\ud800"]', b'["\\ud800"]', b'[["\\ud800"]]']),
    ],
)  # fmt: skip
def test_a_body_is_split_into_its_messages_as_they_were_written(body: Any, messages: Any) -> None:
    assert split_json(body) == messages


@pytest.mark.parametrize(
    "body",
    [b"", b" ", b"{", b"[1,", b"[1,]", b"[,1]", b"1 2", b"[1] [2]", b"[1]]", b"{'a':1}", b"nul",
     b"NaN", b"Infinity", b"-", b"01", b"1.", b".5", b"+1", b"0x1", b'"\n"', b'"\t"', b'"\x00"',
     b"\xef\xbb\xbf1", b"{} // c", b'{"a"}', b"{1:2}", b"[1 2]", b'"\\x"', b'"\\u12"', b'"\\ud8',
     b'"\\ud800', b'["\\ud800",]', b"\x0c1", b"\xc2\xa01", b"True"],
)  # fmt: skip
def test_what_is_no_json_is_refused(body: bytes) -> None:
    refused(body)


@pytest.mark.parametrize(
    "body", [b'"\xff"', b'"\xc3"', b'"\xed\xa0\x80"', b'"\xc0\x80"', b"\xfe\xff\0\x31"]
)
def test_what_is_no_utf_8_is_refused_with_its_place(body: bytes) -> None:
    assert "UTF-8; byte" in str(refused(body, "invalid-utf8"))


@pytest.mark.parametrize("open_, close", [(b"[", b"]"), (b'{"a":', b"}"), (b'[{"]":', b"}]")])
def test_nesting_bombs_are_refused_and_deep_json_is_not(open_: bytes, close: bytes) -> None:
    levels = MAX_JSON_DEPTH // open_.count(b"[") if open_.startswith(b"[{") else MAX_JSON_DEPTH
    levels = MAX_JSON_DEPTH // 2 if open_.startswith(b"[{") else levels
    deep = open_ * levels + b"1" + close * levels
    assert split_json(b"[%b]" % deep) == [deep]
    for much in (levels + 1, 1000, 100_000):
        refused(b"[" + open_ * much + b"1" + close * much + b"]", "json-too-deep")


def test_brackets_side_by_side_or_in_texts_are_not_nesting() -> None:
    flat = b"[%b]" % b",".join([b"[]"] * 1000)
    texts = json.dumps(["[[[{" * 200 + '\\"'] * 3).encode()
    assert split_json(b"[%b, %b]" % (flat, texts)) == [flat, texts]


def test_a_bomb_behind_a_lone_surrogate_is_a_bomb_too() -> None:
    refused(b'["\\ud800",' + b"[" * 100_000 + b"]" * 100_000 + b"]", "json-too-deep")


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
spacings = st.sampled_from([(None, (",", ":")), (2, (",", ": ")), ("\t", (" , ", " :"))])


def dumped(value: Any, ascii_: Any, spacing: Any) -> Any:
    indent, separators = spacing
    text = json.dumps(value, ensure_ascii=ascii_, indent=indent, separators=separators)
    return text.replace("\n", "\r\n").encode() if indent == 2 else text.encode()


@given(st.lists(values, min_size=1, max_size=5), st.booleans(), spacings)
def test_messages_mean_what_python_reads_in_the_body(
    wanted: Any, ascii_: Any, spacing: Any
) -> None:
    messages = split_json(dumped(wanted, ascii_, spacing))
    assert [json.loads(message) for message in messages] == wanted
    assert not any(b"\n" in message or b"\r" in message for message in messages)


@given(values, st.booleans(), spacings)
def test_one_value_in_an_array_is_one_message_whatever_it_is(
    value: Any, ascii_: Any, spacing: Any
) -> None:
    (message,) = split_json(b"[%b]" % dumped(value, ascii_, spacing))
    assert json.loads(message) == value


@given(st.lists(st.text(st.characters(categories=["Cs", "Lu", "Nd"]) | st.sampled_from('\\"\n'))))
@example(["\ud800", "\\ud800", "\udc00\ud800"])
def test_lone_surrogates_are_kept_as_javascript_writes_them(texts: Any) -> None:
    written = [json.dumps(text).encode() for text in texts]
    assert split_json(b"[%b]" % b" ,\n".join(written)) == written


@given(
    st.binary(max_size=30) | st.text('[]{}":,\\u0 1eEn.-tdDfF8\n\r', max_size=30).map(str.encode)
)
def test_python_and_we_agree_on_what_json_is(body: Any) -> None:
    try:
        # Stricter than Python's: no NaN, no literal control characters, only UTF-8.
        wanted = json.loads(body.decode(), parse_constant=lambda name: json.loads(""))
    except ValueError:
        with pytest.raises(InvalidRequest):
            split_json(body)
        return
    found = [json.loads(message) for message in split_json(body)]
    assert found == (wanted if isinstance(wanted, list) else [wanted])


windows = st.integers(min_value=1, max_value=40)


@given(st.text(max_size=20).map(str.encode) | st.binary(max_size=20), windows)
def test_where_a_body_is_not_utf_8_does_not_depend_on_the_window(text: Any, window: Any) -> None:
    body = b'"%b"' % text
    try:
        body.decode()
    except UnicodeDecodeError as error:
        with pytest.raises(InvalidRequest, match=f"byte {error.start} is not"):
            split_json(body, window=window)


@given(st.lists(values, min_size=1, max_size=8), st.booleans(), spacings, windows)
def test_a_body_is_split_alike_whatever_the_window(
    wanted: Any, ascii_: Any, spacing: Any, window: Any
) -> None:
    body = dumped(wanted, ascii_, spacing)
    assert split_json(body, window=window) == split_json(body)
    stored = store_json(body, window=window)
    assert stored == b"".join(message + b",\n" for message in split_json(body))


@given(
    st.binary(max_size=30) | st.text('[]{}":,\\u0 1eEn.-tdDfF8\n\r', max_size=60).map(str.encode),
    windows,
)
def test_what_is_json_does_not_depend_on_the_window(body: Any, window: Any) -> None:
    for split in (split_json, store_json):
        found = []
        for size in (window, 1000):
            try:
                found.append(split(body, window=size))
            except InvalidRequest:
                found.append(None)
        assert found[0] == found[1]


@given(st.lists(st.integers(0, 40), min_size=1, max_size=30), st.integers(1, 300), windows)
def test_the_depth_of_json_does_not_depend_on_what_stands_beside_it(
    depths: Any, deepest: Any, window: Any
) -> None:
    """Texts with brackets and escaped quotes stand between the nested arrays."""
    depths.insert(len(depths) // 2, deepest)
    filler = json.dumps('[{"\\').encode()
    blocks = b",".join(b"[" * depth + filler + b"]" * depth for depth in depths)
    body = b'{"a":[%b]}' % blocks
    if deepest + 2 > MAX_JSON_DEPTH:
        with pytest.raises(InvalidRequest, match="nested deeper"):
            split_json(body, window=window)
    else:
        assert split_json(body, window=window) == [body]


def test_many_small_messages_take_no_object_each() -> None:
    body = b"[%b]" % b",".join([b"1"] * 500_000)
    tracemalloc.start()
    try:
        stored = store_json(body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert stored == b"1,\n" * 500_000
    assert peak < 4 * len(body)


@pytest.mark.parametrize("element", [b"[]", b'""', b'{"a":1}', b'[{"a":["b"]}]'])
def test_a_large_body_is_split_in_bounded_memory(element: bytes) -> None:
    body = b"[%b]" % b",".join([element] * (1_000_000 // len(element)))
    tracemalloc.start()
    try:
        stored = store_json(body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert stored == (element + b",\n") * (1_000_000 // len(element))
    # The stored form, its parts, and what one run of elements takes.
    assert peak < 3 * len(stored) + 8_000_000


# Stored bytes and pages


def test_json_messages_are_stored_one_to_a_line() -> None:
    assert to_stored(Kind.JSON, b'[{"a":1}, 2]') == b'{"a":1},\n2,\n'
    assert to_page(Kind.JSON, b'{"a":1},\n2,\n') == b'[{"a":1},\n2]'
    assert to_page(Kind.JSON, b"") == b"[]"


def test_an_empty_array_is_only_for_creation() -> None:
    assert to_stored(Kind.JSON, b"[]", allow_empty_array=True) == b""
    with pytest.raises(InvalidRequest) as caught:
        to_stored(Kind.JSON, b" [ ]")
    assert caught.value.code == "empty-array"


@given(st.binary())
def test_everything_else_is_stored_and_shown_as_it_is(data: Any) -> None:
    for kind in (Kind.TEXT, Kind.BINARY):
        assert to_page(kind, to_stored(kind, data)) == data


def pages(kind: Any, stored: Any, limit: Any) -> Any:
    """The pages of a reader that asks on where the last one ended, as servers cut them."""
    position, found = 0, []
    while position < len(stored):
        size = limit
        while True:
            part = stored[position : position + size]
            length = cut(kind, part, position + len(part) == len(stored))
            if length:
                break
            size *= 2
        found.append(part[:length])
        position += length
    return found


@given(st.lists(st.lists(values, min_size=1, max_size=3), max_size=5), st.integers(1, 40))
def test_pages_of_json_hold_whole_messages_and_join_to_the_stream(bodies: Any, limit: Any) -> None:
    stored = b"".join(to_stored(Kind.JSON, json.dumps(body).encode()) for body in bodies)
    found = [json.loads(to_page(Kind.JSON, page)) for page in pages(Kind.JSON, stored, limit)]
    assert all(found)
    assert [value for page in found for value in page] == [v for body in bodies for v in body]


@given(st.text(max_size=60), st.integers(4, 20))
def test_pages_of_text_are_text_and_join_to_the_stream(text: Any, limit: Any) -> None:
    stored = text.encode()
    found = pages(Kind.TEXT, stored, limit)
    assert "".join(page.decode() for page in found) == text
    assert all(limit - 3 <= len(page) for page in found[:-1])


@given(st.lists(st.sampled_from([b"a", b"\xff", b"\x80", b"\xc3", b"\xe2\x82", "😀".encode()])),
       st.integers(4, 9))  # fmt: skip
def test_invalid_text_is_cut_somewhere_and_never_holds_a_reader_up(parts: Any, limit: Any) -> None:
    stored = b"".join(parts)
    assert b"".join(pages(Kind.TEXT, stored, limit)) == stored


@given(st.binary(), st.integers(1, 9))
def test_bytes_are_cut_at_the_limit(stored: Any, limit: Any) -> None:
    assert b"".join(pages(Kind.BINARY, stored, limit)) == stored
    assert cut(Kind.BINARY, stored, False) == len(stored)


def test_the_tail_is_never_cut_back_or_a_reader_would_loop_on_an_empty_page() -> None:
    assert cut(Kind.TEXT, b"\xf0\x9f\x98", True) == 3
    assert cut(Kind.TEXT, b"\xf0\x9f\x98", False) == 0


@given(st.characters(), st.binary(max_size=3))
def test_a_character_is_incomplete_until_its_last_byte(character: Any, before: Any) -> None:
    data = character.encode()
    for length in range(1, len(data)):
        assert incomplete_suffix(before + data[:length]) == length
    assert incomplete_suffix(before + data) == 0


@pytest.mark.parametrize(
    "invalid", [b"", b"\x80", b"a\x80\x80\x80", b"\xc0", b"\xc1", b"\xe0\x80", b"\xed\xa0", b"\xf0\x80",
                b"\xf4\x90", b"\xf5", b"\xff", b"\xf8\x88", b"\xc3\xa9\x80"],
)  # fmt: skip
def test_what_no_byte_can_complete_is_not_incomplete(invalid: bytes) -> None:
    assert incomplete_suffix(invalid) == 0


@given(st.binary(max_size=6))
def test_backing_off_is_only_for_what_python_too_finds_unfinished(data: Any) -> None:
    back = incomplete_suffix(data)
    tail = data[len(data) - back :]
    if back:
        with pytest.raises(UnicodeDecodeError, match="unexpected end of data"):
            tail.decode()


def test_boundaries_of_json_are_where_lines_begin() -> None:
    assert is_boundary(Kind.JSON, b"\n")
    assert not is_boundary(Kind.JSON, b",")
    assert is_boundary(Kind.TEXT, b"x")
    assert is_boundary(Kind.BINARY, b"x")


def test_messages_are_counted_by_lines() -> None:
    stored = b"1,\n22,\n333,\n"
    assert [skip_messages(stored, count) for count in range(5)] == [0, 3, 7, 12, -1]
    assert skip_messages(b"", 1) == -1


@pytest.mark.parametrize(
    "body, message",
    [
        (b"[" + b"1," * 40, "JSON"),
        (b"[" + b" " * 40 + b",1]", "missing"),
        (b"[" + b"1" * 17 + b",]", "ends with a comma"),
        (b"[" + b"1" * 40 + b" " * 40 + b"[" * 300 + b"]" * 300 + b"]", "deep"),
    ],
    ids=["never closed", "an element is missing", "ends with a comma", "too deep behind a window"],
)
def test_a_fault_in_a_large_array_is_found_in_whatever_window_it_lies(
    body: bytes, message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        split_json(body, window=16)
