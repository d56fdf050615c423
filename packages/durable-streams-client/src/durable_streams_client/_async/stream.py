"""The handle of one stream, with every operation of the protocol (§5)."""

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar, overload

from durable_streams_client import messages
from durable_streams_client._async.context import AsyncContext
from durable_streams_client._async.producer import AsyncProducer, new_producer
from durable_streams_client._async.reader import AsyncReader
from durable_streams_client.addresses import header_path, path_of
from durable_streams_client.batches import Decoding
from durable_streams_client.checkpoints import AsyncCheckpoint, Checkpoint
from durable_streams_client.encoding import encode_all, join, kind_of
from durable_streams_client.errors import InvalidArgument, NotFound, StreamExists, public_url
from durable_streams_client.item_types import Validator, decoder_for
from durable_streams_client.messages import Appended, Created, Request, StreamInfo, WholeResponse
from durable_streams_client.options import LIVE_MODES, ON_BAD, Extra, Live, OnBad
from durable_streams_client.producing import ProducerLimits
from durable_streams_client.resuming import Progress, parse_offset, whole_offset
from durable_streams_client.spans import Span
from durable_streams_core import protocol
from durable_streams_core.content import Kind

if TYPE_CHECKING:
    from typing_extensions import TypeForm

T = TypeVar("T")


class AsyncStream:
    """One stream of a server, made by ``AsyncClient.stream``.

    It holds no connection and needs no closing; tasks and threads may share it. ``url`` is the
    stream's URL.

    Methods that send a request may raise what ``AsyncClient`` lists. All but ``create`` and
    ``exists`` raise ``NotFound`` if there is no such stream, and ``Gone`` if it was deleted but
    still has forks.

    Long because each operation of the protocol has its method and its contract here.

    >>> letters = client.stream("letters")
    >>> created = await letters.create(content_type="application/json")
    >>> appended = await letters.append_many(["a", "b"])
    >>> await letters.read().read_items()
    ['a', 'b']
    >>> await letters.delete()
    >>> await letters.exists()
    False
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
        """The stream's content type, or None until a response or the caller has told it."""
        self._context = context
        self._extra = extra

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {public_url(self.url)}>"

    # -- creating and deleting -------------------------------------------------------------------

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
        """Create the stream, or check that it exists with the same configuration (§5.1).

        - ``content_type``: by default the handle's, or else ``application/octet-stream``.
        - ``ttl``: the lifetime in whole seconds after the last read or write.
        - ``expires_at``: the end of life instead, as an aware ``datetime`` or in RFC 3339.
        - ``data``: the first content, encoded as ``append`` does.
        - ``closed``: creates the stream closed, so that ``data`` is all it ever holds.
        - ``exist_ok``: without it, a stream that exists already is an error.

        Returns a ``Created``.

        Raises ``StreamExists`` if the stream exists with another configuration, or exists at all
        and ``exist_ok`` is false; ``Gone`` if forks of a deleted stream still use the name;
        ``TooLarge``; ``InvalidArgument`` for arguments that have no meaning.

        >>> made = await client.stream("letters").create(content_type="text/plain", ttl=3600)
        >>> made.created
        True
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
        """Create this stream as a fork, which begins with data of another stream (§4.2).

        - ``source``: the other stream, as a handle or a path on the same server.
        - ``offset``: where the fork leaves the source, one that a server, a batch or a reader gave;
          by default at its tail.
        - ``sub_offset``: this many more messages of a JSON stream, or bytes of another.
        - ``content_type``, ``ttl``, ``expires_at``, ``exist_ok``: as for ``create``; by default the
          fork has the content type of the source.

        Returns a ``Created``.

        Raises ``NotFound`` or ``Gone`` for the source; ``Conflict`` if this stream exists with
        another configuration; ``StreamExists`` if it exists and ``exist_ok`` is false;
        ``InvalidRequest`` for an offset that is not in the source; ``InvalidArgument``.

        >>> copy = client.stream("copy")
        >>> made = await copy.fork(stream, offset="00000002")
        >>> await copy.read().read_items()
        [1, 2]
        """
        if offset is not None:
            place = parse_offset(offset)
            offset = place.offset
            sub_offset = (sub_offset or 0) + place.count if place.count else sub_offset
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
        with self._span("PUT", "create") as span:
            response = await self._call(request, span)
            created = messages.created_of(self.url, response, content_type)
            if not exist_ok and not created.created and not response.uncertain:
                raise StreamExists(
                    "The stream exists.", method="PUT", url=self.url, status=response.head.status
                )
        self.content_type = created.content_type
        return created

    async def delete(self, *, missing_ok: bool = False) -> None:
        """Delete the stream and its data (§5.4).

        Raises ``NotFound`` if there is none, unless ``missing_ok`` is true.

        >>> await stream.delete()
        >>> await stream.delete(missing_ok=True)
        """
        request = Request("DELETE", self.url)
        with self._span("DELETE", "delete") as span:
            response = await self._call(request, span, accept=(404,))
            if response.head.status == 404 and not missing_ok and not response.uncertain:
                raise messages.error_of(request, response.head, response.body)
        await self._context.appends.forget(self.url)

    async def head(self) -> StreamInfo:
        """Return the content type, tail, state and lifetime of the stream (§5.5).

        This does not renew the lifetime. Raises ``NotFound`` or ``Gone``.

        >>> info = await stream.head()
        >>> info.content_type, info.offset, info.closed
        ('application/json', '00000003', False)
        """
        with self._span("HEAD", "head") as span:
            return await self._head(span)

    async def _head(self, span: Span) -> StreamInfo:
        response = await self._call(Request("HEAD", self.url), span)
        info = messages.info_of(self.url, response.head)
        self.content_type = info.content_type
        return info

    async def exists(self) -> bool:
        """Return whether the stream exists. Raises ``Gone`` if it was deleted but has forks.

        >>> await stream.exists(), await client.stream("missing").exists()
        (True, False)
        """
        with self._span("HEAD", "head") as span:
            try:
                await self._head(span)
            except NotFound:
                return False
        return True

    # -- writing -----------------------------------------------------------------------------------

    async def append(
        self, data: Any, *, seq: str | None = None, expected: str | None = None
    ) -> Appended:
        """Append one message of a JSON stream, or bytes of any other (§5.2).

        The data is stored exactly once, even if responses are lost and the request is repeated.

        - ``data``: on a JSON stream one value, which is encoded as one message, or ``bytes`` that
          are JSON text already. On other streams ``bytes``, or ``str`` as UTF-8.
        - ``seq``: the ``Stream-Seq`` of the append. It must be greater than that of the append
          before it, compared byte by byte.
        - ``expected``: the offset that must be the tail, so that nothing was appended since you
          read up to it. An extension of our server; the first such append of a client sends a
          request that finds out whether the server has it.

        Returns an ``Appended`` with the tail after the data.

        Raises ``StreamClosed``; ``SequenceConflict`` if ``seq`` is not greater; ``TailMoved``, with
        the tail, if it is not ``expected``; ``NotSupported`` if the server cannot tell;
        ``TooLarge``; ``Conflict``; ``NotFound``; ``Gone``; ``InvalidArgument`` for data that cannot
        be encoded.
        After a ``TransportError``, ``Unavailable`` or ``MalformedResponse`` the data may be stored.

        >>> appended = await stream.append({"n": 4}, expected="00000003")
        >>> appended.offset
        '00000004'
        """
        return await self.append_many([data], seq=seq, expected=expected)

    async def append_many(
        self, items: Iterable[Any], *, seq: str | None = None, expected: str | None = None
    ) -> Appended:
        """Append several messages or pieces in one request: all of them or none (§5.2).

        ``items`` are encoded one by one as ``append`` does. ``seq``, ``expected``, the result and
        the errors are those of ``append``; the server refuses an empty append with
        ``InvalidRequest``.

        >>> appended = await stream.append_many([4, 5])
        >>> appended.offset
        '00000005'
        """
        with self._span("POST", "append") as span:
            kind = await self._kind(span)
            parts = encode_all(kind, items)
            content = join(kind, parts) if parts else b""
            return await self._append(content, span, close=False, seq=seq, expected=expected)

    async def close_stream(
        self, data: Any = None, *, seq: str | None = None, expected: str | None = None
    ) -> Appended:
        """Close the stream for ever, with ``data`` as its last content if given (§5.3).

        Readers get everything up to the end and then stop. Closing a closed stream again, without
        data, changes nothing.

        ``data``, ``seq`` and ``expected`` are those of ``append``, and so are the errors. Returns
        an ``Appended`` with the final offset.

        >>> appended = await stream.close_stream(4)
        >>> appended.offset, appended.closed
        ('00000004', True)
        """
        content = b""
        with self._span("POST", "append") as span:
            if data is not None:
                kind = await self._kind(span)
                content = join(kind, encode_all(kind, [data]))
            return await self._append(content, span, close=True, seq=seq, expected=expected)

    async def _append(
        self, content: bytes, span: Span, *, close: bool, seq: str | None, expected: str | None
    ) -> Appended:
        if expected is not None:
            expected = whole_offset(expected, "expected")
        return await self._context.appends.append(
            self.url,
            content,
            content_type=self.content_type,
            close=close,
            seq=seq,
            expected=expected,
            extra=self._extra,
            span=span,
        )

    async def _kind(self, span: Span) -> Kind:
        """The kind of the stream; asks the server if its content type is not known yet."""
        return kind_of(self.content_type or (await self._head(span)).content_type)

    async def _known_content_type(self) -> str:
        return self.content_type or (await self.head()).content_type

    def producer(
        self,
        producer_id: str | None = None,
        *,
        epoch: int | None = None,
        auto_claim: bool | None = None,
        limits: ProducerLimits | None = None,
    ) -> AsyncProducer:
        """Return a producer, for many small appends that are stored exactly once (§5.2.1).

        - ``producer_id``: a name, so that a restarted program takes over and the server refuses
          late requests of the earlier run. By default a random one.
        - ``epoch``: the number of this run, which must be greater for every run. By default the
          time for a named producer, and 0 for a random name.
        - ``auto_claim``: lets a starting producer use a greater epoch than one that the server
          knows. By default only if ``epoch`` is left out.
        - ``limits``: sizes of batches and of the queue; by default ``ProducerLimits()``.

        Sends no request. Raises ``InvalidArgument`` for an id or epoch that no server takes.

        >>> async with stream.producer() as producer:
        ...     await producer.append(4)
        >>> await stream.read("00000003").read_items()
        [4]
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
    def read(
        self,
        offset: str = ...,
        *,
        decode: None = None,
        on_bad: OnBad = ...,
        max_items: int | None = ...,
    ) -> AsyncReader[Any]: ...
    @overload
    def read(
        self,
        offset: str = ...,
        *,
        decode: Validator[T],
        on_bad: OnBad = ...,
        max_items: int | None = ...,
    ) -> AsyncReader[T]: ...
    @overload
    def read(
        self,
        offset: str = ...,
        *,
        decode: "TypeForm[T]",
        on_bad: OnBad = ...,
        max_items: int | None = ...,
    ) -> AsyncReader[T]: ...
    @overload
    def read(
        self,
        offset: str = ...,
        *,
        decode: Callable[[Any], T],
        on_bad: OnBad = ...,
        max_items: int | None = ...,
    ) -> AsyncReader[T]: ...
    def read(
        self,
        offset: str = protocol.START,
        *,
        decode: Any = None,
        on_bad: OnBad = "raise",
        max_items: int | None = None,
    ) -> AsyncReader[Any]:
        """Return a reader from ``offset`` to the tail, page by page (§5.6).

        - ``offset``: ``START``, ``NOW``, or an offset that a server, a batch or a reader gave.
        - ``decode``: the type of the messages of a JSON stream: anything that msgspec decodes, such
          as a ``Struct``, a dataclass or a ``TypedDict``; a pydantic model or ``TypeAdapter``; a
          union; or a function that is called with the value of each message. By default messages
          are dicts, lists and so on.
        - ``on_bad``: what to do with a message that does not fit ``decode``: ``"raise"`` a
          ``DecodeError``, or ``"skip"`` it with a warning in the log.
        - ``max_items``: at most so many messages of a JSON stream make a batch. By default a batch
          is what the server sent at once.

        Sends no request before it is iterated over; ``AsyncReader`` says what that raises. A page
        is asked for ``RetryPolicy.read_attempts`` times at most. Raises ``InvalidArgument`` for
        arguments that have no meaning.

        >>> async for batch in stream.read("00000001", decode=int):
        ...     print(batch.items(), batch.offset)
        [2, 3] 00000003
        """
        return self._reader(offset, None, Progress(max_items=max_items), decode, on_bad)

    @overload
    def follow(
        self,
        offset: str = ...,
        *,
        decode: None = None,
        live: Live = ...,
        checkpoint: Checkpoint | AsyncCheckpoint | None = ...,
        save_every: int | None = ...,
        on_bad: OnBad = ...,
        max_items: int | None = ...,
    ) -> AsyncReader[Any]: ...
    @overload
    def follow(
        self,
        offset: str = ...,
        *,
        decode: Validator[T],
        live: Live = ...,
        checkpoint: Checkpoint | AsyncCheckpoint | None = ...,
        save_every: int | None = ...,
        on_bad: OnBad = ...,
        max_items: int | None = ...,
    ) -> AsyncReader[T]: ...
    @overload
    def follow(
        self,
        offset: str = ...,
        *,
        decode: "TypeForm[T]",
        live: Live = ...,
        checkpoint: Checkpoint | AsyncCheckpoint | None = ...,
        save_every: int | None = ...,
        on_bad: OnBad = ...,
        max_items: int | None = ...,
    ) -> AsyncReader[T]: ...
    @overload
    def follow(
        self,
        offset: str = ...,
        *,
        decode: Callable[[Any], T],
        live: Live = ...,
        checkpoint: Checkpoint | AsyncCheckpoint | None = ...,
        save_every: int | None = ...,
        on_bad: OnBad = ...,
        max_items: int | None = ...,
    ) -> AsyncReader[T]: ...
    def follow(
        self,
        offset: str = protocol.START,
        *,
        decode: Any = None,
        live: Live = "auto",
        checkpoint: Checkpoint | AsyncCheckpoint | None = None,
        save_every: int | None = None,
        on_bad: OnBad = "raise",
        max_items: int | None = None,
    ) -> AsyncReader[Any]:
        """Return a reader from ``offset`` to the end of the stream, live (§5.7, §5.8).

        It reads what is stored and then waits for more, until the stream is closed. After faults of
        the network or the server it goes on where it was, by default for ever; see
        ``RetryPolicy.follow_attempts``.

        - ``offset``, ``decode``, ``on_bad``, ``max_items``: as for ``read``.
        - ``live``: how to wait: ``"sse"``, ``"long-poll"``, or ``"auto"``, which uses SSE and falls
          back to long-poll.
        - ``checkpoint``: if it holds an offset, reading begins there instead. It is saved after
          each batch was handled, that is when the next one is asked for.
        - ``save_every``: saves the checkpoint also inside a batch, each time that ``items()`` has
          handed out so many messages and they were handled. With 1, a crash repeats one message at
          most.

        Sends no request before it is iterated over; ``AsyncReader`` says what that raises. Raises
        ``InvalidArgument`` for arguments that have no meaning.

        >>> appended = await stream.close_stream(4)
        >>> async for item in stream.follow("00000002").items():
        ...     print(item)
        3
        4
        """
        if live not in LIVE_MODES:
            raise InvalidArgument(f"live must be one of {', '.join(LIVE_MODES)}")
        return self._reader(
            offset, live, Progress(checkpoint, save_every, max_items), decode, on_bad
        )

    def _reader(
        self, offset: str, live: Live | None, progress: Progress, decode: Any, on_bad: OnBad
    ) -> AsyncReader[Any]:
        if not offset:
            raise InvalidArgument(
                "offset must be START, NOW or an offset that a server gave, not empty"
            )
        if on_bad not in ON_BAD:
            raise InvalidArgument(f"on_bad must be one of {', '.join(ON_BAD)}")
        return AsyncReader(
            self._context,
            self.url,
            self._extra,
            offset=offset,
            live=live,
            decoding=Decoding(decoder_for(decode), on_bad == "skip"),
            progress=progress,
        )

    def _span(self, method: str, action: str) -> Span:
        return self._context.calls.span(method, action, self.url)

    async def _call(
        self, request: Request, span: Span, accept: tuple[int, ...] = ()
    ) -> WholeResponse:
        calls = self._context.calls
        return await calls.call(request, extra=self._extra, span=span, accept=accept)
