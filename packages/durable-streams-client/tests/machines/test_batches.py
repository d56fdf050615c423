"""Pages of JSON: one odd message does not take its neighbours with it."""

import json
import math
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durable_streams_client import Batch, DecodeError, MalformedResponse, UnreadableMessage
from durable_streams_client.batches import Decoding, Page
from durable_streams_client.item_types import decoder_for

DEEP = b"[" * 100_000 + b"]" * 100_000
DIGITS = b"1" * 5000


def batch_of(data: bytes, kind: Any = None) -> Batch[Any]:
    page = Page(data, "1", "application/json", up_to_date=True, start="0")
    return Batch("http://h/a", page, Decoding(decoder_for(kind)))


@pytest.mark.parametrize(
    "text,value",
    [
        (rb'{"delta":"\ud83d"}', {"delta": "\ud83d"}),
        (b"1e400", math.inf),
        (b'{"n":-1e400}', {"n": -math.inf}),
        (DIGITS, Decimal(DIGITS.decode())),
        (b"[-%b]" % DIGITS, [Decimal("-" + DIGITS.decode())]),
        (DEEP, UnreadableMessage(DEEP, "it is nested too deeply")),
        (rb'",]\ud83d\"["', ',]\ud83d"['),
    ],
)
@pytest.mark.parametrize("space", [b"", b" \n"])
def test_the_neighbours_of_an_odd_message_are_read(
    text: bytes, value: object, space: bytes
) -> None:
    page = b'[{"ok":1}%b,%b%b,%b{"ok":[2,"]"]}]%b' % (space, space, text, space, space)
    batch = batch_of(page)
    assert batch.items() == [{"ok": 1}, value, {"ok": [2, "]"]}]
    assert batch.messages() == [b'{"ok":1}', text, b'{"ok":[2,"]"]}']


class Delta(msgspec.Struct):
    delta: str


def test_an_odd_message_is_read_as_the_type_asked_for() -> None:
    batch = batch_of(rb'[{"delta":"a"},{"delta":"\ud83d"}]', Delta)
    assert batch.items() == [Delta("a"), Delta("\ud83d")]


@pytest.mark.parametrize("text", [b'{"delta":1}', b"1e400", DIGITS, DEEP, rb'"\ud83d"'])
def test_a_message_of_another_type_is_named_and_the_texts_are_there(text: bytes) -> None:
    batch = batch_of(b'[{"delta":"a"},%b]' % text, Delta)
    with pytest.raises(DecodeError, match="Message 2 of the page") as caught:
        batch.items()
    assert (caught.value.number, caught.value.data) == (2, text)
    assert (caught.value.offset, caught.value.next_offset) == ("0/1", "1")
    assert batch.messages() == [b'{"delta":"a"}', text]


@pytest.mark.parametrize(
    "page",
    [
        b"{}",
        b"1",
        b"[1,abc,2]",
        b"[1",
        b"1]",
        b"[1][2]",
        b"[1],[2]",
        b"[1,]",
        b"[,1]",
        b"]",
        b"[[]",
        b"[1]]",
        rb'["\ud83d",]',
        rb'["\ud83d"][1]',
        rb'["\ud83d"',
        rb'["\ud83d]',
        rb'[,"\ud83d"]',
    ],
)
def test_a_page_that_is_not_an_array_is_an_error(page: bytes) -> None:
    with pytest.raises(MalformedResponse):
        batch_of(page).items()


def test_a_message_that_is_not_utf8_is_unreadable_alone() -> None:
    [first, second, third] = batch_of(b'[1,"\xff",3]').items()
    assert (first, third) == (1, 3)
    assert isinstance(second, UnreadableMessage)
    assert second.data == b'"\xff"'


texts = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(exclude_categories=[])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
).map(lambda value: json.dumps(value).encode())
odd = st.sampled_from([rb'"\ud83d"', b"1e400", DIGITS, b'{"":[1e999]}'])


@settings(max_examples=50, deadline=None)
@given(st.lists(texts | odd))
def test_every_page_is_split_into_its_messages(messages: list[bytes]) -> None:
    batch = batch_of(b"[%b]" % b", ".join(messages))
    assert batch.messages() == messages
    assert len(batch.items()) == len(messages)
