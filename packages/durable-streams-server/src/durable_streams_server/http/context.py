"""The context that all exchanges of one front end share."""

import re
from urllib.parse import urlsplit

from durable_streams_core.reads import page_cache_control
from durable_streams_server.engine.engine import Engine
from durable_streams_server.http import names
from durable_streams_server.http.assets import load_assets
from durable_streams_server.http.headers import CommonHeaders
from durable_streams_server.http.live import Readers
from durable_streams_server.http.messages import RequestHead, to_lines
from durable_streams_server.http.options import Options
from durable_streams_server.http.targets import encode_path
from durable_streams_server.subscriptions.urls import public_origin

_HOST = re.compile(rb"[A-Za-z0-9._-]+(?::\d{1,5})?|\[[0-9A-Fa-f:.]+\](?::\d{1,5})?")


class Context:
    """One front end's streams, as its exchanges see them."""

    def __init__(self, engine: Engine, options: Options) -> None:
        self.engine = engine
        self.options = options
        self.readers = Readers(engine, options)
        self.assets = load_assets(console=options.console)
        self.common_headers = CommonHeaders(
            options.cors_origins, options.cors_headers, credentials=options.cors_credentials
        )
        self.listings = 0
        """Listings under way, which share each turn of the event loop."""
        self.times_commits = False
        """Whether exchanges note when their commit began and ended."""
        self.cache_line = to_lines(
            [(names.CACHE_CONTROL, page_cache_control(public=options.public).encode())]
        )
        public_url = options.public_url
        self._public_url = None if public_url is None else public_origin(public_url)
        self.public_path = urlsplit(self._public_url or "").path

    def location(self, request: RequestHead, path: str) -> bytes:
        """The URL of a stream: absolute where the host is known."""
        target = request.root + encode_path(path)
        return (self.origin(request) + target).encode()

    def origin(self, request: RequestHead) -> str:
        """Where the client reached the server, up to the root; empty where that is not known."""
        if self._public_url is not None:
            return self._public_url
        host = request.headers.get(names.HOST, b"")
        return "" if _HOST.fullmatch(host) is None else f"{request.scheme}://{host.decode()}"

    def is_own(self, origin: bytes, request: RequestHead) -> bool:
        """Whether an ``Origin`` is that of this very server, as the client reached it."""
        scheme, _, authority = origin.lower().partition(b"://")
        default = {b"http": b":80", b"https": b":443"}.get(scheme, b"")
        known = {request.headers.get(names.HOST, b"").lower()}
        if self._public_url is not None:
            known.add(urlsplit(self._public_url).netloc.lower().encode())
        hosts = {host.removesuffix(default) for host in known}
        return bool(authority) and authority.removesuffix(default) in hosts
