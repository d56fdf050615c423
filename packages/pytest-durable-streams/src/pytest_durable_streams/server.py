"""A real server for tests, in a thread of this process."""

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from typing import Any, Self, TypeVar

from durable_streams_client import AsyncClient, Client
from durable_streams_server import Engine, MemoryStore, SubscriptionOptions
from durable_streams_server.frontends.mount import Mount
from durable_streams_server.frontends.servers import Address, standalone_server
from durable_streams_server.http.options import Options
from pytest_durable_streams.clock import StreamsClock

T = TypeVar("T")

ROOT = "/v1/stream/"
ANY_PORT = Address("127.0.0.1", 0)


class LoopThread:
    """An event loop that runs in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="pytest-durable-streams", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.run(_cancel_others())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop and return its result, from any other thread."""
        if threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError("The thread of the loop cannot wait for the loop; await the work.")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


async def _cancel_others() -> None:
    """Cancel what a test has left running in the loop."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


class StreamsServer:
    """The server that the command runs, on a free port of the loopback address.

    Its streams are in memory and belong to it alone. Make one with :func:`serve`, or take the
    fixture ``streams_server``.
    """

    def __init__(self, engine: Engine, clock: StreamsClock, thread: LoopThread, port: int) -> None:
        self.engine = engine
        """The engine behind it. It runs in another thread: call it with :meth:`run`."""
        self.clock = clock
        """The engine's clock."""
        self.port = port
        """The port on 127.0.0.1."""
        self.url = f"http://127.0.0.1:{port}{ROOT}"
        """The URL below which streams are, with its last slash."""
        self._thread = thread

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine where the server runs, and return its result.

        server.run(server.engine.append("chats/42", {"text": "hi"}))
        """
        return self._thread.run(work)

    def client(self, **options: Any) -> Client:
        """Return a new client of this server; ``options`` are those of :class:`Client`."""
        return Client(self.url, **options)

    def async_client(self, **options: Any) -> AsyncClient:
        """Return a new async client of this server."""
        return AsyncClient(self.url, **options)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.url}>"


@contextmanager
def serve(clock: StreamsClock | None = None) -> Iterator[StreamsServer]:
    """Run a server in a thread of its own as long as the block lasts.

    The fixture ``streams_server`` is new for each test. This is for a server that lasts longer::

        @pytest.fixture(scope="session")
        def server():
            with serve() as server:
                yield server

    ``clock`` is the time of its engine; by default a new one.
    """
    with LoopThread() as thread, serve_in(thread, clock or StreamsClock()) as server:
        yield server


@contextmanager
def serve_in(thread: LoopThread, clock: StreamsClock) -> Iterator[StreamsServer]:
    """Run a server in a thread that others use too."""
    engine = new_engine(clock)
    stack = AsyncExitStack()

    async def start() -> int:
        await stack.enter_async_context(engine)
        mount = Mount(engine, Options(), None)
        return await stack.enter_async_context(standalone_server(mount, ROOT, ANY_PORT))

    try:
        yield StreamsServer(engine, clock, thread, thread.run(start()))
    finally:
        thread.run(stack.aclose())


def new_engine(clock: StreamsClock) -> Engine:
    """An engine on a new memory store with this clock; webhooks may go to this machine."""
    engine = Engine(
        MemoryStore(clock=clock), subscriptions=SubscriptionOptions(webhook_localhost=True)
    )
    clock.drive(engine)
    return engine
