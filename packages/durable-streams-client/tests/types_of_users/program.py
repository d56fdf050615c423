"""A user's program, which type checkers read: what each form of ``decode`` makes of the items."""

from dataclasses import dataclass
from typing import Any, TypedDict, assert_type

import msgspec
import pydantic

from durable_streams_client import AsyncClient, Client, FileCheckpoint


class Order(msgspec.Struct):
    id: int


class Refund(msgspec.Struct, tag=True):
    id: int


@dataclass
class Point:
    x: int


class Row(TypedDict):
    n: int


class User(pydantic.BaseModel):
    name: str


def first_of(value: list[Point]) -> Point:
    return value[0]


with Client("http://127.0.0.1:4437/v1/stream/") as client:
    stream = client.stream("a")
    assert_type(stream.read().read_items(), list[Any])
    assert_type(stream.read(decode=Order).read_items(), list[Order])
    assert_type(stream.read(decode=Point).read_items(), list[Point])
    assert_type(stream.read(decode=Row).read_items(), list[Row])
    assert_type(stream.read(decode=User).read_items(), list[User])
    assert_type(stream.read(decode=int).read_items(), list[int])
    assert_type(stream.read(decode=dict[str, int]).read_items(), list[dict[str, int]])
    assert_type(stream.read(decode=list[Order]).read_items(), list[list[Order]])
    assert_type(stream.read(decode=Order | Refund).read_items(), list[Order | Refund])
    assert_type(stream.read(decode=Order | None).read_items(), list[Order | None])
    assert_type(stream.read(decode=pydantic.TypeAdapter(User)).read_items(), list[User])
    assert_type(stream.read(decode=pydantic.TypeAdapter(list[int])).read_items(), list[list[int]])
    assert_type(stream.read(decode=first_of).read_items(), list[Point])
    assert_type(stream.read(decode=lambda value: str(value["n"])).read_items(), list[str])
    assert_type(stream.read(decode=User.model_validate).read_items(), list[User])
    following = stream.follow(
        decode=Order | User, checkpoint=FileCheckpoint("a"), save_every=1, on_bad="skip"
    )
    for item in following.items():
        assert_type(item, Order | User)
    for batch in stream.follow(decode=User, max_items=10):
        assert_type(batch.items(), list[User])
        assert_type([user.name for user in batch], list[str])


async def main() -> None:
    async with AsyncClient("http://127.0.0.1:4437/v1/stream/") as client:
        stream = client.stream("a")
        assert_type(await stream.read(decode=Order | Refund).read_items(), list[Order | Refund])
        async for item in stream.follow(decode=pydantic.TypeAdapter(User)).items():
            assert_type(item, User)
        async for batch in stream.follow(decode=first_of):
            assert_type(batch.items(), list[Point])
