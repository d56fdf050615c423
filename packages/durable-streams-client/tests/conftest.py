import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from hostile import Hostile


@pytest.fixture
def server() -> Iterator[Hostile]:
    with Hostile() as server:
        yield server
