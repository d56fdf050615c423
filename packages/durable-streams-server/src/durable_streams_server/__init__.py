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
from durable_streams_server.access.access import Access
from durable_streams_server.access.certificates import Certificate
from durable_streams_server.access.jwt_tokens import JwtVerifier
from durable_streams_server.access.limits import Limiter, PrincipalLimits
from durable_streams_server.access.rights import Rights
from durable_streams_server.access.tokens import Token
from durable_streams_server.engine.engine import Engine
from durable_streams_server.engine.limits import Limits
from durable_streams_server.engine.quotas import PrefixQuota, StreamQuota
from durable_streams_server.engine.results import AppendResult, Batch, StreamInfo
from durable_streams_server.frontends.aiohttp import create_app
from durable_streams_server.frontends.asgi import create_asgi
from durable_streams_server.http.options import Principal
from durable_streams_server.stores.memory import MemoryStore
from durable_streams_server.subscriptions import SubscriptionOptions

__version__ = version("durable-streams-server")

__all__ = [
    "NOW",
    "START",
    "Access",
    "AppendResult",
    "Batch",
    "Certificate",
    "Conflict",
    "DurableStreamsError",
    "Engine",
    "Fenced",
    "Gone",
    "InvalidRequest",
    "JwtVerifier",
    "Limiter",
    "Limits",
    "MemoryStore",
    "NotFound",
    "OffsetGone",
    "PreconditionFailed",
    "PrefixQuota",
    "Principal",
    "PrincipalLimits",
    "ProducerClaim",
    "ProtocolError",
    "Rights",
    "SequenceGap",
    "StoreError",
    "StreamClosed",
    "StreamInfo",
    "StreamQuota",
    "SubscriptionOptions",
    "TailMoved",
    "Token",
    "Unavailable",
    "create_app",
    "create_asgi",
]
