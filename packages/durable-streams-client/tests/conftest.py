import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from hostile import Hostile
from subscribed import Subscribed


@pytest.fixture
def server() -> Iterator[Hostile]:
    with Hostile() as server:
        yield server


@pytest.fixture
def hub() -> Iterator[Subscribed]:
    """A server with subscriptions."""
    with Subscribed() as server:
        yield server
