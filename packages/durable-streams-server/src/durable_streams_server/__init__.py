"""A server of durable streams: an engine, stores, and front ends for aiohttp and ASGI."""

from importlib.metadata import version

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
    StreamClosed,
    TailMoved,
    Unavailable,
)
from durable_streams_core.operations import ProducerClaim
from durable_streams_core.protocol import NOW, START
from durable_streams_server.engine.engine import Engine
from durable_streams_server.engine.limits import Limits
from durable_streams_server.engine.results import AppendResult, Batch, StreamInfo
from durable_streams_server.frontends.aiohttp import create_app
from durable_streams_server.frontends.asgi import create_asgi
from durable_streams_server.stores.memory import MemoryStore
from durable_streams_server.subscriptions import SubscriptionOptions

__version__ = version("durable-streams-server")

__all__ = [
    "NOW",
    "START",
    "AppendResult",
    "Batch",
    "Conflict",
    "DurableStreamsError",
    "Engine",
    "Fenced",
    "Gone",
    "InvalidRequest",
    "Limits",
    "MemoryStore",
    "NotFound",
    "OffsetGone",
    "PreconditionFailed",
    "ProducerClaim",
    "ProtocolError",
    "SequenceGap",
    "StoreError",
    "StreamClosed",
    "StreamInfo",
    "SubscriptionOptions",
    "TailMoved",
    "Unavailable",
    "create_app",
    "create_asgi",
]
