"""Types, rules and the storage interface of the Durable Streams Protocol, without any I/O.

The names in this module are those that a library author needs. To write a store: :class:`Store` or
:class:`LocalStore` and the entities that it keeps; ``durable_streams_core.testing`` proves it. To
write a server: operations, drafts, content and SSE. To write a client: offsets, errors and
:class:`SseDecoder`.

Supported is every name that a module lists in its ``__all__``. While versions begin with ``0.``,
such a name changes only with a new minor version, and one that a store meets only together with
:data:`STORE_API`. All other names are internal to this package.
"""

from importlib.metadata import version

from durable_streams_core.content import Kind, MediaType, media_type
from durable_streams_core.drafts import Draft
from durable_streams_core.entities import (
    Applied,
    Change,
    Commit,
    Conflicted,
    Delta,
    Facts,
    Guard,
    Head,
    Outcome,
    Refused,
    Slice,
    Unknown,
)
from durable_streams_core.errors import (
    Conflict,
    DurableStreamsError,
    Fenced,
    Gone,
    InvalidRequest,
    NotFound,
    OffsetGone,
    PreconditionFailed,
    ProtocolError,
    SequenceGap,
    StoreError,
    StoreInUse,
    StreamClosed,
    SubscriptionError,
    TailMoved,
    Unavailable,
)
from durable_streams_core.offsets import (
    NO_TIMELINE,
    Offset,
    format_offset,
    later_timeline,
    parse_offset,
    timeline_at,
)
from durable_streams_core.operations import (
    Append,
    Appended,
    Body,
    Create,
    Created,
    Delete,
    Expire,
    Operation,
    ProducerClaim,
    Removed,
    Touch,
)
from durable_streams_core.paths import check_path, decode_path
from durable_streams_core.protocol import NOW, START
from durable_streams_core.registry import create_store
from durable_streams_core.sse import (
    Control,
    SseDecoder,
    SseError,
    SseEvent,
    encode_control,
    encode_data,
)
from durable_streams_core.store import (
    STORE_API,
    ImmediateStore,
    LocalStore,
    Store,
    Watcher,
    Watchers,
)

__version__ = version("durable-streams-core")

__all__ = [
    "NOW",
    "NO_TIMELINE",
    "START",
    "STORE_API",
    "Append",
    "Appended",
    "Applied",
    "Body",
    "Change",
    "Commit",
    "Conflict",
    "Conflicted",
    "Control",
    "Create",
    "Created",
    "Delete",
    "Delta",
    "Draft",
    "DurableStreamsError",
    "Expire",
    "Facts",
    "Fenced",
    "Gone",
    "Guard",
    "Head",
    "ImmediateStore",
    "InvalidRequest",
    "Kind",
    "LocalStore",
    "MediaType",
    "NotFound",
    "Offset",
    "OffsetGone",
    "Operation",
    "Outcome",
    "PreconditionFailed",
    "ProducerClaim",
    "ProtocolError",
    "Refused",
    "Removed",
    "SequenceGap",
    "Slice",
    "SseDecoder",
    "SseError",
    "SseEvent",
    "Store",
    "StoreError",
    "StoreInUse",
    "StreamClosed",
    "SubscriptionError",
    "TailMoved",
    "Touch",
    "Unavailable",
    "Unknown",
    "Watcher",
    "Watchers",
    "check_path",
    "create_store",
    "decode_path",
    "encode_control",
    "encode_data",
    "format_offset",
    "later_timeline",
    "media_type",
    "parse_offset",
    "timeline_at",
]
