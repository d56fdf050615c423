"""Requests as httpcore takes them."""

import base64
from functools import lru_cache
from importlib.metadata import version
from typing import Final
from urllib.parse import unquote

import httpcore
import httpx

from durable_streams_client.addresses import with_params
from durable_streams_client.fields import merged
from durable_streams_client.messages import Request, ResponseHead

USER_AGENT: Final = "durable-streams-client/" + version("durable-streams-client")
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
SAME_METHOD: Final = frozenset({307, 308})
_BODY_METHODS: Final = frozenset({"POST", "PUT", "PATCH"})


def request_of(
    request: Request, headers: list[tuple[str, str]], timeout: dict[str, float | None]
) -> httpcore.Request:
    """A request with ``headers`` and those that HTTP needs; ``timeout`` as httpx has it."""
    address = _address(request.url)
    basic = [("Host", address.host_header), ("Accept", "*/*"), ("User-Agent", USER_AGENT)]
    if address.authorization is not None:
        basic.append(("Authorization", address.authorization))
    length = []
    if request.content is not None or request.method in _BODY_METHODS:
        length.append(("Content-Length", str(len(request.content or b""))))
    target = address.target
    if request.params:
        target = with_params(target.decode("ascii"), request.params).encode("ascii")
    return httpcore.Request(
        request.method.encode("ascii"),
        httpcore.URL(scheme=address.scheme, host=address.host, port=address.port, target=target),
        headers=[
            (name.encode("ascii"), value.encode("ascii"))
            for name, value in merged(basic, headers, length)
        ],
        content=request.content,
        extensions={"timeout": timeout},
    )


def redirect_of(request: Request, head: ResponseHead) -> Request | None:
    """The request to send instead, if it was redirected within its origin.

    Only reads follow the redirects that may change the method.
    """
    location = head.get("location")
    reads = request.method in {"GET", "HEAD"}
    if head.status not in (REDIRECTS if reads else SAME_METHOD) or not location:
        return None
    try:
        here = httpx.URL(request.url)
        there = here.join(location).copy_with(fragment=None)
    except (httpx.InvalidURL, ValueError):
        return None
    if (here.scheme, here.host, here.port) != (there.scheme, there.host, there.port):
        return None
    # A target that has lost the query would be read from its start.
    kept = [] if b"offset=" in there.query else request.params
    return Request(request.method, str(there), request.headers, kept, request.content)


class _Address:
    """The parts of a stream's URL that a request needs."""

    __slots__ = ("authorization", "host", "host_header", "port", "scheme", "target")

    def __init__(self, url: str) -> None:
        parts = httpx.URL(url)
        self.scheme = parts.raw_scheme
        self.host = parts.raw_host
        self.port = parts.port
        self.host_header = parts.netloc.decode("ascii")
        self.target = parts.raw_path
        self.authorization: str | None = None
        if parts.userinfo:
            user, _, password = parts.userinfo.partition(b":")
            pair = b"%b:%b" % (unquote(user).encode(), unquote(password).encode())
            self.authorization = "Basic " + base64.b64encode(pair).decode("ascii")


@lru_cache(1024)
def _address(url: str) -> _Address:
    return _Address(url)
