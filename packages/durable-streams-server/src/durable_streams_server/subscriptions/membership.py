"""Being one of several processes that drive the subscriptions of a shared store.

A process writes its member entity anew three times within its lease. Whose time is over, or who
has left, is out, and its shards belong to others at once: within one lease of its last sign.
"""

import asyncio
import logging
import random
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, Final

from durable_streams_core.operations import Operation
from durable_streams_core.store import Store
from durable_streams_core.subscriptions.members import MEMBERS, SHARDS, Join, Leave, owner_of

log = logging.getLogger("durable_streams_server.subscriptions")

LEAVE_SECONDS: Final = 2.0
_PAGE: Final = 500


class Membership:
    """``moved`` is awaited after the members have changed."""

    def __init__(
        self,
        store: Store,
        perform: Callable[[str, Operation[Any]], Awaitable[Any]],
        lease: float,
        moved: Callable[[], Awaitable[None]],
    ) -> None:
        self.me = secrets.token_hex(8)
        self._store = store
        self._perform = perform
        self._lease = lease
        self._moved = moved
        self._members: frozenset[str] = frozenset()
        self._owned: frozenset[int] = frozenset()
        self._starting = asyncio.Lock()
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._burials: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Be a member; safe to call again."""
        async with self._starting:
            if self._task is None:
                await self._stay()
                await self._see()
                self._task = asyncio.create_task(self._keep_on())

    async def stop(self) -> None:
        """Leave, so that others need not wait for the lease to end."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, *self._burials, return_exceptions=True)
        self._task = None
        self._members = frozenset()
        self._owned = frozenset()
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                await self._perform(MEMBERS + self.me, Leave())
        except Exception:
            log.exception("leaving failed; the others will notice")

    def owns(self, shard: int) -> bool:
        return shard in self._owned

    def is_alive(self, member: str) -> bool:
        return member in self._members

    def look(self) -> None:
        """Somebody has come or gone."""
        self._news.set()

    def bury(self, path: str) -> None:
        """Forget a member whose time is over."""

        async def forget() -> None:
            try:
                await self._perform(path, Leave(dead=True))
            except Exception:
                log.exception("forgetting a member failed")

        task = asyncio.create_task(forget())
        self._burials.add(task)
        task.add_done_callback(self._burials.discard)

    async def _keep_on(self) -> None:
        while True:
            self._news.clear()
            try:
                async with asyncio.timeout(self._lease / 3 * random.uniform(0.8, 1.0)):
                    await self._news.wait()
            except TimeoutError:
                pass
            try:
                await self._stay()
                if await self._see():
                    await self._moved()
            except Exception:
                log.exception("keeping up with the other processes failed")
                await asyncio.sleep(self._lease / 10)

    async def _stay(self) -> None:
        until = self._store.now() + int(self._lease * 1000)
        await self._perform(MEMBERS + self.me, Join(secrets.token_hex(8), until))

    async def _see(self) -> bool:
        """Look at who is alive; answers whether that has changed."""
        now = self._store.now()
        members = {self.me}
        after = ""
        while True:
            rows = await self._store.list(MEMBERS, after, _PAGE)
            members.update(path.removeprefix(MEMBERS) for path, head in rows if head.deadline > now)
            if len(rows) < _PAGE:
                break
            after = rows[-1][0]
        if members == self._members:
            return False
        self._members = frozenset(members)
        self._owned = frozenset(
            shard for shard in range(SHARDS) if owner_of(shard, members) == self.me
        )
        return True
