"""The options of one front end: access, origins, addresses, and the bounds of HTTP."""

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import msgspec

from durable_streams_server.access.limits import Limiter


class Principal(msgspec.Struct, frozen=True):
    """The sender of a request, as limits and logs name it: ``token:ingest``, ``jwt:alice``.

    An ``authorize`` function that returns one permits the request, as with True.
    """

    name: str


Authorize = Callable[[str, str, object], Any]
"""``authorize(action, path, request)``: asked before anything is read or told.

``action`` is ``create``, ``append``, ``read``, ``head``, ``delete`` or, for each path of a
listing and first for its prefix, ``list``; a fork also asks for
``read`` of its source. For subscriptions it is ``subscribe`` or ``claim``, with the path
``__ds/subscriptions/<id>``; one that is created asks also for ``subscribe`` of each of its streams
and of its pattern, and for ``append`` to its wake stream. ``request`` is the front end's own
request object. It returns True or a :class:`Principal` to permit, False to refuse (403), or a
status of 401 or 403; it may be async. It may also raise a :class:`ProtocolError` with the status
401, 403, 429 or 503, which becomes the response.
"""

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """The options of one front end. Sizes are bytes, times seconds."""

    authorize: Authorize | None = None
    limiter: Limiter | None = None
    """Bounds what each principal may use. Each address is a principal where ``authorize`` names
    none.
    """
    client_of: Callable[[str, Callable[[bytes], bytes | None]], str] | None = None
    """Returns the address of a client, given that of the connection and a function that returns a
    header: for clients behind proxies. None: it is that of the connection.
    """
    token: str | None = None
    """Access for whoever sends ``Authorization: Bearer <token>``, and for nobody else."""
    cors_origins: tuple[str, ...] = ("*",)
    """Origins whose pages may read responses and write; any origin by default.

    Where they are listed, a write of any other page is refused, whatever its browser does.
    """
    cors_headers: tuple[str, ...] = ()
    """Request headers that pages may send beside those of the protocol and of tracing."""
    cors_credentials: bool = False
    """Let pages of the listed origins send cookies; needs ``cors_origins`` that name them."""
    console: bool = False
    """Serve a page at ``__ds/console`` that lists, follows and changes streams."""
    public: bool = False
    """Let shared caches keep full pages (§10.1); only for streams that everybody may read."""
    public_url: str | None = None
    """Where clients reach the server, for ``Location``; else the request's own Host is used."""
    max_body: int = 32 * 1024 * 1024
    """Largest request body, and so the largest append over HTTP (413)."""
    max_path: int = 1024
    """Longest stream path, percent-decoded (414)."""
    long_poll_timeout: float = 30.0
    """How long a long-poll waits before it answers without data (§5.7)."""
    sse_rotation: float = 60.0
    """Life of an SSE response, so that shared caches can collapse readers (§10.2)."""
    sse_keep_alive: float = 15.0
    """An SSE response carries a comment after this much silence."""
    sse_retry: float = 1.0
    """How soon a browser's ``EventSource`` reconnects."""
    compress: bool = True
    health: bool = False
    """Answer ``GET /health`` (the process) and ``GET /ready`` (the service: 503 with a reason while
    nothing should be sent here), outside of the stream root.
    """

    def __post_init__(self) -> None:
        if self.token is not None and not self.token.strip():
            raise ValueError(
                "The token is empty, and an empty one keeps nobody out: give a secret, or no "
                "token at all."
            )
        if not 0 <= self.sse_retry <= 3600:
            raise ValueError(
                "The time after which browsers reconnect must be from 0 to 3600 seconds, got "
                f"{self.sse_retry!r}."
            )
        if self.cors_credentials and "*" in self.cors_origins:
            raise ValueError(
                "Cookies cannot be permitted to every origin: name the origins whose pages may "
                "send them."
            )
        for name in self.cors_headers:
            if _HEADER_NAME.fullmatch(name) is None:
                raise ValueError(
                    f"The names of request headers must be names of headers, got {name!r}: give "
                    "each name on its own."
                )
        if self.public_url is not None:
            url = urlsplit(self.public_url)
            if (
                url.scheme not in ("http", "https")
                or not url.hostname
                or not url.netloc.isascii()
                or url.query
                or url.fragment
            ):
                raise ValueError(
                    f"The public URL must be the address of a server, got {self.public_url!r}: "
                    "write it as https://streams.example, with the path before the stream root "
                    "if there is one, and a host outside ASCII in its xn-- form."
                )
