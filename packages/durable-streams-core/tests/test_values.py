"""Python values as JSON messages, and messages as Python values."""

import json
import math
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durable_streams_core.content import Kind, to_page, to_stored
from durable_streams_core.values import decode_page, encode_value

# `characters` draws lone surrogates too.
texts = st.text(st.characters(exclude_categories=()), max_size=10)
finite = st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | st.integers() | finite | texts
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)
not_finite = st.sampled_from([math.nan, math.inf, -math.inf])


def combined(value: Any) -> Any:
    """Surrogates that stand together are one character to every reader of JSON."""
    return json.loads(json.dumps(value))


@given(st.lists(values, min_size=1, max_size=4))
def test_what_is_written_is_read_again(messages: list[Any]) -> None:
    stored = b"".join(to_stored(Kind.JSON, b"[%b]" % encode_value(message)) for message in messages)
    assert decode_page(to_page(Kind.JSON, stored)) == combined(messages)


@given(not_finite, st.lists(scalars, max_size=3))
def test_a_number_that_is_not_finite_is_refused_wherever_it_is(
    number: float, neighbours: list[Any]
) -> None:
    for value in (number, [*neighbours, number], {"a": {"b": [number]}}, (number,)):
        with pytest.raises(ValueError, match="not JSON compliant"):
            encode_value(value)


@pytest.mark.parametrize(
    "value",
    [object(), {"a": object()}, 10**5000, {("a",): 1}],
    ids=["object", "inside", "too many digits", "key"],
)
def test_what_json_cannot_hold_is_refused_as_one_kind_of_error(value: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        encode_value(value)


def test_a_value_that_contains_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(ValueError, match=r"."):
        encode_value(value)


def test_lone_surrogates_are_written_as_escapes() -> None:
    assert encode_value({"d": "\ud83d", "e": "é"}) == rb'{"d":"\ud83d","e":"\u00e9"}'


@pytest.mark.parametrize(
    "message, value",
    [
        (b"1e400", math.inf),
        (b"-1e400", -math.inf),
        (rb'"\ud83d"', "\ud83d"),
        (rb'{"\ude00":"\ud83d"}', {"\ude00": "\ud83d"}),
        (b"1" * 5000, Decimal("1" * 5000)),
        (b"-" + b"9" * 5000, Decimal("-" + "9" * 5000)),
        (b"[" * 200 + b"1e999" + b"]" * 200, None),
    ],
)
def test_an_unusual_message_leaves_its_neighbours_readable(message: bytes, value: object) -> None:
    first, unusual, last = decode_page(b'[{"ok":1},\n%b,\n{"ok":2}]' % message)
    assert (first, last) == ({"ok": 1}, {"ok": 2})
    if value is not None:
        assert unusual == value


@pytest.mark.parametrize("page", [b"", b"{}", b"1", b"[1", b"[1,]", b'["\xff"]', b"[" * 5000])
def test_what_is_not_an_array_is_one_kind_of_error(page: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode_page(page)


def test_an_empty_page_holds_nothing() -> None:
    assert decode_page(b"[]") == []


class Model:
    """A pydantic model as the client and the engine see it."""

    def __init__(self, **fields: object) -> None:
        self.fields = fields

    def model_dump_json(self) -> str:
        return json.dumps(self.fields)

    def model_dump(self, *, mode: str) -> dict[str, object]:
        assert mode == "json"
        return self.fields


def test_a_model_is_encoded_as_it_encodes_itself() -> None:
    assert encode_value(Model(n=1, none=None)) == b'{"n": 1, "none": null}'
    assert encode_value([Model(n=1), {"two": Model(n=2)}]) == b'[{"n": 1},{"two":{"n": 2}}]'


def test_a_model_that_would_write_nan_as_null_is_refused() -> None:
    model = Model(n=math.nan)
    model.model_dump_json = lambda: '{"n":null}'  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="JSON"):
        encode_value(model)


def test_an_object_that_cannot_be_written_is_named() -> None:
    with pytest.raises(ValueError, match="object"):
        encode_value({"a": object()})
