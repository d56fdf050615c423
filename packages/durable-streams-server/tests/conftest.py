"""Fixtures of the server's tests: a clock, stores near and far, engines, front ends."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
from remote import RemoteStore
from servers import SERVERS, Serve
from wire import Client

from durable_streams_core.store import Store
from durable_streams_server import Engine, Limits, MemoryStore
from durable_streams_server.frontends.mount import Mount
from durable_streams_server.http.options import Options


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


@pytest.fixture(params=SERVERS)
def front_end(request: pytest.FixtureRequest) -> Serve:
    """Each front end, as something that serves a mount."""
    return SERVERS[request.param]


@pytest.fixture
async def serving() -> AsyncIterator[AsyncExitStack]:
    """Whatever a test serves; ends after its clients."""
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
def serve(
    front_end: Serve, serving: AsyncExitStack, memory: MemoryStore
) -> Callable[..., Awaitable[Client]]:
    """Serves a store through each front end; gives a client to talk to it.

    Takes a store, a root, ``signing_keys``, and the fields of :class:`Options` and
    :class:`Limits`.
    """

    async def serve(
        store: Store | None = None, *, root: str = "/v1/stream/", **settings: object
    ) -> Client:
        limits = {k: settings.pop(k) for k in list(settings) if k in Limits.__struct_fields__}
        keys = settings.pop("signing_keys", ())
        engine = Engine(store or memory, limits=Limits(**limits), signing_keys=keys)  # type: ignore[arg-type]
        await serving.enter_async_context(engine)
        mount = Mount(engine, Options(**settings), None)  # type: ignore[arg-type]
        port = await serving.enter_async_context(front_end(mount, root))
        client = Client(port, root, mount)
        serving.push_async_callback(client.close)
        return client

    return serve


@pytest.fixture
async def client(serve: Callable[..., Awaitable[Client]]) -> Client:
    """A client of each front end, over a memory store and with defaults."""
    return await serve()
