"""Scopes of ASGI applications for the requests of a client."""

from typing import Any, Final
from urllib.parse import unquote

import httpcore

ASGI: Final = {"version": "3.0", "spec_version": "2.3"}
"""The version in which a disconnect is received, and frameworks wait for that."""


def scope_of(request: httpcore.Request) -> dict[str, Any]:
    """The scope of an ASGI application for a request."""
    url = request.url
    path, _, query = url.target.partition(b"?")
    port = url.port or {b"https": 443}.get(url.scheme, 80)
    return {
        "type": "http",
        "asgi": ASGI,
        "http_version": "1.1",
        "method": request.method.decode("ascii"),
        "scheme": url.scheme.decode("ascii"),
        "path": unquote(path.decode("ascii")),
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": [(name.lower(), value) for name, value in request.headers],
        "client": ("127.0.0.1", 50000),
        "server": (url.host.decode("ascii"), port),
    }
