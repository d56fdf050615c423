"""``GET __ds/streams`` and ``GET __ds/subscriptions``: listings, a page at a time.

Both are extensions of this server. The access hook is asked ``list`` for the prefix first: if it
answers that the client has to say who it is, that is the response, whatever streams there are. Then
it is asked for each path, and paths that it refuses are left out. So a listing shows a client
exactly the names that it may know.

One request looks at a bounded number of names. A page may therefore end early, even empty, behind a
name that its reader may not know: ``next`` then holds that name sealed, behind the last one that
the reader knows, so that each ``next`` is greater than the one before.
"""

import asyncio
import logging
import re
from inspect import isawaitable
from typing import Final
from urllib.parse import parse_qsl

import msgspec

from durable_streams_core.errors import InvalidRequest, ProtocolError
from durable_streams_core.protocol import RESERVED_SEGMENT
from durable_streams_core.subscriptions.records import PREFIX
from durable_streams_server.engine.results import StreamInfo
from durable_streams_server.http import headers
from durable_streams_server.http.errors import refusal
from durable_streams_server.http.exchange import Exchange
from durable_streams_server.http.messages import AnyResponse, Response
from durable_streams_server.http.parsing import MAX_QUERY_LENGTH, plain_integer
from durable_streams_server.subscriptions.service import ListedSubscription

log = logging.getLogger("durable_streams_server.http")

DEFAULT_LIMIT: Final = 100
MAX_LIMIT: Final = 1000
CHECKED_IN_ONE_TURN: Final = 100
"""Paths for which all listings together may ask the access hook in one turn of the event loop. A
client who may see little has the server look through all streams, and others must not wait for it.
"""
MAX_EXAMINED: Final = 2 * MAX_LIMIT
"""About how many names one request looks at. Its client may know few of them."""
_SEALED: Final = "\0"
"""Stands before a sealed name. No name holds it, and nothing is smaller."""
_COUNT: Final = 16
"""Digits of the number that makes a ``next`` greater than the one before."""
_HEX: Final = re.compile(f"[0-9a-f]{{{_COUNT}}}")


class ListedStream(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One stream of a listing. ``size`` is in bytes, ``readers`` counts this process's only."""

    path: str
    content_type: str
    offset: str
    size: int
    closed: bool
    created_at: str
    readers: int
    ttl: int | None = None
    expires_at: str | None = None


class StreamPage(msgspec.Struct, frozen=True):
    """``next`` is the ``after`` of the next page, None after the last."""

    streams: list[ListedStream]
    next: str | None


class SubscriptionPage(msgspec.Struct, frozen=True):
    """``next`` is the ``after`` of the next page, None after the last."""

    subscriptions: list[ListedSubscription]
    next: str | None


class Listing(Exchange):
    """A page of streams."""

    kind = "list"
    _checked = 0
    """Paths that were checked in this turn of the event loop."""

    def _respond(self, body: bytes) -> AnyResponse:
        return self._later(self._list_beside_others(*parse_listing(self.request.query)))

    async def _list_beside_others(self, prefix: str, after: str, limit: int) -> Response:
        self._context.listings += 1
        try:
            return await self._list(prefix, after, limit)
        finally:
            self._context.listings -= 1

    async def _list(self, prefix: str, after: str, limit: int) -> Response:
        position = await self._begin(prefix, after)
        permitted: list[StreamInfo] = []
        examined = 0
        following: str | None = None
        while following is None:
            wanted = max(limit - len(permitted), DEFAULT_LIMIT)
            rows = await self._engine.list(prefix, after=position, limit=wanted)
            for info in rows:
                if await self._may_list(info.path):
                    permitted.append(info)
                    if len(permitted) == limit:
                        following = info.path
                        break
            examined += len(rows)
            if following is None:
                if len(rows) < wanted:
                    break
                position = rows[-1].path
                if examined >= MAX_EXAMINED:
                    known = permitted[-1].path if permitted else after
                    following = await self._past(known, position)
        return self._page(StreamPage([self._listed(info) for info in permitted], following))

    async def _begin(self, asked: str, after: str) -> str:
        """Check and charge the client, which asks for what ``asked`` begins; where to go on."""
        await self._check_client(asked)
        limiter = self._context.options.limiter
        if limiter is not None:
            limiter.charge_listing(self.principal)
        _, sealed, rest = after.partition(_SEALED)
        if not sealed:
            return after
        keyring = self._engine.subscriptions.keyring
        await keyring.ready()
        position = keyring.open(rest[_COUNT:])
        if position is None:
            raise InvalidRequest(
                "after is not the next of a page: begin the listing anew.", code="invalid-after"
            )
        return position

    async def _past(self, after: str, position: str) -> str:
        """The ``next`` of a page that ends behind ``position``, where ``after`` is what the client
        knows: a name, or the ``next`` of the page before.
        """
        known, _, rest = after.partition(_SEALED)
        if known == position:
            return known
        count = rest[:_COUNT]
        number = int(count, 16) + 1 if _HEX.fullmatch(count) else 0
        keyring = self._engine.subscriptions.keyring
        await keyring.ready()
        return f"{known}{_SEALED}{number:0{_COUNT}x}{keyring.seal(position)}"

    def _page(self, page: StreamPage | SubscriptionPage) -> Response:
        fields = [*self._common, headers.JSON, headers.NO_STORE]
        return Response(200, fields, msgspec.json.encode(page))

    async def _check_client(self, prefix: str) -> None:
        """Raise for a client whose credentials are refused, before anything is looked at."""
        refused = await self._refusal(prefix)
        if refused is not None and refused.status != 403:
            raise refused

    async def _may_list(self, path: str) -> bool:
        self._checked += 1
        if self._checked * self._context.listings >= CHECKED_IN_ONE_TURN:
            self._checked = 0
            await asyncio.sleep(0)
        return await self._refusal(path) is None

    async def _refusal(self, path: str) -> ProtocolError | None:
        authorize = self._context.options.authorize
        if authorize is None:
            return None
        try:
            verdict = authorize("list", path, self.request.given)
            if isawaitable(verdict):
                verdict = await verdict
        except ProtocolError as error:
            verdict = error
        except Exception:
            log.exception("the authorize hook failed; the path is not listed")
            return refusal(False)
        return None if self._is_permitted(verdict) else refusal(verdict)

    def _listed(self, info: StreamInfo) -> ListedStream:
        return ListedStream(
            path=info.path,
            content_type=info.content_type,
            offset=info.offset,
            size=info.size,
            closed=info.closed,
            created_at=info.created_at,
            readers=self._engine.fanout.subscribers(info.path),
            ttl=info.ttl,
            expires_at=info.expires_at,
        )


class SubscriptionListing(Listing):
    """A page of subscriptions."""

    async def _list(self, prefix: str, after: str, limit: int) -> Response:
        position: str | None = await self._begin(PREFIX + prefix, after)
        permitted: list[ListedSubscription] = []
        examined = 0
        following: str | None = None
        while position is not None and len(permitted) < limit:
            missing = limit - len(permitted)
            rows, position = await self._engine.subscriptions.list(
                prefix, after=position, limit=missing
            )
            permitted += [row for row in rows if await self._may_list(PREFIX + row.id)]
            examined += missing
            if position is not None and (len(permitted) == limit or examined >= MAX_EXAMINED):
                following = await self._past(permitted[-1].id if permitted else after, position)
                break
        return self._page(SubscriptionPage(permitted, following))


def parse_listing(query: str) -> tuple[str, str, int]:
    """``prefix``, ``after`` and ``limit``; raises :class:`InvalidRequest`."""
    if len(query) > MAX_QUERY_LENGTH:
        raise InvalidRequest("The query is too long.", code="query-too-long", status=414)
    try:
        given = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=100)
    except ValueError:
        raise InvalidRequest(
            "The query is not percent-encoded UTF-8.", code="invalid-query"
        ) from None
    values = {"prefix": "", "after": "", "limit": str(DEFAULT_LIMIT)}
    seen: set[str] = set()
    for name, value in given:
        if name in seen and name in values:
            raise InvalidRequest(
                f"The query parameter {name} was given twice.", code="repeated-parameter"
            )
        seen.add(name)
        if name in values:
            values[name] = value
    prefix = values["prefix"].removeprefix("/")
    if prefix.startswith(RESERVED_SEGMENT) and prefix[len(RESERVED_SEGMENT) :][:1] in ("", "/"):
        raise InvalidRequest(
            f"Streams under {RESERVED_SEGMENT}/ belong to the server and are not listed.",
            code="reserved-path",
        )
    limit = plain_integer(values["limit"].encode())
    if limit is None or not 1 <= limit <= MAX_LIMIT:
        raise InvalidRequest(
            f"limit is a whole number from 1 to {MAX_LIMIT}.", code="invalid-limit"
        )
    return prefix, values["after"], limit
