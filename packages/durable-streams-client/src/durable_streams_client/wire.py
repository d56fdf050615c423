"""Requests as httpcore takes them."""

import base64
from functools import lru_cache
from importlib.metadata import version
from typing import Final
from urllib.parse import unquote

import httpcore
import httpx

from durable_streams_client.addresses import with_params
from durable_streams_client.messages import Head, Request

USER_AGENT: Final = b"durable-streams-client/" + version("durable-streams-client").encode()
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_BODY_METHODS: Final = frozenset({"POST", "PUT", "PATCH"})


def request_of(
    request: Request, headers: dict[str, str], timeout: dict[str, float | None]
) -> httpcore.Request:
    """A request with ``headers`` and those that HTTP needs; ``timeout`` as httpx has it."""
    address = _address(request.url)
    fields = {
        b"host": (b"Host", address.host_header),
        b"accept": (b"Accept", b"*/*"),
        b"user-agent": (b"User-Agent", USER_AGENT),
    }
    if address.authorization is not None:
        fields[b"authorization"] = b"Authorization", address.authorization
    for name, value in headers.items():
        raw = name.encode("ascii")
        fields[raw.lower()] = raw, value.encode("ascii")
    if request.content is not None or request.method in _BODY_METHODS:
        fields[b"content-length"] = b"Content-Length", b"%d" % len(request.content or b"")
    target = address.target
    if request.params:
        target = with_params(target.decode("ascii"), request.params).encode("ascii")
    return httpcore.Request(
        request.method.encode("ascii"),
        httpcore.URL(scheme=address.scheme, host=address.host, port=address.port, target=target),
        headers=list(fields.values()),
        content=request.content,
        extensions={"timeout": timeout},
    )


def redirect_of(request: Request, head: Head) -> str | None:
    """Where to ask instead, if a read was redirected within its origin."""
    location = head.get("location")
    if request.method not in {"GET", "HEAD"} or head.status not in REDIRECTS or not location:
        return None
    try:
        here = httpx.URL(request.url)
        there = here.join(location)
    except httpx.InvalidURL:
        return None
    if (here.scheme, here.host, here.port) != (there.scheme, there.host, there.port):
        return None
    return str(there)


class _Address:
    """The parts of a stream's URL that a request needs."""

    __slots__ = ("authorization", "host", "host_header", "port", "scheme", "target")

    def __init__(self, url: str) -> None:
        parts = httpx.URL(url)
        self.scheme = parts.raw_scheme
        self.host = parts.raw_host
        self.port = parts.port
        self.host_header = parts.netloc
        self.target = parts.raw_path
        self.authorization: bytes | None = None
        if parts.userinfo:
            user, _, password = parts.userinfo.partition(b":")
            pair = b"%b:%b" % (unquote(user).encode(), unquote(password).encode())
            self.authorization = b"Basic " + base64.b64encode(pair)


@lru_cache(1024)
def _address(url: str) -> _Address:
    return _Address(url)
