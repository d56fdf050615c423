"""Lifecycle hooks: each event told once, in the order in which it happened."""

from collections.abc import Callable
from typing import Any

import pytest

from durable_streams_core.store import Store
from durable_streams_server import Engine


@pytest.fixture
def told() -> Any:
    return []


@pytest.fixture
async def streams(engines: Callable[..., object], store: Store, told: Any) -> Any:
    return await engines(store, hooks=[lambda event, path: told.append((event, path))])


async def test_a_life_is_told(streams: Engine, told: Any) -> None:
    await streams.create("a")
    await streams.create("a")
    await streams.append("a", "x")
    await streams.close_stream("a")
    await streams.close_stream("a")
    await streams.delete("a")
    assert told == [("created", "a"), ("closed", "a"), ("deleted", "a")]


async def test_a_stream_born_closed_is_created_first(streams: Engine, told: Any) -> None:
    await streams.create("a", closed=True)
    assert told == [("created", "a"), ("closed", "a")]


async def test_an_expiry_is_told_apart_from_a_deletion(
    streams: Engine, told: Any, clock: Any
) -> None:
    await streams.create("a", ttl=1)
    clock.advance(2)
    await streams.sweep()
    await streams.create("b", ttl=1)
    clock.advance(2)
    await streams.create("b")
    assert told == [
        ("created", "a"),
        ("expired", "a"),
        ("created", "b"),
        ("expired", "b"),
        ("created", "b"),
    ]


async def test_a_fork_is_told_once_it_is_confirmed(streams: Engine, told: Any) -> None:
    await streams.create("a")
    await streams.fork("b", "a", closed=True)
    assert told == [("created", "a"), ("created", "b"), ("closed", "b")]


async def test_a_fork_of_nothing_is_not_told(streams: Engine, told: Any) -> None:
    with pytest.raises(Exception, match="source stream"):
        await streams.fork("b", "a")
    assert told == []


async def test_a_deleted_source_is_told_once_however_long_it_is_kept(
    streams: Engine, told: Any
) -> None:
    await streams.create("a")
    await streams.fork("b", "a")
    told.clear()
    await streams.delete("a")
    await streams.delete("b")
    assert told == [("deleted", "a"), ("deleted", "b")]
    await streams.create("a")
    assert told[-1] == ("created", "a")


async def test_a_hook_that_fails_harms_neither_the_caller_nor_the_next(
    engines: Callable[..., object], store: Store, told: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_event: Any, _path: Any) -> None:
        raise RuntimeError("a bug in the application")

    streams = await engines(store, hooks=[broken, lambda event, _: told.append(event)])
    await streams.create("a")
    assert told == ["created"]
    assert "a hook failed on created" in caplog.text
