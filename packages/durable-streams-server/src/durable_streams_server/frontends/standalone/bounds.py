"""The bounds of connections: sizes, numbers and times."""

import sys

import msgspec

RESERVED_DESCRIPTORS = 256
"""File descriptors that connections leave to the store, to webhooks and to whatever else opens."""


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of connections with safe defaults. Sizes are bytes, times seconds.

    The body's size is the engine's to bound.
    """

    max_connections: int = 20_000
    """More are answered 503 and closed. The limit of open files may allow for fewer."""
    max_header: int = 32 * 1024
    """A request's head: target, names and values together (431)."""
    max_target: int = 12 * 1024
    """A request's target: path and query as they are sent (414)."""
    max_bodies: int = 256 * 1024 * 1024
    """All request bodies that are being received; the largest is then refused (503)."""
    header_timeout: float = 15.0
    """From the first byte of a head, or from connecting, to its end (408)."""
    body_timeout: float = 30.0
    """How long a client may be silent in the middle of a body (408)."""
    body_rate: int = 16 * 1024
    """Bytes a second at which a body must come in; slower, it uses up its ``body_timeout``."""
    idle_timeout: float = 75.0
    """Between two requests."""
    write_timeout: float = 60.0
    """How long a client may take nothing of an answer that waits for it."""
    shutdown_timeout: float = 3.0
    """For answers under way when the server stops."""


def connections_allowed(bounds: Bounds) -> int:
    """How many connections may be open at once: what the bounds say, as far as descriptors go.

    A small limit of open files is shared evenly between connections and everything else.
    """
    if sys.platform == "win32":
        return bounds.max_connections
    import resource

    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return bounds.max_connections
    return min(bounds.max_connections, max(files - RESERVED_DESCRIPTORS, files // 2))
