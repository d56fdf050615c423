"""Says whether an append would be stored now, without storing one.

The journal takes up the room that a small group needs, which is what an append would do, and the
file system is asked how much room it has left. So a disk that another program filled or that became
read-only is noticed while nobody writes, and so is room that came back.
"""

import asyncio
import errno
import os
from collections.abc import Callable
from typing import Final

from durable_streams_core.entities import Refused
from durable_streams_server.stores.file.disk import Disk
from durable_streams_server.stores.file.errors import (
    WriteFailedError,
    describe,
    is_full,
    is_passing,
    refusal_of,
    stopped_by,
)
from durable_streams_server.stores.file.journal import Journal
from durable_streams_server.stores.file.pipeline import Pipeline
from durable_streams_server.stores.file.worker import Worker

LEAST_FREE: Final = 1024 * 1024
"""With less room than this the disk counts as full: an ordinary append may find none."""
STORE_FAILED: Final = "store-failed"
"""The code of a store that takes nothing until its disk is mended."""


class Probe:
    """Probes an open store. ``make_room`` is what a commit asks on a full disk."""

    def __init__(
        self,
        *,
        disk: Disk,
        journal: Journal,
        journal_worker: Worker,
        pipeline: Pipeline,
        make_room: Callable[[Callable[[], None]], bool],
    ) -> None:
        self._disk = disk
        self._journal = journal
        self._journal_worker = journal_worker
        self._pipeline = pipeline
        self._make_room = make_room

    async def run(self) -> Refused | None:
        """Why an append would be refused, None if it would be stored."""
        error = await self._attempt()
        if error is not None and is_full(error):
            made = asyncio.Event()
            if self._make_room(made.set):
                await made.wait()
                error = await self._attempt()
        failure = self._pipeline.failure
        if failure is not None:
            return Refused(STORE_FAILED, failure)
        if error is None:
            return None
        if isinstance(error, WriteFailedError):
            self._pipeline.fail(stopped_by(error))
            return Refused(STORE_FAILED, stopped_by(error))
        if is_passing(error):
            return refusal_of(error)
        return Refused(
            STORE_FAILED, f"Nothing can be stored on this disk now ({describe(error)}). Check it."
        )

    async def _attempt(self) -> BaseException | None:
        if self._pipeline.failure is not None:
            return None

        def attempt() -> None:
            # First, because it also says where nothing may be written at all.
            if self._disk.free_bytes() < LEAST_FREE:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._journal.make_ready()

        try:
            await self._journal_worker.run(attempt)
        except (OSError, MemoryError, WriteFailedError) as error:
            return error
        return None
