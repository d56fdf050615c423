"""Streams on a server, through a client."""

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn
from urllib.parse import quote

from durable_streams_client import (
    AsyncClient,
    AsyncProducer,
    Conflict,
    Fenced,
    Gone,
    NotFound,
    NotStored,
    ProducerLimits,
    SequenceGap,
    StreamClosed,
    TransportError,
)
from durable_streams_client import Unavailable as ServerUnavailable
from durable_streams_client.errors import ClientError
from durable_streams_core.errors import Unavailable
from durable_streams_core.protocol import START
from durable_streams_runs.streams import (
    PRODUCER,
    Lost,
    StreamBatch,
    Streams,
    Why,
    Writer,
)


def is_client(given: Any) -> bool:
    """Whether the streams given are a client's."""
    return isinstance(given, AsyncClient)


class ClientStreams(Streams):
    """The streams of a server. ``root`` is the URL below which clients find them, if it is not
    that of the client.
    """

    local = False

    def __init__(self, client: AsyncClient, root: str) -> None:
        self._client = client
        self._root = root if not root or root.endswith("/") else root + "/"

    async def create(
        self,
        path: str,
        content_type: str,
        *,
        data: bytes | None = None,
        ttl: int | None = None,
        closed: bool = False,
    ) -> bool:
        stream = self._client.stream(path)
        try:
            with _as_unavailable():
                await stream.create(
                    content_type=content_type, ttl=ttl, data=data, closed=closed, exist_ok=False
                )
        except (Conflict, Gone):
            return False
        return True

    async def is_closed(self, path: str) -> bool:
        return (await self._head(path)).closed  # type: ignore[no-any-return]

    async def content_type(self, path: str) -> str:
        return (await self._head(path)).content_type  # type: ignore[no-any-return]

    async def _head(self, path: str) -> Any:
        with _as_unavailable():
            return await self._client.stream(path).head()

    async def append(self, path: str, messages: list[bytes], *, close: bool = False) -> str:
        stream = self._client.stream(path, content_type="application/json")
        with _as_unavailable():
            if close:
                return (await stream.close_stream(messages[0])).offset
            return (await stream.append_many(messages)).offset

    def writer(self, path: str, content_type: str, epoch: int, *, again: bool = False) -> Writer:
        stream = self._client.stream(path, content_type=content_type)
        producer = stream.producer(PRODUCER, epoch=epoch, auto_claim=False, limits=ONE_AT_A_TIME)
        return ClientWriter(producer, stored_already=int(again))

    async def read(self, path: str, offset: str = START) -> AsyncIterator[StreamBatch]:
        with _as_unavailable():
            async for batch in self._client.stream(path).read(offset):
                yield batch

    def follow(self, path: str, offset: str = START) -> AsyncIterator[StreamBatch]:
        return self._client.stream(path).follow(offset)

    async def delete(self, path: str) -> None:
        with suppress(NotFound, Gone), _as_unavailable():
            await self._client.stream(path).delete()

    def url(self, path: str) -> str:
        return self._root + quote(path) if self._root else self._client.stream(path).url


@contextmanager
def _as_unavailable() -> Iterator[None]:
    """Raise core's error if no complete response came, which a client alone knows."""
    try:
        yield
    except TransportError as error:
        raise Unavailable(str(error)) from error


ONE_AT_A_TIME = ProducerLimits(in_flight=1, linger=0.0)


class ClientWriter(Writer):
    """Appends through a producer, which repeats what the server may not have got.

    ``stored_already`` is how many items an earlier writer may have stored under this epoch.
    """

    def __init__(self, producer: AsyncProducer, stored_already: int) -> None:
        self._producer = producer
        self._stored_already = stored_already
        self._in_hand = False
        """Whether the producer has the parts already, and only their outcome is not known."""

    async def append(self, parts: list[bytes]) -> None:
        try:
            await self._hand_over(parts)
            await self._producer.flush()
            self._in_hand = False
        except ClientError as error:
            self._fail(error)
        self._check()

    async def close(self, parts: list[bytes], end: bytes) -> None:
        try:
            await self._hand_over(parts)
            await self._producer.close_stream(end)
        except ClientError as error:
            self._fail(error)
        self._check()

    async def release(self) -> None:
        with suppress(ClientError):
            await self._producer.aclose(flush=False)

    async def _hand_over(self, parts: list[bytes]) -> None:
        if not self._in_hand:
            self._in_hand = True
            await self._producer.append_many(parts)

    def _check(self) -> None:
        if self._producer.duplicates > self._stored_already:
            raise Lost(Why.FENCED, self._producer.epoch)

    def _fail(self, error: ClientError) -> NoReturn:
        cause = error.cause if isinstance(error, NotStored) else error
        match cause:
            case StreamClosed():
                raise Lost(Why.CLOSED) from error
            case NotFound() | Gone():
                raise Lost(Why.GONE) from error
            case Fenced(epoch=epoch):
                raise Lost(Why.FENCED, epoch) from error
            case SequenceGap():
                raise Lost(Why.BROKEN) from error
            case TransportError() | ServerUnavailable():
                # A producer that gave up cannot go on under its epoch.
                raise Lost(Why.AWAY) from error
        raise error
