"""The engine: streams for the process that runs it, over any store, with no HTTP in it.

It puts operations into their stream's commit queue, notifies waiting readers, renews and ends
lifetimes, and cleans up after forks. Front ends are built on it, and an application uses it
directly:

    async with Engine("file:./data") as streams:
        await streams.create("chats/42", content_type="application/json")
        await streams.append("chats/42", {"t": "Hello"})
        async for batch in streams.follow("chats/42"):
            ...
"""

import asyncio
import logging
import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timedelta
from typing import Any, Self

import msgspec

from durable_streams_core.content import Kind, media_type
from durable_streams_core.cursors import MAX_JITTER_SECONDS, live_cursor
from durable_streams_core.drafts import Draft
from durable_streams_core.entities import DELETED, FORKING, LIVE, Change, Commit, Facts, Head
from durable_streams_core.errors import InvalidRequest, OffsetGone, ProtocolError, Unavailable
from durable_streams_core.expiry import parse_expires_at, parse_ttl, renewal_due
from durable_streams_core.offsets import Offset
from durable_streams_core.operations import (
    EMPTY_BODY,
    Append,
    Appended,
    Body,
    Create,
    Created,
    Delete,
    Expire,
    ForgetProducers,
    Operation,
    ProducerClaim,
    Touch,
    Unconfirmed,
    no_stream,
)
from durable_streams_core.paths import check_path
from durable_streams_core.protocol import (
    DEFAULT_CONTENT_TYPE,
    MAX_PRODUCER_ID_BYTES,
    MAX_SAFE_INTEGER,
    MAX_SEQ_BYTES,
    RESERVED_SEGMENT,
    START,
)
from durable_streams_core.reads import parse_read_offset
from durable_streams_core.store import LocalStore, Store, check_api, create_store
from durable_streams_core.streams import (
    PRODUCER,
    Asked,
    Origin,
    birth_of,
    decode_producer,
    expired,
)
from durable_streams_core.values import encode_value
from durable_streams_server import process_forks
from durable_streams_server.engine.commit_queue import CommitQueues, Done, Ticket, stopped
from durable_streams_server.engine.fanout import Fanout, Notification
from durable_streams_server.engine.forks import Forks
from durable_streams_server.engine.limits import Limits
from durable_streams_server.engine.pages import Page, Pages, check_live
from durable_streams_server.engine.results import (
    AppendResult,
    Batch,
    StreamInfo,
    append_result,
    batch_of,
    created_info,
    stream_info,
)
from durable_streams_server.signing import ReadSigner
from durable_streams_server.subscriptions import SubscriptionOptions, Subscriptions

log = logging.getLogger("durable_streams_server.engine")

Data = bytes | bytearray | memoryview | str | object
Hook = Callable[[str, str], None]
"""Called with what happened (``created``, ``closed``, ``deleted``, ``expired``) and the path."""

LARGE_JSON = 64 * 1024
"""JSON bodies from this size on are checked off the event loop."""

SWEEP_SECONDS = 1.0
_SWEEP_PAGE = 200
_RESERVED = RESERVED_SEGMENT + "/"
_SWEEP_PAGES = 50
_STUCK_SECONDS = 0.1


class Engine:
    """Streams over one store. Start it with ``async with``, or ``start`` and ``stop``.

    ``store`` is a :class:`Store` or a URL such as ``memory:`` or ``file:./data``. ``hooks`` are
    told, in this process, of what this process did to streams.
    """

    def __init__(
        self,
        store: Store | str,
        *,
        limits: Limits | None = None,
        hooks: Sequence[Hook] = (),
        subscriptions: SubscriptionOptions | None = None,
        signing_keys: Sequence[str | bytes] = (),
    ) -> None:
        self.limits = limits or Limits()
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
        self._queues = CommitQueues(self.store, self.limits, self._applied, self._meet_unconfirmed)
        self._pages = Pages(self.store)
        self.fanout = Fanout(self.limits.max_waiting_readers)
        self._forks = Forks(
            self.store, self._pages, self.perform, new_incarnation, self.limits.chunk
        )
        self.subscriptions = Subscriptions(
            self.store, self.perform, self._check_readable, self._subscription_options
        )
        self._tasks: set[asyncio.Task[Any]] = set()
        self._releases: dict[str, asyncio.Task[None]] = {}
        self._trimming: set[str] = set()
        self._stop_watching: Callable[[], None] | None = None
        self._sweeper: asyncio.Task[None] | None = None
        self._started = False
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

    # Life.

    async def start(self) -> None:
        """Open the store and begin; safe to call again. Raises :class:`StoreError`."""
        async with self._starting:
            if self._started:
                return
            try:
                await self.store.open()
                self._queues.resume()
                # A local store loses nothing while it is open, so heads of sources stay right.
                local = self._local is not None
                self._stop_watching = self.store.watch(
                    self.fanout.publish if local else self._watched
                )
                await self.subscriptions.start()
            except BaseException:
                try:
                    await self.subscriptions.stop()
                    await self._queues.abandon()
                finally:
                    await self._close()
                raise
            self._sweeper = asyncio.create_task(self._sweep_for_ever())
            self._started = True

    async def stop(self) -> None:
        """Let what was begun finish, then close the store. Live readers should be gone by now."""
        if not self._started:
            return
        self._started = False
        # Followers look at their stream again, and learn that the engine has stopped.
        self.fanout.publish(None)
        try:
            if self._sweeper is not None:
                self._sweeper.cancel()
                await asyncio.gather(self._sweeper, return_exceptions=True)
            await self.subscriptions.stop()
            try:
                async with asyncio.timeout(self.limits.drain):
                    # What finishes may begin more: a deleted fork releases its source, and so on.
                    while self._tasks or not self._queues.idle:
                        await self._queues.drained()
                        if self._tasks:
                            await asyncio.wait(self._tasks)
            except TimeoutError:
                log.warning("some operations did not finish in %s s", self.limits.drain)
            await self._queues.abandon()
            if self._tasks:
                _, stuck = await asyncio.wait(self._tasks, timeout=_STUCK_SECONDS)
                for task in stuck:
                    task.cancel()
        finally:
            await self._close()

    def _watched(self, changes: Sequence[Change] | None) -> None:
        if changes is None:
            self._pages.forget()
        self.fanout.publish(changes)

    async def _close(self) -> None:
        if self._stop_watching is not None:
            self._stop_watching()
        await self.store.close()

    @property
    def started(self) -> bool:
        """Whether the engine runs in this process."""
        return self._started

    def _require_started(self) -> None:
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

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run something that belongs to the engine and not to a caller."""
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # Streams, for applications.

    async def create(
        self,
        path: str,
        *,
        content_type: str = DEFAULT_CONTENT_TYPE,
        ttl: int | None = None,
        expires_at: str | None = None,
        data: Data = None,
        closed: bool = False,
    ) -> StreamInfo:
        """Create a stream, or find the one that is there, asked for in the same way (§5.1).

        ``ttl`` is in seconds, ``expires_at`` RFC 3339. Raises :class:`Conflict` if another stream
        is there.
        """
        asked = asked_for(content_type, ttl, expires_at)
        body = optional_body(data)
        await self.prepare(body, content_type)
        operation = self.creation(asked, body, closed=closed)
        return created_info(path, await self.perform(check_path(path), operation))

    async def fork(
        self,
        path: str,
        source: str,
        *,
        offset: str | None = None,
        sub_offset: int = 0,
        content_type: str | None = None,
        ttl: int | None = None,
        expires_at: str | None = None,
        data: Data = None,
        closed: bool = False,
    ) -> StreamInfo:
        """Create a stream that begins with another's data, up to ``offset`` or its tail (§4.2).

        ``sub_offset`` counts messages of JSON streams, else bytes, past ``offset``.
        """
        asked = msgspec.structs.replace(
            asked_for(content_type, ttl, expires_at),
            forked_from=check_path(source),
            fork_sub_offset=sub_offset,
        )
        if offset is not None:
            asked = asked.forked_at(parse_read_offset(offset))
        return created_info(
            path,
            await self.create_fork(check_path(path), asked, optional_body(data), closed=closed),
        )

    async def append(
        self,
        path: str,
        data: Data,
        *,
        content_type: str | None = None,
        seq: str | None = None,
        producer: ProducerClaim | None = None,
        expected: str | None = None,
        close: bool = False,
    ) -> AppendResult:
        """Add data at the tail (§5.2).

        On JSON streams ``bytes`` are JSON text, of which an array is flattened, and every other
        value is encoded as one message: a ``str`` is a JSON string, None is null. Other streams
        take ``bytes``, and a ``str`` as UTF-8. ``expected`` is an offset that must still be the
        tail, or :class:`TailMoved` is raised. Raises :class:`InvalidRequest` for what JSON cannot
        hold, NaN and infinities included.
        """
        return await self._append(
            path,
            to_body(data),
            content_type=content_type,
            seq=seq,
            producer=producer,
            expected=expected,
            close=close,
        )

    async def _append(
        self,
        path: str,
        body: Body,
        *,
        content_type: str | None = None,
        seq: str | None = None,
        producer: ProducerClaim | None = None,
        expected: str | None = None,
        close: bool = False,
    ) -> AppendResult:
        check_path(path)
        if producer is not None:
            check_claim(producer)
        if content_type is not None or len(body.raw) >= LARGE_JSON:
            await self._prepare_append(path, body, content_type)
        operation = Append(
            body,
            content_type,
            close,
            None if seq is None else seq_bytes(seq),
            producer,
            None if expected is None else parse_read_offset(expected),
        )
        appended: Appended | None = self.perform_nowait(path, operation)
        if appended is None:
            appended = await self.perform(path, operation)
        elif self.fanout.behind:
            # A caller that appends in a loop must not keep subscribers from their turn.
            await asyncio.sleep(0)
        return append_result(appended)

    async def close_stream(
        self, path: str, data: Data = None, *, producer: ProducerClaim | None = None
    ) -> AppendResult:
        """Close for ever, with final data or without (§5.3).

        ``data`` None means without; closing again without data is fine.
        """
        return await self._append(path, optional_body(data), producer=producer, close=True)

    async def delete(self, path: str) -> None:
        """Delete a stream; one that forks still read is kept out of sight for them (§5.4)."""
        await self.delete_as(check_path(path), Delete())

    async def delete_as(self, path: str, operation: Delete) -> None:
        """:meth:`delete`, perhaps under a condition; raises :class:`PreconditionFailed`."""
        removed = await self.perform(path, operation)
        if removed.head is not None:
            release = self._releases.get(removed.head.incarnation)
            if release is not None:
                await asyncio.shield(release)

    async def head(self, path: str) -> StreamInfo:
        """What is known of a stream, without renewing its life (§5.5)."""
        return stream_info(path, await self.live_head(check_path(path)))

    async def read(self, path: str, offset: str = START, *, limit: int | None = None) -> Batch:
        """One page of data from ``offset``; ask again from its ``offset`` for more (§5.6)."""
        page = await self.page(check_path(path), parse_read_offset(offset), limit)
        return batch_of(page)

    async def follow(self, path: str, offset: str = START) -> AsyncIterator[Batch]:
        """Everything from ``offset``, and then whatever comes, until the stream is closed.

        Raises NotFound or Gone when the stream goes away, and :class:`OffsetGone` when it was
        replaced by another, or lost data that was yielded: start again then.
        """
        self._require_started()
        position, begun = parse_read_offset(offset), False
        waiter = Waiter()
        leave = self.fanout.subscribe(check_path(path), waiter)
        try:
            while True:
                waiter.clear()
                try:
                    page = await self.page(path, position)
                except InvalidRequest:
                    if not begun:
                        raise
                    # It was an offset of this stream before.
                    raise OffsetGone from None
                position, begun = page.offset, True
                if page.data or page.closed:
                    yield batch_of(page)
                if page.closed:
                    return
                if page.up_to_date:
                    await self._until_news(path, waiter, page.birth.ttl)
        finally:
            leave()

    async def list(
        self, prefix: str = "", *, after: str = "", limit: int = 1000
    ) -> Sequence[StreamInfo]:
        """Streams whose path begins with ``prefix``, in order, a page at a time."""
        self._require_started()
        if not (is_unicode(prefix) and is_unicode(after)):
            raise InvalidRequest("A stream path is Unicode text.", code="invalid-path")
        found: list[StreamInfo] = []
        now = self.store.now()
        while len(found) < limit:
            wanted = limit - len(found)
            rows = await self.store.list(prefix, after, wanted)
            for path, head in rows:
                reserved = path.startswith(_RESERVED)
                if head.state == LIVE and not expired(head, now) and not reserved:
                    found.append(stream_info(path, head))
            if len(rows) < wanted:
                break
            after = rows[-1][0]
        return found

    def sign(self, path: str, expires: datetime | timedelta | float) -> str:
        """A query parameter that permits reading and following one stream until a moment.

        Append it to the stream's URL (``f"{url}?{streams.sign(path, expires=60)}"``) for a client
        that cannot send headers. ``expires`` is a moment with a time zone, or a time from now; a
        number means seconds. Raises ``ValueError`` where the engine has no ``signing_keys`` or the
        moment is in the past, and :class:`InvalidRequest` for a path that no stream can have.
        """
        if self.signer is None:
            raise ValueError("Signed URLs need a key: Engine(..., signing_keys=[...]).")
        return self.signer.sign(path, expires)

    # What front ends build on.

    def submit(self, path: str, operation: Operation[Any], done: Done) -> Ticket:
        """Put an operation into its commit queue. ``done`` gets the result or a ProtocolError,
        perhaps before this returns. Raises :class:`Unavailable` when too much waits.
        """
        return self._queues.submit(path, operation, done)

    def perform_nowait(self, path: str, operation: Operation[Any]) -> Any | None:
        """The answer at once, or None when it has to be waited for: :meth:`submit` it then.

        For operations that have an answer. Raises the ProtocolError that is the answer.
        """
        return self._queues.perform_nowait(path, operation)

    async def perform(self, path: str, operation: Operation[Any]) -> Any:
        """The answer, awaited; cancelling only stops the waiting."""
        future = asyncio.get_running_loop().create_future()

        def done(answer: object) -> None:
            if not future.done():
                future.set_result(answer)

        ticket = self._queues.submit(path, operation, done)
        try:
            answer = await future
        except asyncio.CancelledError:
            ticket.cancel()
            raise
        if isinstance(answer, ProtocolError):
            raise answer
        return answer

    def creation(self, asked: Asked, body: Body, *, closed: bool) -> Create:
        """The operation that creates what is asked for, not a fork."""
        return Create(
            new_incarnation(),
            asked,
            asked.content_type or DEFAULT_CONTENT_TYPE,
            asked.ttl,
            asked.expires_at,
            closed,
            body,
        )

    async def create_fork(self, path: str, asked: Asked, body: Body, *, closed: bool) -> Created:
        """Create or ensure a fork; goes on to a clean end if the caller goes away."""
        self._require_started()
        task = self.spawn(self._forks.create(path, asked, body, closed=closed))
        created: Created = await asyncio.shield(task)
        return created

    def page_nowait(
        self, path: str, offset: Offset | None, limit: int | None = None
    ) -> Page | None:
        """A page at once, or None when it has to be waited for (see :meth:`page`)."""
        if not self._started:
            raise stopped()
        try:
            page = self._pages.page_nowait(path, offset, limit or self.limits.chunk)
        except Unconfirmed:
            return None
        if page is not None and self._touch_due(page.head):
            return None
        return page

    async def page(self, path: str, offset: Offset | None, limit: int | None = None) -> Page:
        """A page, after renewing a sliding lifetime where that is due."""
        while True:
            self._require_started()
            try:
                page = await self._pages.page(path, offset, limit or self.limits.chunk)
            except Unconfirmed:
                await self._forks.resolve(path)
                continue
            if self._touch_due(page.head):
                await self._touch(path)
            return page

    def head_nowait(self, path: str) -> Head | None:
        """The head of a live stream at once, or None when it has to be waited for."""
        if self._local is None:
            return None
        self._require_started()
        facts = self._local.peek(path)
        try:
            return check_live(None if facts is None else facts.head, self.store.now())
        except Unconfirmed:
            return None

    async def live_head(self, path: str) -> Head:
        """The head of a live stream; raises NotFound or Gone."""
        while True:
            self._require_started()
            facts = await self.store.load(path)
            try:
                return check_live(None if facts is None else facts.head, self.store.now())
            except Unconfirmed:
                await self._forks.resolve(path)

    def cursor(self, asked: str | None) -> str:
        """The cursor of a live answer (§10.1)."""
        jitter = 0 if asked is None else random.randint(1, MAX_JITTER_SECONDS)
        return live_cursor(self.store.now(), asked, jitter)

    async def prepare(self, body: Body, content_type: str) -> None:
        """Check a large JSON body off the event loop; an error stays for the decision to raise."""
        if is_large_json(body, content_type):
            await asyncio.to_thread(_check_stored, body)

    # Behind the scenes.

    async def _prepare_append(self, path: str, body: Body, content_type: str | None) -> None:
        if content_type is not None:
            media_type(content_type)
        if len(body.raw) >= LARGE_JSON:
            stream_type = birth_of(await self.live_head(path)).content_type
            await self.prepare(body, content_type or stream_type)

    async def _check_readable(self, path: str, offset: Offset) -> None:
        """Raise what a read from an offset would meet."""
        try:
            await self._pages.page(path, offset, 1)
        except Unconfirmed:
            raise no_stream() from None

    def _touch_due(self, head: Head) -> bool:
        if not head.deadline:
            return False
        ttl = birth_of(head).ttl
        return ttl is not None and renewal_due(ttl, head.deadline, self.store.now())

    async def _touch(self, path: str) -> None:
        """Renew a life for a reader, who gets the data also where that cannot be stored."""
        try:
            await self.perform(path, Touch())
        except Unavailable as error:
            log.warning("renewing a stream's life failed: %s", error)

    async def _until_news(self, path: str, waiter: "Waiter", ttl: int | None) -> None:
        """Wait for notification, renewing the stream's life meanwhile: who follows it reads it."""
        look_again = self.limits.long_poll_timeout
        if ttl is not None:
            look_again = min(look_again, ttl / 2)
        while not waiter.told():
            try:
                async with asyncio.timeout(look_again):
                    await waiter.wait()
            except TimeoutError:
                head = await self.live_head(path)
                if self._touch_due(head):
                    await self._touch(path)

    def _applied(self, draft: Draft, commit: Commit, facts: Facts | None) -> None:
        """Follow up on a commit: hooks, the links of what was removed, producers to forget."""
        delta = commit.delta
        if not (delta.remove or delta.fields or self._hooks):
            return
        removed = draft.removed
        if (removed is not None or self._hooks) and not draft.path.startswith(_RESERVED):
            origin = None if removed is None else birth_of(removed).origin
            if removed is not None and origin is not None:
                self._release(origin, draft.path, removed.incarnation)
            if self._hooks:
                self._tell_hooks(draft, commit)
        if delta.fields:
            if self._local is not None:
                facts = self._local.peek(draft.path)
            if facts is not None and facts.counts.get(PRODUCER, 0) > self.limits.max_producers:
                self._trim(draft.path, facts)

    def _tell_hooks(self, draft: Draft, commit: Commit) -> None:
        delta = commit.delta
        events: list[str] = []
        removed = draft.removed
        # A fork counts from when it is confirmed, and a deleted source not once more when its
        # last fork is gone.
        if delta.state == DELETED or (removed is not None and removed.state == LIVE):
            events.append("expired" if commit.guard.deadline is not None else "deleted")
        created = delta.create
        confirmed = created is None and delta.state == LIVE
        if confirmed or (created is not None and created.state == LIVE):
            events.append("created")
        if confirmed:
            closed = draft.is_closed()
        else:
            closed = delta.close and (created is None or created.state == LIVE)
        if closed:
            events.append("closed")
        for event in events:
            for hook in self._hooks:
                try:
                    hook(event, draft.path)
                except Exception:
                    log.exception("a hook failed on %s", event)

    def _release(self, origin: Origin, fork: str, incarnation: str) -> None:
        task = self.spawn(self._logged(self._forks.release(origin, fork, incarnation)))
        self._releases[incarnation] = task
        task.add_done_callback(lambda _: self._releases.pop(incarnation, None))

    def _trim(self, path: str, facts: Facts) -> None:
        if path not in self._trimming:
            self._trimming.add(path)
            task = self.spawn(self._logged(self._forget_producers(path, facts.head.incarnation)))
            task.add_done_callback(lambda _: self._trimming.discard(path))

    async def _forget_producers(self, path: str, incarnation: str) -> None:
        """Forget the tenth of a stream's producers that has been idle longest."""
        entries: list[tuple[int, str, bytes]] = []
        after = ""
        while True:
            rows = await self.store.scan(path, incarnation, PRODUCER, after, 1000)
            for key, value in rows:
                entry = decode_producer(value)
                entries.append((0 if entry is None else entry.used, key, value))
            if len(rows) < 1000:
                break
            after = rows[-1][0]
        surplus = len(entries) - self.limits.max_producers * 9 // 10
        entries.sort()
        oldest = [(key, value) for _, key, value in entries[: max(0, surplus)]]
        for begin in range(0, len(oldest), 500):
            await self.perform(path, ForgetProducers(incarnation, oldest[begin : begin + 500]))

    def _meet_unconfirmed(self, path: str, ticket: Ticket) -> None:
        """An operation met an unconfirmed fork: settle that, then let it try again."""

        async def settle() -> None:
            try:
                await self._forks.resolve(path)
                answer = await self.perform(path, ticket.operation)
            except ProtocolError as error:
                answer = error
            except Exception:
                log.exception("settling a fork failed")
                answer = Unavailable("The fork here could not be settled; try again.")
            ticket.finish(answer)

        _ = self.spawn(settle())

    @staticmethod
    async def _logged(work: Awaitable[Any]) -> None:
        try:
            await work
        except ProtocolError as error:
            log.warning("clean-up is left to the sweeper: %s", error)
        except Exception:
            log.exception("clean-up failed")

    async def _sweep_for_ever(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS * random.uniform(0.8, 1.2))
            await self._logged(self.sweep())

    async def sweep(self) -> None:
        """End every life that is over and tidy up after forks that were interrupted."""
        for _ in range(_SWEEP_PAGES):
            paths = await self.store.due(self.store.now(), _SWEEP_PAGE)
            streams = [path for path in paths if not path.startswith(_RESERVED)]
            for path in streams:
                await self._logged(self._sweep_one(path))
            for path in paths:
                if path.startswith(_RESERVED):
                    self.subscriptions.due(path)
            if len(paths) < _SWEEP_PAGE or not streams:
                return

    async def _sweep_one(self, path: str) -> None:
        facts = await self.store.load(path)
        if facts is None:
            return
        if facts.head.state == LIVE:
            await self.perform(path, Expire())
        elif facts.head.state == FORKING:
            await self._forks.resolve(path)
        else:
            await self._forks.examine(path)


class Waiter:
    """A listener that is only woken; what happened is then looked up."""

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self, _notification: Notification) -> None:
        self._event.set()

    def clear(self) -> None:
        self._event.clear()

    def told(self) -> bool:
        return self._event.is_set()

    async def wait(self) -> None:
        await self._event.wait()


def new_incarnation() -> str:
    """A random id that no earlier stream of a path has had."""
    return secrets.token_hex(8)


def asked_for(content_type: str | None, ttl: int | None, expires_at: str | None) -> Asked:
    """A creation as it was asked for; raises :class:`InvalidRequest`."""
    if content_type is not None:
        media_type(content_type)
    if ttl is not None and expires_at is not None:
        raise InvalidRequest("Give a TTL or an expiry time, not both.", code="ttl-and-expires-at")
    if ttl is not None:
        ttl = parse_ttl(str(ttl))
    moment = None if expires_at is None else parse_expires_at(expires_at)
    return Asked(content_type, ttl, moment)


def is_unicode(text: str) -> bool:
    """Whether UTF-8 can express a text: not where it holds lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def seq_bytes(seq: str) -> bytes:
    """The value of ``Stream-Seq`` (§5.2); raises :class:`InvalidRequest`."""
    if not is_unicode(seq) or len(seq.encode()) > MAX_SEQ_BYTES:
        raise InvalidRequest(
            f"Stream-Seq is text of at most {MAX_SEQ_BYTES} bytes.", code="invalid-stream-seq"
        )
    return seq.encode()


def check_claim(claim: ProducerClaim) -> None:
    """Raise :class:`InvalidRequest` for a claim that no request could make (§5.2.1)."""
    if not claim.id or not is_unicode(claim.id) or len(claim.id.encode()) > MAX_PRODUCER_ID_BYTES:
        raise InvalidRequest(
            f"A producer's id is text of 1 to {MAX_PRODUCER_ID_BYTES} bytes.",
            code="invalid-producer-id",
        )
    if not (0 <= claim.epoch <= MAX_SAFE_INTEGER and 0 <= claim.seq <= MAX_SAFE_INTEGER):
        raise InvalidRequest(
            "A producer's epoch and sequence are whole numbers from 0 to 2^53-1.",
            code="invalid-number",
        )


def to_body(data: Data) -> Body:
    """The body that some data means; raises :class:`InvalidRequest` for what JSON cannot hold."""
    if isinstance(data, bytes):
        return Body(data)
    if isinstance(data, bytearray | memoryview):
        return Body(bytes(data))
    if isinstance(data, str):
        with suppress(UnicodeEncodeError):
            return Body(data.encode(), text=True)
        # Text with lone surrogates is not UTF-8; only JSON can express it, in escapes.
    try:
        return Body(encode_value(data), value=True)
    except ValueError as error:
        raise InvalidRequest(
            f"The value cannot be written as JSON: {error}.", code="invalid-json"
        ) from None


def optional_body(data: Data) -> Body:
    """As :func:`to_body`, where None means no data."""
    return EMPTY_BODY if data is None else to_body(data)


def is_large_json(body: Body, content_type: str) -> bool:
    return len(body.raw) >= LARGE_JSON and media_type(content_type).kind is Kind.JSON


def _check_stored(body: Body) -> None:
    with suppress(ProtocolError):
        body.stored(Kind.JSON)
