import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from hostile import Hostile
from subscribed import Subscribed
from wire import Wire


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
