"""The positions of a subscription's streams: their heads and its cursors, read from the store."""

import asyncio
from collections.abc import AsyncIterator, Container, Sequence
from typing import Final

from durable_streams_core.entities import Head
from durable_streams_core.protocol import RESERVED_SEGMENT
from durable_streams_core.store import LocalStore, Store
from durable_streams_core.subscriptions.operations import Tail
from durable_streams_core.subscriptions.records import (
    CURSOR,
    Config,
    Cursor,
    LinkedStream,
    birth_of,
    decode_cursor,
)

PAGE: Final = 500
_LOADED_AT_ONCE: Final = 64


class Positions:
    """Reads positions from one store; remembers nothing."""

    def __init__(self, store: Store, wake_streams: Container[str]) -> None:
        self._store = store
        self._wake_streams = wake_streams
        self._local = isinstance(store, LocalStore)

    async def heads(self, paths: Sequence[str]) -> list[Head | None]:
        """The heads of streams, None for those that are not served."""
        heads: list[Head | None] = []
        if self._local:
            for path in paths:
                facts = await self._store.load(path)
                heads.append(None if facts is None else self._live(facts.head))
            return heads
        for begin in range(0, len(paths), _LOADED_AT_ONCE):
            loaded = await asyncio.gather(
                *(self._store.load(path) for path in paths[begin : begin + _LOADED_AT_ONCE])
            )
            heads += [None if facts is None else self._live(facts.head) for facts in loaded]
        return heads

    def _live(self, head: Head) -> Head | None:
        return head if head.live_at(self._store.now()) else None

    async def of(
        self, subscription: str, incarnation: str, paths: Sequence[str]
    ) -> list[LinkedStream]:
        """The positions of those of these streams that are linked."""
        facts = await self._store.load(subscription, [CURSOR + path for path in paths])
        if facts is None or facts.head.incarnation != incarnation:
            return []
        config = birth_of(facts.head).config
        heads = await self.heads(paths)
        linked: list[LinkedStream] = []
        for path, head in zip(paths, heads, strict=True):
            cursor = decode_cursor(facts.fields[CURSOR + path])
            if self._links(config, path, cursor):
                linked.append(LinkedStream(path, cursor, head))
        return linked

    def _links(self, config: Config, path: str, cursor: Cursor | None) -> bool:
        explicit = cursor is not None and cursor.explicit
        return explicit or config.means(path, self._wake_streams)

    async def all(
        self, subscription: str, incarnation: str, config: Config
    ) -> AsyncIterator[LinkedStream]:
        """The positions of every linked stream; one whose stream is gone has no head."""
        unmatched: list[tuple[str, Cursor]] = []
        cursors = self.cursors(subscription, incarnation)
        row = await anext(cursors, None)
        async for path, head in self.matching(config):
            while row is not None and row[0] < path:
                unmatched.append(row)
                row = await anext(cursors, None)
                if len(unmatched) >= PAGE:
                    for linked in await self._unmatched(config, unmatched):
                        yield linked
                    unmatched = []
            cursor = None
            if row is not None and row[0] == path:
                cursor = row[1]
                row = await anext(cursors, None)
            yield LinkedStream(path, cursor, head)
        while row is not None:
            unmatched.append(row)
            row = await anext(cursors, None)
            if len(unmatched) >= PAGE:
                for linked in await self._unmatched(config, unmatched):
                    yield linked
                unmatched = []
        for linked in await self._unmatched(config, unmatched):
            yield linked

    async def _unmatched(
        self, config: Config, rows: list[tuple[str, Cursor]]
    ) -> list[LinkedStream]:
        """The positions of streams that the pattern does not match, as far as they are linked.

        A cursor may outlive its link: the stream may have become a wake stream.
        """
        heads = await self.heads([path for path, _ in rows])
        return [
            LinkedStream(path, cursor, head)
            for (path, cursor), head in zip(rows, heads, strict=True)
            if head is None or self._links(config, path, cursor)
        ]

    async def cursors(
        self, subscription: str, incarnation: str
    ) -> AsyncIterator[tuple[str, Cursor]]:
        """The stored cursors, in order of paths."""
        after = ""
        while True:
            rows = await self._store.scan(subscription, incarnation, CURSOR, after, PAGE)
            for key, value in rows:
                cursor = decode_cursor(value)
                assert cursor is not None
                yield key.removeprefix(CURSOR), cursor
            if len(rows) < PAGE:
                return
            after = rows[-1][0]
            await asyncio.sleep(0)

    async def matching(self, config: Config) -> AsyncIterator[tuple[str, Head]]:
        """The streams that the pattern matches, in order of paths."""
        if config.pattern is None:
            return
        prefix = config.prefix
        after = ""
        while True:
            rows = await self._store.list(prefix, after, PAGE)
            for path, head in rows:
                if config.means(path, self._wake_streams) and self._is_live_stream(path, head):
                    yield path, head
            if len(rows) < PAGE:
                return
            after = rows[-1][0]
            await asyncio.sleep(0)

    def _is_live_stream(self, path: str, head: Head) -> bool:
        return not path.startswith(RESERVED_SEGMENT + "/") and self._live(head) is not None

    async def tails(self, config: Config) -> list[Tail]:
        """The tails of the streams that a new subscription links (§6.2)."""
        heads = await self.heads(config.streams)
        tails = {
            path: tail_of(path, head) for path, head in zip(config.streams, heads, strict=True)
        }
        async for path, head in self.matching(config):
            tails.setdefault(path, tail_of(path, head))
        return list(tails.values())


def tail_of(path: str, head: Head | None) -> Tail:
    if head is None:
        return Tail(path)
    tail = head.tail_offset
    return Tail(path, head.incarnation, tail.position, tail.timeline)
