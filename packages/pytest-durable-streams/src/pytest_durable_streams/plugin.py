"""The fixtures.

All of them are ordinary fixtures, also those that async tests use: so they work whichever plugin
runs those tests. The server and the client are imported in the first test that needs them.
"""

# pytest knows fixtures by their names and types only while it runs.
from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from durable_streams_client import AsyncClient, Client
    from durable_streams_server import Engine
    from pytest_durable_streams.clock import StreamsClock
    from pytest_durable_streams.faults import Faults
    from pytest_durable_streams.server import LoopThread, StreamsServer


@pytest.fixture(scope="session")
def _streams_thread() -> Iterator[LoopThread]:
    """The thread in which the servers of all tests run, one after the other."""
    from pytest_durable_streams.server import LoopThread

    with LoopThread() as thread:
        yield thread


@pytest.fixture
def streams_clock() -> StreamsClock:
    """The time of this test's server and engine; ``advance(seconds)`` moves it."""
    from pytest_durable_streams.clock import StreamsClock

    return StreamsClock()


@pytest.fixture
def streams_server(
    _streams_thread: LoopThread, streams_clock: StreamsClock
) -> Iterator[StreamsServer]:
    """A real server on a free port, whose streams are in memory and this test's alone."""
    from pytest_durable_streams.server import serve_in

    with serve_in(_streams_thread, streams_clock) as server:
        yield server


@pytest.fixture
def streams_client(streams_server: StreamsServer) -> Iterator[Client]:
    """A client of this test's server."""
    with streams_server.client() as client:
        yield client


@pytest.fixture
def async_streams_client(streams_server: StreamsServer) -> AsyncClient:
    """An async client of this test's server. Its connections end with the test's event loop."""
    return streams_server.async_client()


@pytest.fixture
def streams_engine(streams_clock: StreamsClock) -> Engine:
    """An engine in memory that is not started.

    Give it to your application, whose lifespan starts it, or use ``async with streams_engine``.
    """
    from pytest_durable_streams.server import new_engine

    return new_engine(streams_clock)


@pytest.fixture
def streams_faults(streams_server: StreamsServer) -> Iterator[Faults]:
    """A way to this test's server on which requests go wrong as the test demands."""
    from pytest_durable_streams.faults import Faults
    from pytest_durable_streams.relay import Relay

    relay = Relay(streams_server.port)
    streams_server.run(relay.start())
    try:
        yield Faults(streams_server, relay)
    finally:
        streams_server.run(relay.stop())
