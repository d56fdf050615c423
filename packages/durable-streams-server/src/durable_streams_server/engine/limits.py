"""The bounds that an engine keeps: of its streams, of one page and of waiting."""

import msgspec

MIB = 1024 * 1024


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds with safe defaults. Sizes are bytes, times seconds."""

    page_bytes: int = MIB
    """Size of one page of a read. A page is larger only to hold one whole JSON message."""
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
    """How long stopping waits for operations under way. Their callers then get an error: 504, or
    503 for an operation that was not begun.
    """
