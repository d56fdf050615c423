"""Reads an ASGI scope: the request's raw path below the mount, and the mount as clients see it.

Servers and routers disagree on three keys of the scope:

* ``path`` is decoded. It begins with ``root_path`` by the specification. Hypercorn, Granian and
  Daphne leave a configured root path out of it, and so does FastAPI behind a proxy that strips the
  prefix. Some routers make it relative to the mount.
* ``root_path`` is the proxy's prefix followed by the mount. Starlette keeps the proxy's part in
  ``app_root_path``.
* ``raw_path`` is what the server received. Routers leave it alone, and some servers leave it out.

``path`` decides where the stream's path begins, because the router routed by it. ``raw_path``
says how that part was encoded.
"""

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote

from durable_streams_core.errors import InvalidRequest
from durable_streams_server.http.targets import encode_path, not_a_path

_PLAIN: Final = re.compile(r"[A-Za-z0-9/._~-]*+")
"""A path that is the same encoded and decoded."""


def locate(scope: Mapping[str, Any]) -> tuple[str, str]:
    """The raw path below the mount, with its slash, and the encoded mount without its last one.

    Raises :class:`InvalidRequest` for a target that is not a path.
    """
    path: str = scope["path"]
    if not path.startswith("/"):
        raise not_a_path()
    mount = scope.get("root_path", "").rstrip("/")
    raw = scope.get("raw_path")
    if raw is None:
        return encode_path(_below_mount(scope, path, mount)), _encoded(mount)
    received = raw.decode("latin-1")
    if received == path and _PLAIN.fullmatch(path) and _PLAIN.fullmatch(mount):
        # The way that most requests go: nothing is encoded, and nothing was rewritten.
        relative = _below_mount(scope, path, mount)
        left_out = path[: len(path) - len(relative)]
        return relative, mount if mount.endswith(left_out) else mount + left_out
    received = received.partition("?")[0]
    relative = path
    if unquote(received) == path or _suffix(received, path) is None:
        relative = _below_mount(scope, path, mount)
    cut = _suffix(received, relative)
    if "%2f" in received[:cut].lower():
        # The router decoded it: the path that it matched may not be the one that a proxy saw.
        raise InvalidRequest(
            "An encoded slash cannot be part of the path; use other names.", code="invalid-path"
        )
    if cut is None:
        # Something rewrote the path and not the raw path.
        return encode_path(relative), _encoded(mount)
    # A router that made the path relative may not have added to the root path what it left out.
    left_out = unquote(received[:cut])
    if not unquote(mount).endswith(left_out):
        mount += left_out
    return received[cut:], _encoded(mount)


def _below_mount(scope: Mapping[str, Any], path: str, mount: str) -> str:
    """The decoded path without the mount, with or without the proxy's prefix before it."""
    if path.startswith(mount + "/"):
        return path[len(mount) :]
    own = mount.removeprefix(scope.get("app_root_path", "").rstrip("/"))
    return path[len(own) :] if path.startswith(own + "/") else path


def _suffix(received: str, path: str) -> int | None:
    """Where the part of the received path begins that decodes to ``path``."""
    cut, rest = len(received), len(path)
    while rest:
        end = cut
        cut = received.rfind("/", 0, end)
        segment = unquote(received[cut:end])
        if cut < 0 or not path.endswith(segment, 0, rest):
            return None
        rest -= len(segment)
    return cut


def _encoded(mount: str) -> str:
    return encode_path(unquote(mount))
