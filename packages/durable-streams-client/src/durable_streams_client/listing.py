"""Listings of a server's streams, an extension of our server."""

from typing import Final

import msgspec

from durable_streams_client.errors import (
    InvalidArgument,
    InvalidRequest,
    MalformedResponse,
    NotFound,
    NotSupported,
)
from durable_streams_client.messages import Request, WholeResponse, error_of
from durable_streams_client.parsing import NotJson, parse_json

PAGE: Final = 1000
"""How many streams are asked for at once, the most that a server gives."""
REFUSALS: Final = (404, 405)
"""How a server answers that has no listing."""


class ListedStream(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One stream of a listing, as ``Client.list`` gives it.

    >>> for listed in client.list("num"):
    ...     print(listed.path, listed.content_type, listed.closed)
    numbers application/json False
    """

    path: str
    """Its name below the client's base URL."""
    content_type: str
    """The content type."""
    offset: str
    """The offset of the tail."""
    closed: bool
    """Whether the stream is closed."""
    size: int
    """How many bytes it holds."""
    created_at: str
    """When it was created, as an RFC 3339 time."""
    readers: int = 0
    """How many live readers the process that answered has."""
    ttl: int | None = None
    """The lifetime in seconds after the last read or write, if it has one."""
    expires_at: str | None = None
    """The end of life as an RFC 3339 time, if it has one."""


class ListedPage(msgspec.Struct, frozen=True):
    """A page of a listing; ``next`` is the ``after`` of the page that follows."""

    streams: list[ListedStream]
    next: str | None = None


_PAGE: Final = msgspec.json.Decoder(ListedPage)


def list_request(base: str, prefix: str, after: str) -> Request:
    """``GET`` of one page; raises ``InvalidArgument`` without a base URL."""
    if not base:
        raise InvalidArgument("a listing needs a client with a base URL, the stream root")
    params = [("prefix", prefix), ("after", after), ("limit", str(PAGE))]
    url = f"{base.rstrip('/')}/__ds/streams"
    return Request("GET", url, {"Accept": "application/json"}, params)


def listed_page(request: Request, response: WholeResponse, after: str) -> ListedPage:
    """The page; raises ``NotSupported`` where the server has no listing."""
    if response.head.status in REFUSALS:
        refusal = error_of(request, response.head, response.body)
        if isinstance(refusal, (NotFound, InvalidRequest)):
            raise _not_supported(request, response) from refusal
    try:
        page = parse_json(response.body, _PAGE)
    except NotJson:
        raise _not_supported(request, response) from None
    if page.next is not None and page.next <= after:
        raise MalformedResponse(
            "The listing does not go on after the page before.",
            method="GET",
            url=request.url,
            status=response.head.status,
        )
    return page


def _not_supported(request: Request, response: WholeResponse) -> NotSupported:
    return NotSupported(
        "The server does not list its streams.",
        method="GET",
        url=request.url,
        status=response.head.status,
        advice="Check that the base URL is the stream root. Other servers may have no listing.",
    )
