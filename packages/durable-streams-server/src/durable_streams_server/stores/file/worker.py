"""A thread that does one job after another, and tells the event loop what came of each."""

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from queue import SimpleQueue
from typing import TypeVar

Result = TypeVar("Result")
Done = Callable[[Result | None, BaseException | None], None]
"""Called in the event loop with the result, or with what the job raised."""


class Worker(ABC):
    """Does jobs in the order in which they are put, away from the event loop."""

    @abstractmethod
    def put(self, job: Callable[[], Result], done: Done[Result]) -> None: ...

    @abstractmethod
    async def stop(self) -> None:
        """Do what was put so far, then end."""

    async def run(self, job: Callable[[], Result]) -> Result:
        """Put a job and wait for it. One that is no longer waited for is done all the same."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

        def done(result: Result | None, error: BaseException | None) -> None:
            if future.done():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type] # a job's result, if no error

        self.put(job, done)
        return await future


class ThreadWorker(Worker):
    """A worker in a thread of its own. Start it in the event loop that gets the results."""

    def __init__(self, name: str) -> None:
        self._queue: SimpleQueue[Callable[[], bool]] = SimpleQueue()
        self._loop = asyncio.get_running_loop()
        # A daemon: a program that forgot to close its store must still be able to end.
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def put(self, job: Callable[[], Result], done: Done[Result]) -> None:
        tell = self._loop.call_soon_threadsafe

        def work() -> bool:
            result = error = None
            try:
                result = job()
            except BaseException as raised:
                error = raised
            try:
                tell(done, result, error)
            except RuntimeError:
                return False  # the loop is closed: nobody is left to get it
            return True

        self._queue.put(work)

    async def stop(self) -> None:
        self._queue.put(lambda: False)
        await self._loop.run_in_executor(None, self._thread.join)

    def _work(self) -> None:
        while self._queue.get()():
            pass
