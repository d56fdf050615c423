"""What reading leaves in memory: bounded in bytes, and freed without the garbage collector."""

import asyncio
import gc
import tracemalloc
from collections.abc import Iterator

import pytest

from durable_streams_core.store import Store
from durable_streams_server import Engine
from durable_streams_server.http.handler import Handler
from durable_streams_server.http.messages import Live, Pending, RequestHead, Response

LARGE = 8 * 1024 * 1024
STREAMS = 8


class Sink:
    """Counts what it is sent, and keeps nothing."""

    def __init__(self) -> None:
        self.size = 0

    def write(self, frame: bytes) -> bool:
        self.size += len(frame)
        return True

    def end(self) -> None:
        raise AssertionError("nothing here ends")


@pytest.fixture
def without_collector() -> Iterator[None]:
    """The command runs the collector rarely, so that a cycle may keep its memory for long."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def answered(handler: Handler, query: str, path: str) -> Response | Live:
    exchange = handler.begin(RequestHead("GET", path, query, {}))
    assert not isinstance(exchange, Response)
    answer = exchange.run(b"")
    if not isinstance(answer, Pending):
        return answer
    while answer.result is None:
        await asyncio.sleep(0)
    return answer.result


@pytest.mark.usefixtures("without_collector")
@pytest.mark.parametrize("query", ["offset=-1", "offset=-1&live=long-poll", "offset=-1&live=sse"])
async def test_large_messages_that_were_read_once_are_not_kept(store: Store, query: str) -> None:
    async with Engine(store) as engine:
        for number in range(STREAMS):
            await engine.create(f"s{number}", content_type="application/json", data="x" * LARGE)
        handler = Handler(engine)
        tracemalloc.start()
        try:
            for number in range(STREAMS):
                answer = await answered(handler, query, f"s{number}")
                if isinstance(answer, Response):
                    assert len(answer.body) >= LARGE
                else:
                    sink = Sink()
                    answer.attach(sink)
                    assert sink.size >= LARGE
                    answer.gone()
                del answer
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        handler.close()
    assert kept < LARGE / 2


@pytest.mark.usefixtures("without_collector")
async def test_events_that_many_read_are_kept_within_a_bound(store: Store) -> None:
    size, streams = 60_000, 400
    async with Engine(store) as engine:
        for number in range(streams):
            await engine.create(f"s{number}", content_type="text/plain", data="x" * size)
        handler = Handler(engine)
        tracemalloc.start()
        try:
            for number in range(streams):
                answer = await answered(handler, "offset=-1&live=sse", f"s{number}")
                assert not isinstance(answer, Response)
                answer.attach(Sink())
                answer.gone()
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        handler.close()
    assert kept < size * streams / 3
