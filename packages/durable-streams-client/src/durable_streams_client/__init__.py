"""A client for servers of the Durable Streams Protocol, sync and async.

    with Client("http://127.0.0.1:4437/v1/stream/") as client:
        chat = client.stream("chats/42")
        chat.create(content_type="application/json", ttl=3600)
        with chat.producer() as out:
            out.append({"t": "hello"})
            out.close_stream()
        for batch in chat.follow():
            for item in batch:
                print(item["t"])

:class:`AsyncClient` is the same with ``await``.
"""

from importlib.metadata import version

from durable_streams_client._async.asgi import AsyncAsgiTransport
from durable_streams_client._async.client import AsyncClient
from durable_streams_client._async.producer import AsyncProducer
from durable_streams_client._async.pulling import AsyncPullWorker
from durable_streams_client._async.reader import AsyncReader
from durable_streams_client._async.stream import AsyncStream
from durable_streams_client._async.subscriptions import AsyncSubscriptions
from durable_streams_client._async.verifying import AsyncWebhookVerifier
from durable_streams_client._sync.asgi import AsgiTransport
from durable_streams_client._sync.client import Client
from durable_streams_client._sync.producer import Producer
from durable_streams_client._sync.pulling import PullWorker
from durable_streams_client._sync.reader import Reader
from durable_streams_client._sync.stream import Stream
from durable_streams_client._sync.subscriptions import Subscriptions
from durable_streams_client._sync.verifying import WebhookVerifier
from durable_streams_client.batches import Batch
from durable_streams_client.checkpoints import (
    AsyncCheckpoint,
    Checkpoint,
    FileCheckpoint,
    MemoryCheckpoint,
    RedisCheckpoint,
    SqliteCheckpoint,
)
from durable_streams_client.errors import (
    AccessDenied,
    Cancelled,
    ClientClosed,
    ClientError,
    Conflict,
    ConnectFailed,
    ConnectionLost,
    DecodeError,
    Fenced,
    Gone,
    InvalidArgument,
    InvalidRequest,
    MalformedResponse,
    NoFreeConnection,
    NotFound,
    NotStored,
    NotSupported,
    NotUsableHere,
    OffsetGone,
    Redirected,
    ResponseError,
    SequenceConflict,
    SequenceGap,
    StreamClosed,
    StreamExists,
    TailMoved,
    TimedOut,
    TooLarge,
    TransportError,
    Unavailable,
)
from durable_streams_client.json_pages import UnreadableMessage
from durable_streams_client.listing import ListedStream
from durable_streams_client.messages import Appended, Created, StreamInfo
from durable_streams_client.options import Live, OnBad, Retry, Timeouts
from durable_streams_client.producing import ProducerLimits
from durable_streams_client.retry import RetryPolicy
from durable_streams_client.scripting import (
    append,
    close_stream,
    create,
    delete,
    follow,
    head,
    read,
)
from durable_streams_client.subscribing import (
    Claim,
    LinkedStream,
    Subscription,
    SubscriptionRefused,
)
from durable_streams_client.webhooks import UnknownKey, WebhookRejected, verify_webhook
from durable_streams_core.errors import DurableStreamsError
from durable_streams_core.protocol import NOW, START

__all__ = [
    "NOW",
    "START",
    "AccessDenied",
    "Appended",
    "AsgiTransport",
    "AsyncAsgiTransport",
    "AsyncCheckpoint",
    "AsyncClient",
    "AsyncProducer",
    "AsyncPullWorker",
    "AsyncReader",
    "AsyncStream",
    "AsyncSubscriptions",
    "AsyncWebhookVerifier",
    "Batch",
    "Cancelled",
    "Checkpoint",
    "Claim",
    "Client",
    "ClientClosed",
    "ClientError",
    "Conflict",
    "ConnectFailed",
    "ConnectionLost",
    "Created",
    "DecodeError",
    "DurableStreamsError",
    "Fenced",
    "FileCheckpoint",
    "Gone",
    "InvalidArgument",
    "InvalidRequest",
    "LinkedStream",
    "ListedStream",
    "Live",
    "MalformedResponse",
    "MemoryCheckpoint",
    "NoFreeConnection",
    "NotFound",
    "NotStored",
    "NotSupported",
    "NotUsableHere",
    "OffsetGone",
    "OnBad",
    "Producer",
    "ProducerLimits",
    "PullWorker",
    "Reader",
    "Redirected",
    "RedisCheckpoint",
    "ResponseError",
    "Retry",
    "RetryPolicy",
    "SequenceConflict",
    "SequenceGap",
    "SqliteCheckpoint",
    "Stream",
    "StreamClosed",
    "StreamExists",
    "StreamInfo",
    "Subscription",
    "SubscriptionRefused",
    "Subscriptions",
    "TailMoved",
    "TimedOut",
    "Timeouts",
    "TooLarge",
    "TransportError",
    "Unavailable",
    "UnknownKey",
    "UnreadableMessage",
    "WebhookRejected",
    "WebhookVerifier",
    "__version__",
    "append",
    "close_stream",
    "create",
    "delete",
    "follow",
    "head",
    "read",
    "verify_webhook",
]

__version__ = version("durable-streams-client")

# Tracebacks, `help` and pickles name what users import, not the module where it happens to stand.
for _name in __all__:
    if getattr(globals()[_name], "__module__", "").startswith("durable_streams_client."):
        globals()[_name].__module__ = __name__
del _name
