"""The handle of one stream: every operation of the protocol (§5)."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, TypeVar, overload

from durable_streams_client import messages
from durable_streams_client._async.context import AsyncContext
from durable_streams_client._async.producer import AsyncProducer, new_producer
from durable_streams_client._async.reader import AsyncReader
from durable_streams_client.addresses import header_path, path_of
from durable_streams_client.batches import decoder_for
from durable_streams_client.checkpoints import AsyncCheckpoint, Checkpoint
from durable_streams_client.encoding import encode_all, join, kind_of
from durable_streams_client.errors import InvalidArgument, NotFound, StreamExists, public_url
from durable_streams_client.messages import Appended, Created, Reply, Request, StreamInfo
from durable_streams_client.options import LIVE_MODES, Extra, Live
from durable_streams_client.producing import ProducerLimits
from durable_streams_core import protocol
from durable_streams_core.content import Kind

T = TypeVar("T")


class AsyncStream:
    """One stream of one server, made by :meth:`AsyncClient.stream`. It holds no connection.

    Methods raise ``ClientError``, among them
    ``NotFound`` if there is no such stream.
    """

    def __init__(
        self,
        context: AsyncContext,
        url: str,
        extra: Extra,
        *,
        content_type: str | None,
    ) -> None:
        self.url = url
        self.content_type = content_type
        """As far as it is known without asking."""
        self._context = context
        self._extra = extra

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {public_url(self.url)}>"

    # -- its life ----------------------------------------------------------------------------------

    async def create(
        self,
        *,
        content_type: str | None = None,
        ttl: int | None = None,
        expires_at: datetime | str | None = None,
        closed: bool = False,
        data: Any = None,
        exist_ok: bool = True,
    ) -> Created:
        """Create the stream (§5.1), or find that it exists with the same configuration.

        ``ttl`` is seconds since the last read or write, ``expires_at`` a moment. ``data`` is the
        first content: on a JSON stream one value, else bytes or text. ``closed`` makes it final.
        Without ``exist_ok`` an existing stream raises
        ``StreamExists``, as one with another configuration always
        does.
        """
        content_type = content_type or self.content_type
        lifetime = messages.lifetime_headers(ttl, expires_at)
        content = None
        kind = kind_of(content_type or protocol.DEFAULT_CONTENT_TYPE)
        if data is not None:
            content = join(kind, encode_all(kind, [data]))
        request = messages.create_request(
            self.url, content_type=content_type, lifetime=lifetime, closed=closed, content=content
        )
        return await self._put(request, content_type, exist_ok=exist_ok)

    async def fork(
        self,
        source: "AsyncStream | str",
        *,
        offset: str | None = None,
        sub_offset: int | None = None,
        content_type: str | None = None,
        ttl: int | None = None,
        expires_at: datetime | str | None = None,
        exist_ok: bool = True,
    ) -> Created:
        """Create this stream as a fork of ``source``, a handle or path on the same server (§4.2).

        It begins with what ``source`` holds before ``offset``, by default all of it, and with
        ``sub_offset`` messages (or bytes, where it is no JSON) more.
        """
        request = messages.fork_request(
            self.url,
            source=path_of(source.url) if isinstance(source, AsyncStream) else header_path(source),
            offset=offset,
            sub_offset=sub_offset,
            content_type=content_type,
            lifetime=messages.lifetime_headers(ttl, expires_at),
        )
        return await self._put(request, content_type, exist_ok=exist_ok)

    async def _put(self, request: Request, content_type: str | None, *, exist_ok: bool) -> Created:
        reply = await self._call(request)
        created = messages.created_of(self.url, reply, content_type)
        if not exist_ok and not created.created and not reply.uncertain:
            raise StreamExists(
                "The stream exists.", method="PUT", url=self.url, status=reply.head.status
            )
        self.content_type = created.content_type
        return created

    async def delete(self, *, missing_ok: bool = False) -> None:
        """Delete the stream and its data (§5.4). With ``missing_ok`` it may be gone already."""
        request = Request("DELETE", self.url)
        reply = await self._call(request, accept=(404,))
        if reply.head.status == 404 and not missing_ok and not reply.uncertain:
            raise messages.error_of(request, reply.head, reply.body)
        await self._context.appends.forget(self.url)

    async def head(self) -> StreamInfo:
        """What the server says about the stream (§5.5). Asking does not prolong its life."""
        reply = await self._call(Request("HEAD", self.url))
        info = messages.info_of(self.url, reply.head)
        self.content_type = info.content_type
        return info

    async def exists(self) -> bool:
        """Whether the stream is there."""
        try:
            await self.head()
        except NotFound:
            return False
        return True

    # -- writing -----------------------------------------------------------------------------------

    async def append(self, data: Any, *, seq: str | None = None) -> Appended:
        """Append one piece (§5.2): bytes or str, or on a JSON stream one value.

        On a JSON stream bytes are one message that is JSON text already, and everything else is
        encoded, a str too. ``seq`` is a ``Stream-Seq``: it must rise from append to append, in
        byte order, or the append is refused with
        ``SequenceConflict``.

        It is stored exactly once, also when answers are lost and it has to be repeated, unless an
        error says otherwise.
        """
        return await self.append_many([data], seq=seq)

    async def append_many(self, items: Iterable[Any], *, seq: str | None = None) -> Appended:
        """Append several pieces in one request: all of them or none.

        Nothing to append is refused by the server, with
        ``InvalidRequest``.
        """
        kind = await self._kind()
        parts = encode_all(kind, items)
        content = join(kind, parts) if parts else b""
        return await self._append(content, close=False, seq=seq)

    async def close_stream(self, data: Any = None, *, seq: str | None = None) -> Appended:
        """End the stream for all its readers, with ``data`` as its last piece if given (§5.3).

        Closing a closed stream without data changes nothing.
        """
        content = b""
        if data is not None:
            kind = await self._kind()
            content = join(kind, encode_all(kind, [data]))
        return await self._append(content, close=True, seq=seq)

    async def _append(self, content: bytes, *, close: bool, seq: str | None) -> Appended:
        return await self._context.appends.append(
            self.url,
            content,
            content_type=self.content_type,
            close=close,
            seq=seq,
            extra=self._extra,
        )

    async def _kind(self) -> Kind:
        return kind_of(await self._known_content_type())

    async def _known_content_type(self) -> str:
        """The content type; asks the server if it is not known yet."""
        if self.content_type is None:
            await self.head()
        assert self.content_type is not None
        return self.content_type

    def producer(
        self,
        producer_id: str | None = None,
        *,
        epoch: int | None = None,
        auto_claim: bool | None = None,
        limits: ProducerLimits | None = None,
    ) -> AsyncProducer:
        """A producer for many small appends: batched, pipelined, stored exactly once (§5.2.1).

        Give ``producer_id`` if a restarted program shall take over from its former self, which
        then is fenced off. Its ``epoch`` must rise with every restart; left out, it is the time.
        ``auto_claim`` lets a starting producer outbid a higher epoch that the server knows.
        """
        return new_producer(
            self._context,
            self.url,
            self._extra,
            self._known_content_type,
            producer_id=producer_id,
            epoch=epoch,
            auto_claim=auto_claim,
            limits=limits or ProducerLimits(),
        )

    # -- reading -----------------------------------------------------------------------------------

    @overload
    def read(self, offset: str = ..., *, decode: None = None) -> AsyncReader[Any]: ...
    @overload
    def read(self, offset: str = ..., *, decode: type[T]) -> AsyncReader[T]: ...
    def read(self, offset: str = protocol.START, *, decode: Any = None) -> AsyncReader[Any]:
        """Read from ``offset`` to the present tail, page by page (§5.6).

        ``decode`` is the type of the messages of a JSON stream. A page that cannot be fetched is
        tried ``read_attempts`` times.
        """
        return self._reader(offset, None, None, decode)

    @overload
    def follow(
        self,
        offset: str = ...,
        *,
        live: Live = ...,
        checkpoint: Checkpoint | AsyncCheckpoint | None = ...,
        decode: None = None,
    ) -> AsyncReader[Any]: ...
    @overload
    def follow(
        self,
        offset: str = ...,
        *,
        live: Live = ...,
        checkpoint: Checkpoint | AsyncCheckpoint | None = ...,
        decode: type[T],
    ) -> AsyncReader[T]: ...
    def follow(
        self,
        offset: str = protocol.START,
        *,
        live: Live = "auto",
        checkpoint: Checkpoint | AsyncCheckpoint | None = None,
        decode: Any = None,
    ) -> AsyncReader[Any]:
        """Read from ``offset`` and go on as data comes, until the stream is closed (§5.7, §5.8).

        ``live`` says how to wait: ``"auto"`` takes SSE and falls back to long-poll. Faults are
        waited out, by default for ever. ``checkpoint`` is where reading goes on, if it has
        something saved, and is saved to after each batch has been handled.
        """
        if live not in LIVE_MODES:
            raise InvalidArgument(f"live must be one of {', '.join(LIVE_MODES)}")
        return self._reader(offset, live, checkpoint, decode)

    def _reader(
        self, offset: str, live: Live | None, checkpoint: Any, decode: Any
    ) -> AsyncReader[Any]:
        if not offset:
            raise InvalidArgument("offset must be START, NOW or an offset that a server gave")
        return AsyncReader(
            self._context,
            self.url,
            self._extra,
            offset=offset,
            live=live,
            checkpoint=checkpoint,
            decoder=decoder_for(decode),
        )

    async def _call(self, request: Request, accept: tuple[int, ...] = ()) -> Reply:
        return await self._context.calls.call(request, extra=self._extra, accept=accept)
