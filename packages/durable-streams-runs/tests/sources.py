"""Sources that tests run, and how tests read what came of them."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

from durable_streams_runs import Runs

SHORT_LEASE = 1.0


async def yielding(items: Iterable[Any]) -> AsyncIterator[Any]:
    """Yield items without waiting."""
    for item in items:
        yield item


class Held:
    """A source that yields what it is given, and tells when it is cancelled or closed."""

    def __init__(self) -> None:
        self.cancelled = asyncio.Event()
        self.begun = asyncio.Event()
        self._items: asyncio.Queue[Any] = asyncio.Queue()

    def give(self, *items: Any) -> None:
        for item in items:
            self._items.put_nowait(item)

    @property
    def is_empty(self) -> bool:
        """Whether everything given was yielded."""
        return self._items.empty()

    def finish(self) -> None:
        self._items.put_nowait(StopAsyncIteration)

    async def stream(self) -> AsyncIterator[Any]:
        self.begun.set()
        try:
            while (item := await self._items.get()) is not StopAsyncIteration:
                if isinstance(item, BaseException):
                    raise item
                yield item
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled.set()
            raise


def with_counting(runs: Runs, held: Held) -> Any:
    """Register the task that counts, and that waits for ``held`` in its first life."""

    @runs.task(restart=True)
    async def counting(written: str, to: int) -> AsyncIterator[str]:
        for n in range(len(written), to):
            yield str(n)
        if not written:
            async for item in held.stream():
                yield item

    return counting


async def output(run: Any) -> list[Any]:
    """Everything that a run yields, and its status at last."""
    items: list[Any] = []
    end = None
    async for part in run.follow():
        assert end is None
        items += part.items
        end = part.end
    assert end is not None
    return [*items, str(end.status)]


async def text(run: Any) -> tuple[str, str]:
    """The text of a run, and its status."""
    *pieces, status = await output(run)
    return "".join(pieces), status
