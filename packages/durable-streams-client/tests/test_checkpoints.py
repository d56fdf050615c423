"""Checkpoints of the package: what was saved last is loaded, whatever ends the program."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hostile import Hostile

from durable_streams_client import (
    AsyncClient,
    Checkpoint,
    Client,
    FileCheckpoint,
    InvalidArgument,
    MemoryCheckpoint,
    RedisCheckpoint,
    SqliteCheckpoint,
)

JSON = "application/json"


class Redis:
    """As much of a client of Redis as a checkpoint uses."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    def get(self, key: str) -> bytes | None:
        return self.values.get(key)

    def set(self, key: str, value: str) -> bool:
        self.values[key] = value.encode()
        return True


class AsyncRedis:
    """The same with coroutine functions."""

    def __init__(self) -> None:
        self.redis = Redis()

    async def get(self, key: str) -> bytes | None:
        return self.redis.get(key)

    async def set(self, key: str, value: str) -> bool:
        return self.redis.set(key, value)


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", check_same_thread=False)) as connection:
        yield connection


@pytest.fixture(params=["file", "memory", "redis", "sqlite path", "sqlite connection"])
def make(
    request: pytest.FixtureRequest, tmp_path: Path, connection: sqlite3.Connection
) -> Callable[[], Checkpoint]:
    """Makes the same checkpoint again, as a program does that starts again."""
    redis = Redis()
    memory = MemoryCheckpoint()
    kinds: dict[str, Callable[[], Checkpoint]] = {
        "file": lambda: FileCheckpoint(tmp_path / "place"),
        "memory": lambda: memory,
        "redis": lambda: RedisCheckpoint(redis, "place"),
        "sqlite path": lambda: SqliteCheckpoint(tmp_path / "places.db", "a"),
        "sqlite connection": lambda: SqliteCheckpoint(connection, "a", table='my "places"'),
    }
    return kinds[request.param]


def test_what_was_saved_last_is_loaded(make: Callable[[], Checkpoint]) -> None:
    assert make().load() is None
    for offset in ("-1/3/00000009", "00000004", "00000004/1"):
        make().save(offset)
        assert make().load() == offset


async def test_both_flavours_read_on_from_a_checkpoint(
    make: Callable[[], Checkpoint], server: Hostile
) -> None:
    server.put("a", *[b"%d" % n for n in range(9)], content_type=JSON).closed = True
    with Client(server.url) as client:
        with client.stream("a").follow(checkpoint=make(), save_every=1) as reader:
            items = reader.items()
            assert [next(items) for _ in range(4)] == [0, 1, 2, 3]
    async with AsyncClient(server.url) as async_client:
        follow = async_client.stream("a").follow(checkpoint=make(), save_every=2)
        assert await follow.read_items() == [3, 4, 5, 6, 7, 8]
    assert make().load() == "00000009"


async def test_an_async_client_of_redis_keeps_the_place_of_an_async_reader(server: Hostile) -> None:
    server.put("a", b"0", b"1", content_type=JSON).closed = True
    redis = AsyncRedis()
    async with AsyncClient(server.url) as client:
        place: Any = RedisCheckpoint(redis, "place")
        assert await client.stream("a").follow(checkpoint=place).read_items() == [0, 1]
        assert await client.stream("a").follow(checkpoint=place).read_items() == []
    assert redis.redis.values == {"place": b"00000002"}


def test_checkpoints_of_one_database_do_not_meet(tmp_path: Path) -> None:
    first, second = (SqliteCheckpoint(tmp_path / "places.db", name) for name in "ab")
    first.save("1")
    second.save("2")
    assert (first.load(), second.load()) == ("1", "2")


def test_results_and_the_offset_are_stored_together(
    connection: sqlite3.Connection, server: Hostile
) -> None:
    """A consumer that fails before it asks for the next message leaves no half of its work."""
    server.put("a", *[b"%d" % n for n in range(6)], content_type=JSON).closed = True
    connection.execute("CREATE TABLE results (n INTEGER)")
    for failing in (2, 2, 4, None):
        place = SqliteCheckpoint(connection, "a")
        with Client(server.url) as client:
            for n in client.stream("a").follow(checkpoint=place, save_every=1).items():
                connection.execute("INSERT INTO results VALUES (?)", [n])
                if n == failing:
                    break
        connection.rollback()  # as the end of a program does
    assert connection.execute("SELECT n FROM results").fetchall() == [(n,) for n in range(6)]


def test_a_file_that_holds_no_offset_is_refused(tmp_path: Path) -> None:
    (tmp_path / "place").write_bytes(b"\xff\x00 not an offset")
    with pytest.raises(InvalidArgument, match="does not hold an offset"):
        FileCheckpoint(tmp_path / "place").load()


def test_what_a_killed_save_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".place.new").write_text("half")
    checkpoint = FileCheckpoint(tmp_path / "place")
    assert checkpoint.load() is None
    assert not list(tmp_path.iterdir())
    (tmp_path / ".place.new").write_text("half")
    checkpoint.save("1")
    assert [path.name for path in tmp_path.iterdir()] == ["place"]
    assert checkpoint.load() == "1"


def test_a_file_system_without_nameless_files_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("durable_streams_client.checkpoints._TMPFILE", 0)
    checkpoint = FileCheckpoint(tmp_path / "place", sync=False)
    checkpoint.save("1")
    assert checkpoint.load() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["place"]


CONSUMER = """
import sys
from durable_streams_client import Client, FileCheckpoint, SqliteCheckpoint
url, kind, path = sys.argv[1:]
place = FileCheckpoint(path) if kind == "file" else SqliteCheckpoint(path, "a")
with Client(url) as client:
    for item in client.stream("a").follow(checkpoint=place, save_every=1).items():
        print(item, flush=True)
"""
"""Handles a message by printing it."""


@pytest.mark.skipif(os.name != "posix", reason="kill -9 is of POSIX")
@pytest.mark.parametrize("kind", ["file", "sqlite"])
def test_killed_twice_in_a_page_each_message_is_handled_once_or_at_the_edge_twice(
    server: Hostile, tmp_path: Path, kind: str
) -> None:
    server.page = 1000
    server.put("a", *[b"%d" % n for n in range(30)], content_type=JSON).closed = True
    handled: list[int] = []
    for kill_after in (5, 10, None):
        with subprocess.Popen(
            [sys.executable, "-c", CONSUMER, server.url, kind, str(tmp_path / "place")],
            stdout=subprocess.PIPE,
            text=True,
        ) as consumer:
            assert consumer.stdout is not None
            lines = iter(consumer.stdout)
            if kill_after is not None:
                handled += [int(next(lines)) for _ in range(kill_after)]
                consumer.send_signal(signal.SIGKILL)
            # It had handled everything that it printed before the signal came.
            handled += [int(line) for line in lines if line.endswith("\n")]
    assert sorted(set(handled)) == list(range(30))
    repeated = [n for before, n in pairwise(handled) if n <= before]
    assert len(handled) - 30 == len(repeated) <= 2
    left = {path.name for path in tmp_path.iterdir()} - {"place"}
    assert not left
