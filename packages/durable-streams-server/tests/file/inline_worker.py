"""A worker without a thread: jobs run in the event loop, a drawn number of its turns later, so that
a simulation goes the same way each time."""

import asyncio
import random
from collections import deque
from collections.abc import Callable
from typing import Any

from faulty_disk import PowerLoss

from durable_streams_server.stores.file.worker import Worker


class InlineWorker(Worker):
    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._loop = asyncio.get_running_loop()
        self._jobs: deque[tuple[Callable[[], Any], Callable[..., None]]] = deque()
        self._waits = 0
        self.dead = False

    @property
    def idle(self) -> bool:
        return not self._jobs

    def put(self, job: Callable[[], Any], done: Callable[..., None]) -> None:
        self._jobs.append((job, done))
        if len(self._jobs) == 1:
            self._wait()

    def _wait(self) -> None:
        self._waits = self._rng.randrange(5)
        self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        if self.dead:
            return
        if self._waits:
            self._waits -= 1
            self._loop.call_soon(self._turn)
            return
        job, done = self._jobs[0]
        result = error = None
        try:
            result = job()
        except PowerLoss:
            return  # nothing of this process runs any more
        except BaseException as raised:
            error = raised
        self._loop.call_soon(self._tell, done, result, error)
        self._jobs.popleft()
        if self._jobs:
            self._wait()

    def _tell(self, done: Callable[..., None], result: Any, error: BaseException | None) -> None:
        if not self.dead:
            done(result, error)

    async def stop(self) -> None:
        while self._jobs and not self.dead:
            await asyncio.sleep(0)
