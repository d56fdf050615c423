"""Streams in an engine of this process."""

from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any
from urllib.parse import quote

from durable_streams_core.errors import (
    Conflict,
    Fenced,
    Gone,
    NotFound,
    SequenceGap,
    StreamClosed,
    Unavailable,
)
from durable_streams_core.protocol import START
from durable_streams_core.store import LocalStore
from durable_streams_runs.streams import PRODUCER, Lost, StreamBatch, Streams, Why, Writer
from durable_streams_server import Engine, ProducerClaim


def is_engine(given: Any) -> bool:
    """Whether the streams given are an engine's."""
    return isinstance(given, Engine)


class EngineStreams(Streams):
    """The streams of an engine. ``root`` is the URL below which clients find them."""

    def __init__(self, engine: Engine, root: str) -> None:
        self._engine = engine
        self._root = root if not root or root.endswith("/") else root + "/"
        self.local = isinstance(engine.store, LocalStore)

    async def create(
        self,
        path: str,
        content_type: str,
        *,
        data: bytes | None = None,
        ttl: int | None = None,
        closed: bool = False,
    ) -> bool:
        try:
            info = await self._engine.create(
                path,
                content_type=content_type,
                ttl=ttl,
                data=_body(content_type, [data]) if data is not None else None,
                closed=closed,
            )
        except (Conflict, Gone):
            return False
        return info.created

    async def is_closed(self, path: str) -> bool:
        return (await self._engine.head(path)).closed

    async def content_type(self, path: str) -> str:
        return (await self._engine.head(path)).content_type

    async def append(self, path: str, messages: list[bytes], *, close: bool = False) -> str:
        body = _body("application/json", messages)
        return (await self._engine.append(path, body, close=close)).offset

    def writer(self, path: str, content_type: str, epoch: int, *, again: bool = False) -> Writer:
        return EngineWriter(self._engine, path, content_type, epoch, again=again)

    async def read(self, path: str, offset: str = START) -> AsyncIterator[StreamBatch]:
        while True:
            batch = await self._engine.read(path, offset)
            yield batch
            offset = batch.offset
            if batch.up_to_date or batch.closed:
                return

    def follow(self, path: str, offset: str = START) -> AsyncIterator[StreamBatch]:
        return self._engine.follow(path, offset)

    async def delete(self, path: str) -> None:
        with suppress(NotFound, Gone):
            await self._engine.delete(path)

    def url(self, path: str) -> str:
        return self._root + quote(path)


class EngineWriter(Writer):
    """Appends with the claims of a producer; a call that is repeated keeps its sequence number."""

    def __init__(
        self, engine: Engine, path: str, content_type: str, epoch: int, *, again: bool
    ) -> None:
        self._engine = engine
        self._path = path
        self._content_type = content_type
        self._epoch = epoch
        self._seq = 0
        self._uncertain = again
        """Whether the append under this number may be stored already."""

    async def append(self, parts: list[bytes]) -> None:
        await self._append(_body(self._content_type, parts), close=False)

    async def close(self, parts: list[bytes], end: bytes) -> None:
        await self._append(_body(self._content_type, [*parts, end]), close=True)

    async def release(self) -> None:
        pass

    async def _append(self, body: bytes, *, close: bool) -> None:
        uncertain, self._uncertain = self._uncertain, True
        claim = ProducerClaim(PRODUCER, self._epoch, self._seq)
        try:
            result = await self._engine.append(self._path, body, producer=claim, close=close)
        except Unavailable as error:
            self._uncertain = uncertain or error.code == "outcome-unknown"
            raise
        except StreamClosed as error:
            raise Lost(Why.CLOSED) from error
        except (NotFound, Gone) as error:
            raise Lost(Why.GONE) from error
        except Fenced as error:
            raise Lost(Why.FENCED, error.epoch) from error
        except SequenceGap as error:
            raise Lost(Why.BROKEN) from error
        if result.duplicate and not uncertain:
            raise Lost(Why.CLOSED if result.closed else Why.FENCED, self._epoch)
        self._seq += 1
        self._uncertain = False


def _body(content_type: str, parts: list[bytes]) -> bytes:
    if content_type == "application/json":
        return b"[%b]" % b",".join(parts)
    return parts[0] if len(parts) == 1 else b"".join(parts)
