"""The running engine: its start and stop, and what front ends build on."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final, Self

from durable_streams_core.cursors import MAX_JITTER_SECONDS, live_cursor
from durable_streams_core.drafts import Draft
from durable_streams_core.entities import Change, Commit, Facts, Head
from durable_streams_core.errors import ProtocolError, Unavailable
from durable_streams_core.expiry import renewal_due
from durable_streams_core.metrics import Metric, metric
from durable_streams_core.offsets import Offset
from durable_streams_core.operations import (
    Body,
    Create,
    Created,
    Delete,
    Operation,
    Touch,
    Unconfirmed,
    no_stream,
)
from durable_streams_core.protocol import DEFAULT_CONTENT_TYPE, RESERVED_SEGMENT
from durable_streams_core.registry import create_store
from durable_streams_core.store import LocalStore, Store, as_future, check_api
from durable_streams_core.streams import CreationRequest, birth_of
from durable_streams_server import process_forks
from durable_streams_server.engine.arguments import check_json, is_large_json
from durable_streams_server.engine.commit_queue import CommitQueues, OnResult, Ticket
from durable_streams_server.engine.fanout import Fanout
from durable_streams_server.engine.forks import Forks, new_incarnation
from durable_streams_server.engine.hooks import Hook, call_hooks, ends_life
from durable_streams_server.engine.limits import Limits
from durable_streams_server.engine.meter import EngineMeter
from durable_streams_server.engine.pages import OnPage, Page, Pages, check_live
from durable_streams_server.engine.quotas import Quota, Quotas
from durable_streams_server.engine.readiness import (
    DRAINING,
    READY,
    STARTING,
    STOPPED,
    Readiness,
    StoreProbe,
)
from durable_streams_server.engine.refusals import stopped
from durable_streams_server.engine.upkeep import Upkeep
from durable_streams_server.signing import ReadSigner
from durable_streams_server.subscriptions import SubscriptionOptions, Subscriptions

log = logging.getLogger("durable_streams_server.engine")

STUCK_SECONDS: Final = 0.1
"""How long tasks that were told to end may take when the engine stops."""
_RESERVED: Final = RESERVED_SEGMENT + "/"


class Runtime:
    """Commits operations on streams and reads pages of them, over one store.

    ``store`` is a :class:`Store` or a URL such as ``memory:`` or ``file:./data``.

    Long because start and stop, forks of the process and every way to commit or read share the
    parts that it assembles.
    """

    def __init__(
        self,
        store: Store | str,
        *,
        limits: Limits | None = None,
        hooks: Sequence[Hook] = (),
        subscriptions: SubscriptionOptions | None = None,
        signing_keys: Sequence[str | bytes] = (),
        quotas: Sequence[Quota] = (),
    ) -> None:
        self.limits = limits or Limits()
        self._quotas_given = tuple(quotas)
        self._recount = False
        self._store_given = store
        self._hooks = list(hooks)
        self.signer = ReadSigner(signing_keys) if signing_keys else None
        """Signs and checks read URLs, if there are keys for it."""
        self._subscription_options = subscriptions
        self._assemble()
        process_forks.register(self)

    def _assemble(self) -> None:
        """Make everything that belongs to one process."""
        given = self._store_given
        self.store = create_store(given) if isinstance(given, str) else given
        check_api(self.store)
        self._local = self.store if isinstance(self.store, LocalStore) else None
        self.meter = EngineMeter()
        self.fanout = Fanout(self.limits.max_waiting_readers, self.meter)
        self._pages = Pages(self.store)
        self._forks = Forks(self.store, self._pages, self.perform, self.limits.page_bytes)
        self.subscriptions = Subscriptions(
            self.store, self.perform, self._check_readable, self._subscription_options
        )
        self._upkeep = Upkeep(
            self.store,
            self.perform,
            self._forks,
            self.meter,
            max_producers=self.limits.max_producers,
            control_due=self.subscriptions.due,
        )
        self._queues = CommitQueues(
            self.store, self.limits, self.meter, self._applied, self._upkeep.unconfirmed
        )
        self.perform_nowait = self._queues.perform_nowait
        """Returns the result of an operation, or None when it has to be waited for.

        For operations whose result is never None. Raises the :class:`ProtocolError` that ends it.
        """
        self._probe = StoreProbe(self.store)
        self._stop_watching: Callable[[], None] | None = None
        self._started = False
        self._draining = False
        self._at_rest = STARTING
        """The readiness while it does not run."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting = asyncio.Lock()

    def after_fork(self) -> None:
        """Become an engine that was never started: the tasks and connections are the parent's.

        The child may start it. A store that was given as a URL is made anew for that; any other
        has to know itself that its connections and locks are not the child's.
        """
        # Destroying what the parent uses could touch it.
        self._of_parent = (self.__dict__.copy(), getattr(self, "_of_parent", None))
        if self._stop_watching is not None:
            self._stop_watching()
        self.subscriptions.stop_watching()
        self._assemble()

    # Start and stop.

    async def start(self) -> None:
        """Open the store and begin; safe to call again. Raises :class:`StoreError`."""
        async with self._starting:
            if self._started:
                return
            try:
                await self.store.open()
                self._queues.quotas = Quotas(self._quotas_given) if self._quotas_given else None
                if self._queues.quotas is not None:
                    await self._queues.quotas.start(self.store)
                self._queues.resume()
                # A local store loses nothing while it is open, so heads of sources stay right.
                local = self._local is not None
                self._stop_watching = self.store.watch(
                    self.fanout.publish if local else self._changed
                )
                await self.subscriptions.start()
            except BaseException:
                try:
                    await self.subscriptions.stop()
                    await self._queues.abandon()
                finally:
                    await self._close()
                raise
            self._upkeep.start()
            self._probe.start()
            self._loop = asyncio.get_running_loop()
            self._started = True
            self._draining = False

    async def stop(self) -> None:
        """Let operations under way finish, then close the store; safe to call again.

        Raises nothing for operations that take longer than ``limits.drain`` seconds: their callers
        get :class:`Unavailable`. Stop front ends first, so that live readers have gone.
        """
        if not self._started:
            return
        self._started = False
        self._at_rest = STOPPED
        # Followers look at their stream again, and learn that the engine has stopped.
        self.fanout.publish(None)
        try:
            await self._probe.stop()
            await self._upkeep.stop_sweeping()
            await self.subscriptions.stop()
            try:
                async with asyncio.timeout(self.limits.drain):
                    # What finishes may begin more: a deleted fork releases its source, and so on.
                    while self._upkeep.busy or not self._queues.idle:
                        await self._queues.drained()
                        await self._upkeep.finish()
            except TimeoutError:
                log.warning("some operations did not finish in %s s", self.limits.drain)
            await self._queues.abandon()
            await self._upkeep.cancel(STUCK_SECONDS)
        finally:
            await self._close()

    async def set_quotas(self, quotas: Sequence[Quota]) -> None:
        """Have other quotas from now on. A stream that is already larger stays.

        A prefix that had no quota before is bounded once the store has been counted. Raises what
        the store raises when it is counted.
        """
        if tuple(quotas) == self._quotas_given and not self._recount:
            return
        self._quotas_given = tuple(quotas)
        if not self._started:
            return
        replacement = Quotas(quotas) if quotas else None
        before = self._queues.quotas
        self._queues.replace_quotas(replacement)
        if before is not None:
            await before.stop()
        if self._queues.quotas is not replacement:
            # Others were given meanwhile.
            return
        if replacement is not None:
            # Until it has been counted, the same quotas given again are counted again.
            self._recount = True
            await replacement.start(self.store)
            if self._queues.quotas is not replacement:
                # Others were given meanwhile, and their count goes on.
                return
        self._recount = False

    async def _close(self) -> None:
        if self._queues.quotas is not None:
            await self._queues.quotas.stop()
        if self._stop_watching is not None:
            self._stop_watching()
        await self.store.close()

    def drain(self) -> None:
        """Say in :meth:`readiness` that the engine is about to stop. Everything is still served."""
        self._draining = True

    def readiness(self) -> Readiness:
        """Whether requests should be sent here now; costs nothing to ask.

        The codes beside ``ready`` are ``starting``, ``draining`` and ``stopped`` of the engine, and
        of its store ``store-failed``, ``store-silent``, ``storage-full`` and others that the store
        names. A fault of the store is seen within two seconds, also while nobody writes, and so is
        its end.
        """
        if not self._started:
            return self._at_rest
        if self._draining:
            return DRAINING
        fault = self._probe.fault
        return READY if fault is None else Readiness(fault.code, fault.message)

    @property
    def started(self) -> bool:
        """Whether the engine runs in this process."""
        return self._started

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop in which the engine runs, or None if it does not run.

        From another thread, hand it work: ``asyncio.run_coroutine_threadsafe(…, engine.loop)``.
        """
        return self._loop if self._started else None

    def require_started(self) -> None:
        """Raise :class:`Unavailable` where a store that may be closed would be asked."""
        if not self._started:
            raise stopped()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @asynccontextmanager
    async def lifespan(self, _app: object = None) -> AsyncIterator[None]:
        """For ``FastAPI(lifespan=engine.lifespan)`` and other ASGI frameworks."""
        async with self:
            yield

    def metrics(self) -> Iterator[Metric]:
        """What this engine, its subscriptions and its store count, at once; started or not."""
        ready = int(self.readiness().ready)
        yield metric("ready", "1 if requests should be sent here, as /ready says, else 0.", ready)
        yield from self.meter.metrics()
        yield from self.subscriptions.metrics()
        yield from self.store.metrics()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run work that belongs to the engine and not to a caller."""
        return self._upkeep.spawn(work)

    async def sweep(self) -> None:
        """End every life that is over now; the engine does so itself about once a second."""
        await self._upkeep.sweep()

    # Changing streams.

    def submit(self, path: str, operation: Operation[Any], on_result: OnResult) -> Ticket:
        """Put an operation into its commit queue.

        ``on_result`` is called once with the result or a :class:`ProtocolError`, perhaps before
        this returns. Raises :class:`Unavailable` when too much waits already.
        """
        return self._queues.submit(path, operation, on_result)

    async def perform(self, path: str, operation: Operation[Any]) -> Any:
        """The result of an operation; cancelling this only stops the waiting.

        Raises the :class:`ProtocolError` that ends it.
        """
        future, ticket = as_future(partial(self._queues.submit, path, operation))
        try:
            result = await future
        except asyncio.CancelledError:
            ticket.cancel()
            raise
        if isinstance(result, ProtocolError):
            raise result
        return result

    def creation(self, requested: CreationRequest, body: Body, *, closed: bool) -> Create:
        """The operation that creates a stream which is not a fork."""
        return Create(
            new_incarnation(),
            requested,
            requested.content_type or DEFAULT_CONTENT_TYPE,
            requested.ttl,
            requested.expires_at,
            closed,
            body,
        )

    async def create_fork(
        self, path: str, requested: CreationRequest, body: Body, *, closed: bool
    ) -> Created:
        """Create or ensure a fork; goes on to a clean end if the caller goes away."""
        self.require_started()
        task = self.spawn(self._forks.create(path, requested, body, closed=closed))
        created: Created = await asyncio.shield(task)
        return created

    async def delete_as(self, path: str, operation: Delete) -> None:
        """Delete a stream, perhaps under a condition; raises :class:`PreconditionFailed`."""
        removed = await self.perform(path, operation)
        if removed.head is not None:
            await self._upkeep.released(removed.head.incarnation)

    async def prepare(self, body: Body, content_type: str) -> None:
        """Check a large JSON body off the event loop; an error stays for the decision to raise."""
        if is_large_json(body, content_type):
            await check_json(body)

    def _applied(self, draft: Draft, commit: Commit, facts: Facts | None) -> None:
        """Follow up on a commit."""
        delta = commit.delta
        if (
            commit.guard.deadline is not None
            and ends_life(draft, commit)
            and not draft.path.startswith(_RESERVED)
        ):
            self.meter.expired += 1
        if delta.remove or delta.fields:
            self._upkeep.applied(draft, commit, facts)
        if self._hooks and not draft.path.startswith(_RESERVED):
            call_hooks(self._hooks, draft, commit)

    # Reading streams.

    def page_nowait(
        self, path: str, offset: Offset | None, limit: int | None = None
    ) -> Page | None:
        """A page at once, or None when it has to be waited for (see :meth:`page`)."""
        if not self._started:
            raise stopped()
        try:
            page = self._pages.page_nowait(path, offset, limit or self.limits.page_bytes)
        except Unconfirmed:
            return None
        if page is not None and page.head.deadline and self._renewal_due(page.head):
            return None
        return page

    def look_for_page(
        self, path: str, offset: Offset | None, done: OnPage, limit: int | None = None
    ) -> bool:
        """Whether ``done`` will be called, later and without a task; else :meth:`page` it."""
        self.require_started()

        def found(page: Page | Head | Exception) -> None:
            # Renewing the lifetime takes a task.
            if isinstance(page, Page) and self._renewal_due(page.head):
                page = page.head
            done(page)

        return self._pages.look(path, offset, limit or self.limits.page_bytes, found)

    async def page(
        self,
        path: str,
        offset: Offset | None,
        limit: int | None = None,
        *,
        head: Head | None = None,
    ) -> Page:
        """A page from ``offset`` (None: the tail) of about ``limit`` bytes.

        ``head`` is one that was just looked at, if there is one. Renews the stream's lifetime where
        that is due. Raises what the protocol answers a read.
        """
        while True:
            self.require_started()
            known, head = head, None
            try:
                page = await self._pages.page(path, offset, limit or self.limits.page_bytes, known)
            except Unconfirmed:
                await self._forks.resolve(path)
                continue
            if self._renewal_due(page.head):
                await self._renew(path)
            return page

    def head_nowait(self, path: str) -> Head | None:
        """The head of a live stream at once, or None when it has to be waited for."""
        if self._local is None:
            return None
        self.require_started()
        facts = self._local.peek(path)
        try:
            return check_live(None if facts is None else facts.head, self.store.now())
        except Unconfirmed:
            return None

    async def live_head(self, path: str) -> Head:
        """The head of a live stream; raises NotFound or Gone."""
        while True:
            self.require_started()
            facts = await self.store.load(path)
            try:
                return check_live(None if facts is None else facts.head, self.store.now())
            except Unconfirmed:
                await self._forks.resolve(path)

    def cursor(self, sent: str | None) -> str:
        """The cursor of a live response, given the one that the client sent (§10.1)."""
        jitter = 0 if sent is None else random.randint(1, MAX_JITTER_SECONDS)
        return live_cursor(self.store.now(), sent, jitter)

    def _changed(self, changes: Sequence[Change] | None) -> None:
        if changes is None:
            self._pages.forget()
        self.fanout.publish(changes)

    async def _check_readable(self, path: str, offset: Offset) -> None:
        """Raise what a read from an offset would meet."""
        try:
            await self._pages.page(path, offset, 1)
        except Unconfirmed:
            raise no_stream() from None

    def _renewal_due(self, head: Head) -> bool:
        """Whether reading has to renew the stream's sliding lifetime."""
        if not head.deadline:
            return False
        ttl = birth_of(head).ttl
        return ttl is not None and renewal_due(ttl, head.deadline, self.store.now())

    async def _renew(self, path: str) -> None:
        """Renew a lifetime for a reader, who gets the data also where that cannot be stored."""
        try:
            await self.perform(path, Touch())
        except Unavailable as error:
            log.warning("renewing a stream's lifetime failed: %s", error)
