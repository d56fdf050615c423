import asyncio
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from hostile import Hostile
from subscribed import Subscribed
from wire import Wire


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Every async test runs on asyncio's loop, and where there is uvloop on that as well."""
    factories: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
        "asyncio": asyncio.new_event_loop
    }
    if sys.platform != "win32":
        import uvloop

        factories["uvloop"] = uvloop.new_event_loop
    return factories


@pytest.fixture
def server() -> Iterator[Hostile]:
    with Hostile() as server:
        yield server


@pytest.fixture
def hub() -> Iterator[Subscribed]:
    """A server with subscriptions."""
    with Subscribed() as server:
        yield server


@pytest.fixture
def wire() -> Iterator[Wire]:
    """A server that sends prepared bytes."""
    with Wire() as server:
        yield server
