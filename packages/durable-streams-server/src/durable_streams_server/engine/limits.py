"""The bounds of an engine: of one stream, one request and one reader."""

import msgspec

MIB = 1024 * 1024


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds with safe defaults. Sizes are bytes, times seconds."""

    max_body: int = 32 * MIB
    """Largest request body: one atomic append (413)."""
    max_path: int = 1024
    """Longest stream path, percent-decoded (414)."""
    chunk: int = MIB
    """How much one page of a read holds, but that a single JSON message is never cut."""
    max_waiting_readers: int = 20_000
    """Long-polls and live readers of one stream (429)."""
    max_queued: int = 10_000
    """Operations that wait for one stream's turn (503)."""
    max_queued_bytes: int = 256 * MIB
    """Bytes of all appends that are not stored yet (503)."""
    max_producers: int = 10_000
    """Producers remembered of one stream; those idle longest are forgotten."""
    unknown_outcome: float = 10.0
    """How long callers wait while a store does not say whether it applied a commit (504)."""
    drain: float = 10.0
    """How long stopping waits for operations under way; who waits longer is told (504)."""
    long_poll_timeout: float = 30.0
    sse_rotation: float = 60.0
    """Life of an SSE response, so that shared caches can collapse readers (§10.2)."""
    sse_keep_alive: float = 15.0
    """A comment is sent after this much silence."""
