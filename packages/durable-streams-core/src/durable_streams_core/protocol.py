"""Names and numbers that the protocol fixes.

Header names are spelled as they go on the wire; compare them without regard to case.
§ numbers are those of the Durable Streams Protocol.
"""

from typing import Final

__all__ = [
    "CURSOR_PARAM",
    "DEFAULT_CONTENT_TYPE",
    "DEFAULT_PORT",
    "JSON_CONTENT_TYPE",
    "LIVE_LONG_POLL",
    "LIVE_PARAM",
    "LIVE_SSE",
    "MAX_PRODUCER_ID_BYTES",
    "MAX_SAFE_INTEGER",
    "MAX_SEQ_BYTES",
    "NOW",
    "OFFSET_PARAM",
    "PRODUCER_EPOCH",
    "PRODUCER_EXPECTED_SEQ",
    "PRODUCER_ID",
    "PRODUCER_RECEIVED_SEQ",
    "PRODUCER_SEQ",
    "RESERVED_SEGMENT",
    "SSE_CONTENT_TYPE",
    "START",
    "STREAM_CLOSED",
    "STREAM_CURSOR",
    "STREAM_EXPIRES_AT",
    "STREAM_FORKED_FROM",
    "STREAM_FORK_OFFSET",
    "STREAM_FORK_SUB_OFFSET",
    "STREAM_NEXT_OFFSET",
    "STREAM_SEQ",
    "STREAM_SSE_DATA_ENCODING",
    "STREAM_TTL",
    "STREAM_UP_TO_DATE",
]

# Streams (§5, §13.2)
STREAM_NEXT_OFFSET: Final = "Stream-Next-Offset"
STREAM_UP_TO_DATE: Final = "Stream-Up-To-Date"
STREAM_CLOSED: Final = "Stream-Closed"
STREAM_CURSOR: Final = "Stream-Cursor"
STREAM_TTL: Final = "Stream-TTL"
STREAM_EXPIRES_AT: Final = "Stream-Expires-At"
STREAM_SEQ: Final = "Stream-Seq"
STREAM_SSE_DATA_ENCODING: Final = "Stream-SSE-Data-Encoding"

# Forks (§4.2)
STREAM_FORKED_FROM: Final = "Stream-Forked-From"
STREAM_FORK_OFFSET: Final = "Stream-Fork-Offset"
STREAM_FORK_SUB_OFFSET: Final = "Stream-Fork-Sub-Offset"

# Idempotent producers (§5.2.1)
PRODUCER_ID: Final = "Producer-Id"
PRODUCER_EPOCH: Final = "Producer-Epoch"
PRODUCER_SEQ: Final = "Producer-Seq"
PRODUCER_EXPECTED_SEQ: Final = "Producer-Expected-Seq"
PRODUCER_RECEIVED_SEQ: Final = "Producer-Received-Seq"

# Query parameters of a read (§5.6-§5.8)
OFFSET_PARAM: Final = "offset"
LIVE_PARAM: Final = "live"
CURSOR_PARAM: Final = "cursor"
LIVE_LONG_POLL: Final = "long-poll"
LIVE_SSE: Final = "sse"

# Sentinel offsets (§8): accepted, never minted.
START: Final = "-1"
NOW: Final = "now"

# Content (§5.1, §5.8, §9)
JSON_CONTENT_TYPE: Final = "application/json"
DEFAULT_CONTENT_TYPE: Final = "application/octet-stream"
SSE_CONTENT_TYPE: Final = "text/event-stream"

RESERVED_SEGMENT: Final = "__ds"
"""First path segment of the control APIs (§6); no stream may live under it."""

MAX_PRODUCER_ID_BYTES: Final = 256
MAX_SEQ_BYTES: Final = 256
MAX_SAFE_INTEGER: Final = 2**53 - 1
"""Largest producer epoch or sequence (§5.2.1), and largest position in a stream."""

DEFAULT_PORT: Final = 4437

CURSOR_INTERVAL_SECONDS: Final = 20
CURSOR_EPOCH_SECONDS: Final = 1_728_432_000
"""2024-10-09T00:00:00Z, from which cursor intervals are counted (§10.1)."""
