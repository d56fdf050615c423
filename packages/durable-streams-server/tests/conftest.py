"""What the tests of the server share: a clock that stands still, stores near and far, engines."""

from collections.abc import AsyncIterator, Callable

import pytest
from remote import RemoteStore

from durable_streams_core.store import Store
from durable_streams_server import Engine, Limits, MemoryStore


class Clock:
    """Milliseconds since 1970, moved by hand."""

    def __init__(self) -> None:
        self.now = 1_800_000_000_000

    def __call__(self) -> int:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += round(seconds * 1000)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def memory(clock: Clock) -> MemoryStore:
    return MemoryStore(clock=clock)


@pytest.fixture
def remote(memory: MemoryStore) -> RemoteStore:
    """A store that has to be waited for, over ``memory``."""
    return RemoteStore(memory)


@pytest.fixture(params=["at-hand", "remote"])
def store(request: pytest.FixtureRequest) -> Store:
    """Each kind of store that an engine treats in a way of its own."""
    found: Store = request.getfixturevalue("memory" if request.param == "at-hand" else "remote")
    return found


@pytest.fixture
async def engines() -> AsyncIterator[Callable[..., object]]:
    """Starts engines, and stops them at the end."""
    started: list[Engine] = []

    async def start(store: Store, **limits: object) -> Engine:
        hooks = limits.pop("hooks", ())
        engine = Engine(store, limits=Limits(**limits), hooks=hooks)  # type: ignore[arg-type]
        started.append(engine)
        await engine.start()
        return engine

    yield start
    for engine in reversed(started):
        await engine.stop()


@pytest.fixture
async def streams(store: Store) -> AsyncIterator[Engine]:
    """A running engine over each kind of store."""
    async with Engine(store) as engine:
        yield engine
