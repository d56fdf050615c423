import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

# The helpers beside the tests.
sys.path.insert(0, str(Path(__file__).parent))

from servers import BINARIES, RedisServer, cluster

_prefixes = count()


@pytest.fixture(scope="session", params=list(BINARIES))
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """One server for all tests that do it no harm, of each kind there is."""
    with RedisServer(binary=BINARIES[request.param]) as started:
        yield started


@pytest.fixture(scope="session")
def valkey() -> Iterator[RedisServer]:
    with RedisServer() as started:
        yield started


@pytest.fixture(scope="session")
def nodes() -> Iterator[list[RedisServer]]:
    """A Cluster of three."""
    with cluster() as started:
        yield started


@pytest.fixture
def prefix() -> str:
    """Keys that no other test uses."""
    return f"test{next(_prefixes)}"
