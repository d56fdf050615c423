"""Membership of the processes that drive the subscriptions of one shared store.

Each process renews its member entity three times within its lease. A process that left, or whose
lease has ended, is no longer a member, and its shards belong to the others at once. So a process
that dies is replaced within one lease.
"""

import asyncio
import logging
import random
import secrets
from collections.abc import Awaitable, Callable
from typing import Final

from durable_streams_core.store import Store
from durable_streams_core.subscriptions.members import MEMBERS, SHARDS, Join, Leave, owner_of
from durable_streams_server.perform import Perform

log = logging.getLogger("durable_streams_server.subscriptions")

LEAVE_SECONDS: Final = 2.0
_PAGE: Final = 500


class Membership:
    """This process as a member, and what it knows of the others.

    ``changed`` is awaited after the members have changed.
    """

    def __init__(
        self,
        store: Store,
        perform: Perform,
        lease: float,
        changed: Callable[[], Awaitable[None]],
    ) -> None:
        self.me = ""
        """The id of this process; drawn anew whenever it becomes a member."""
        self._store = store
        self._perform = perform
        self._lease = lease
        self._changed = changed
        self._members: frozenset[str] = frozenset()
        self._owned: frozenset[int] = frozenset()
        self._starting = asyncio.Lock()
        self._review = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._forgetting: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Become a member; safe to call again."""
        async with self._starting:
            if self._task is None:
                self.me = secrets.token_hex(8)
                await self._renew()
                await self._review_members()
                self._task = asyncio.create_task(self._keep_renewing())

    async def stop(self) -> None:
        """Leave, so that others need not wait for the lease to end."""
        if self._task is None:
            return
        await self.abort()
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                await self._perform(MEMBERS + self.me, Leave())
        except Exception:
            log.exception("leaving failed; the other processes notice when the lease ends")

    async def abort(self) -> None:
        """Stop renewing without leaving, as a crash would."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.gather(self._task, *self._forgetting, return_exceptions=True)
        self._task = None
        self._members = frozenset()
        self._owned = frozenset()

    @property
    def members(self) -> frozenset[str]:
        """The members as last seen."""
        return self._members

    def owns(self, shard: int) -> bool:
        """Whether this process drives the subscriptions of a shard."""
        return shard in self._owned

    def is_alive(self, member: str) -> bool:
        return member in self._members

    def review_soon(self) -> None:
        """Have the members read again soon: one has come or gone."""
        self._review.set()

    def forget(self, path: str) -> None:
        """Remove the entity of a member whose lease has ended."""

        async def remove() -> None:
            try:
                await self._perform(path, Leave(dead=True))
            except Exception:
                log.exception("removing a member whose lease has ended failed")

        task = asyncio.create_task(remove())
        self._forgetting.add(task)
        task.add_done_callback(self._forgetting.discard)

    async def _keep_renewing(self) -> None:
        while True:
            self._review.clear()
            try:
                async with asyncio.timeout(self._lease / 3 * random.uniform(0.8, 1.0)):
                    await self._review.wait()
            except TimeoutError:
                pass
            try:
                await self._renew()
                if await self._review_members():
                    await self._changed()
            except Exception:
                log.exception("renewing the membership failed")
                await asyncio.sleep(self._lease / 10)

    async def _renew(self) -> None:
        until = self._store.now() + int(self._lease * 1000)
        await self._perform(MEMBERS + self.me, Join(secrets.token_hex(8), until))

    async def _review_members(self) -> bool:
        """Read who is a member; returns whether that has changed."""
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
