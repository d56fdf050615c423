"""The types that a reader's ``decode`` may be, and messages that do not fit them."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NewType, TypedDict

import msgspec
import pydantic
import pytest

from durable_streams_client import Batch, DecodeError, InvalidArgument, MalformedResponse
from durable_streams_client.batches import Decoding, Page
from durable_streams_client.item_types import decoder_for


def batch_of(data: bytes, kind: Any, *, skips: bool = False) -> Batch[Any]:
    page = Page(data, "9", "application/json", up_to_date=True, start="0")
    return Batch("http://h/a", page, Decoding(decoder_for(kind), skips))


class Order(msgspec.Struct):
    id: int


@dataclass
class Point:
    x: int


@dataclass
class Line:
    y: int


class Row(TypedDict):
    n: int


class User(pydantic.BaseModel):
    name: str = pydantic.Field(alias="Name")
    kind: Literal["user"] = "user"


class Guest(pydantic.BaseModel):
    kind: Literal["guest"]


@pydantic.dataclasses.dataclass
class Checked:
    n: Annotated[int, pydantic.Field(gt=0)]


@dataclass
class Holder:
    user: User


class Parsed:
    """A class that no library knows: it is called."""

    def __init__(self, value: dict[str, int]) -> None:
        self.n = value["n"]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Parsed) and self.n == other.n

    __hash__ = None  # type: ignore[assignment]


def row_sum(value: list[int]) -> int:
    return sum(value)


UserId = NewType("UserId", int)
Member = Annotated[User | Guest, pydantic.Field(discriminator="kind")]
ADA = User(Name="Ada")


@pytest.mark.parametrize(
    "kind,text,item",
    [
        (Order, b'{"id":1}', Order(1)),
        (Point, b'{"x":1}', Point(1)),
        (Row, b'{"n":1}', {"n": 1}),
        (int, b"1", 1),
        (UserId, b"1", 1),
        (dict[str, Order], b'{"a":{"id":1}}', {"a": Order(1)}),
        (Order | None, b"null", None),
        (int | str, b'"a"', "a"),
        (Point | Line, b'{"y":2}', Line(2)),
        (Point | User, b'{"Name":"Ada"}', ADA),
        (Point | None, b"null", None),
        (Literal["a", "b"], b'"b"', "b"),
        (User, b'{"Name":"Ada"}', ADA),
        (User | Guest, b'{"kind":"guest"}', Guest(kind="guest")),
        (Member, b'{"kind":"guest"}', Guest(kind="guest")),
        (list[User], b'[{"Name":"Ada"}]', [ADA]),
        (Checked, b'{"n":1}', Checked(1)),
        (Holder, b'{"user":{"Name":"Ada"}}', Holder(ADA)),
        (pydantic.TypeAdapter(User | int), b'{"Name":"Ada"}', ADA),
        (pydantic.TypeAdapter(list[int]), b"[1,2]", [1, 2]),
        (row_sum, b"[1,2]", 3),
        (Parsed, b'{"n":1}', Parsed({"n": 1})),
        (User.model_validate, b'{"Name":"Ada"}', ADA),
    ],
)
def test_a_message_becomes_an_item_of_the_type(kind: Any, text: bytes, item: object) -> None:
    assert batch_of(b"[%b,\n%b]" % (text, text), kind).items() == [item, item]
    # Beside a message that does not fit, each is decoded by itself.
    mixed = batch_of(b"[%b,[{}],%b]" % (text, text), kind, skips=True)
    assert mixed.items() == [item, item]


@pytest.mark.parametrize("kind", [Order, User, pydantic.TypeAdapter(Point), Parsed, Point | Line])
def test_a_message_that_does_not_fit_is_named_and_the_others_are_there(kind: Any) -> None:
    good, bad = b'{"id":1,"Name":"a","n":1,"x":1}', b'{"no":1e400}'
    batch = batch_of(b"[%b,%b,%b]" % (good, bad, good), kind)
    with pytest.raises(DecodeError, match="Message 2") as caught:
        batch.items()
    error = caught.value
    assert (error.url, error.number, error.data) == ("http://h/a", 2, bad)
    assert (error.offset, error.next_offset) == ("0/1", "0/2")
    assert isinstance(error, ValueError)
    assert len(batch_of(b"[%b,%b,%b]" % (good, bad, good), kind, skips=True)) == 2


def test_a_skipped_message_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    batch = batch_of(b'[{"id":1},{"id":"x"}]', Order, skips=True)
    assert batch.items() == batch.items() == [Order(1)]
    [record] = caplog.records
    assert "Message 2" in record.message
    assert "http://h/a" in record.message


def test_whatever_a_function_raises_is_the_cause() -> None:
    def fail(value: object) -> None:
        raise KeyError(value)

    with pytest.raises(DecodeError, match="KeyError: 1") as caught:
        batch_of(b"[1]", fail).items()
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize("kind", [Order, User, row_sum, Parsed, Point | Line])
def test_a_page_that_is_not_an_array_fits_no_type(kind: Any) -> None:
    with pytest.raises(MalformedResponse):
        batch_of(b"[1,abc]", kind).items()
    assert batch_of(b"", kind).items() == []


@pytest.mark.parametrize("kind", [1, "Order", object(), dict[str, Point | Line]])
def test_what_is_not_a_type_is_refused_at_once(kind: object) -> None:
    with pytest.raises(InvalidArgument, match="decode cannot be"):
        decoder_for(kind)


@pytest.mark.parametrize("kind", [Order, User, row_sum])
def test_a_type_is_for_json_streams_only(kind: Callable[..., Any]) -> None:
    page = Page(b"1", "9", "text/plain", start="0")
    with pytest.raises(InvalidArgument, match="text/plain"):
        Batch("http://h/a", page, Decoding(decoder_for(kind))).items()


def test_pydantic_is_not_imported_for_other_types() -> None:
    program = """
import sys, msgspec
from durable_streams_client.item_types import decoder_for
from durable_streams_client.encoding import encode_message
class Order(msgspec.Struct):
    id: int
decoder_for(Order), decoder_for(len), encode_message(Order(1))
assert "pydantic" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)
