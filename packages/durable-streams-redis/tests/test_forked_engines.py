"""An engine made before ``fork()``, and used in the children."""

import subprocess
import sys
from pathlib import Path

import pytest
from servers import RedisServer

from durable_streams_core.subscriptions.members import MEMBERS
from durable_streams_server import Engine

APPENDS = 100

PROGRAM = """
import asyncio, os, sys, traceback
from durable_streams_core.subscriptions.records import BaseUrl, parse_config
from durable_streams_server import Engine, Unavailable

engine = Engine(sys.argv[1])
PULL = parse_config({"type": "pull-wake", "pattern": "work/*", "wake_stream": "wakes"})

def in_children(count, work):
    sys.stdout.flush()
    children = []
    for number in range(count):
        child = os.fork()
        if not child:
            status = 1
            try:
                asyncio.run(work(number))
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(status)
        children.append(child)
    for child in children:
        assert os.waitpid(child, 0)[1] == 0

async def write(number):
    for n in range(int(sys.argv[2])):
        await engine.append("a", f"{number}.{n} ")

async def serve_and_write(number):
    async with engine:
        await write(number)
"""


def run(tmp_path: Path, server: RedisServer, prefix: str, story: str) -> None:
    """A program that ends well, in a process of its own."""
    script = tmp_path / "story.py"
    script.write_text(PROGRAM + story)
    # A fork beside other threads is what is tested; some Pythons warn of it.
    command = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", str(script)]
    arguments = [f"{server.url}?prefix={prefix}", str(APPENDS)]
    done = subprocess.run(
        [*command, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr


async def stored(server: RedisServer, prefix: str) -> set[str]:
    async with Engine(f"{server.url}?prefix={prefix}") as engine:
        data = (await engine.read("a", limit=1_000_000)).data
    appended = data.decode().split()
    assert len(appended) == len(set(appended))
    return set(appended)


def appended(*children: int) -> set[str]:
    return {f"{child}.{n}" for child in children for n in range(APPENDS)}


@pytest.fixture
async def stream(valkey: RedisServer, prefix: str) -> None:
    async with Engine(f"{valkey.url}?prefix={prefix}") as engine:
        await engine.create("a", content_type="text/plain")


@pytest.mark.usefixtures("stream")
async def test_children_of_one_engine_make_commit_ids_of_their_own(
    tmp_path: Path, valkey: RedisServer, prefix: str
) -> None:
    run(tmp_path, valkey, prefix, "in_children(4, serve_and_write)")
    assert await stored(valkey, prefix) == appended(0, 1, 2, 3)


@pytest.mark.usefixtures("stream")
async def test_an_engine_that_ran_before_the_fork_starts_anew_in_the_child(
    tmp_path: Path, valkey: RedisServer, prefix: str
) -> None:
    story = """
async def parent():
    async with engine:
        await write(7)
        await asyncio.to_thread(in_children, 2, serve_and_write)
        await write(8)

asyncio.run(parent())
"""
    run(tmp_path, valkey, prefix, story)
    assert await stored(valkey, prefix) == appended(0, 1, 7, 8)


@pytest.mark.usefixtures("stream")
async def test_a_child_that_has_not_started_the_engine_is_told_so(
    tmp_path: Path, valkey: RedisServer, prefix: str
) -> None:
    story = """
async def child(number):
    assert not engine.started
    for work in (engine.append("a", "x"), engine.read("a"), engine.head("a"), engine.list()):
        try:
            await work
        except Unavailable as error:
            assert error.code == "not-started", error.code
        else:
            raise AssertionError("it answered")
    await engine.stop()

async def parent():
    async with engine:
        await asyncio.to_thread(in_children, 1, child)
        await write(0)

asyncio.run(parent())
"""
    run(tmp_path, valkey, prefix, story)
    assert await stored(valkey, prefix) == appended(0)


async def test_each_child_drives_subscriptions_under_an_id_of_its_own(
    tmp_path: Path, valkey: RedisServer, prefix: str
) -> None:
    story = """
import multiprocessing

fork = multiprocessing.get_context("fork")
together = fork.Barrier(2)

async def child(number):
    async with engine:
        await engine.subscriptions.create(f"s{number}", PULL, BaseUrl("http://here", "/"))
        await asyncio.to_thread(together.wait)
        rows = await engine.store.list(sys.argv[3], "", 10)
        await asyncio.to_thread(together.wait)
        assert len(rows) == 2, rows

in_children(2, child)
"""
    run(tmp_path, valkey, prefix, story.replace("sys.argv[3]", repr(MEMBERS)))
