"""One call each, for scripts that touch a stream once. Programs that do more keep a client."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from durable_streams_client._sync.client import Client
from durable_streams_client.batches import Batch
from durable_streams_client.messages import Appended, Created, StreamInfo
from durable_streams_client.options import Live, Pairs
from durable_streams_core.protocol import START


def create(
    url: str,
    *,
    content_type: str | None = None,
    ttl: int | None = None,
    expires_at: datetime | str | None = None,
    closed: bool = False,
    data: Any = None,
    headers: Pairs | None = None,
) -> Created:
    """Create the stream at ``url``; see :meth:`Stream.create`."""
    with Client(headers=headers) as client:
        return client.stream(url).create(
            content_type=content_type, ttl=ttl, expires_at=expires_at, closed=closed, data=data
        )


def append(url: str, data: Any, *, headers: Pairs | None = None) -> Appended:
    """Append one piece to the stream at ``url``; see :meth:`Stream.append`."""
    with Client(headers=headers) as client:
        return client.stream(url).append(data)


def close_stream(url: str, data: Any = None, *, headers: Pairs | None = None) -> Appended:
    """End the stream at ``url``; see :meth:`Stream.close_stream`."""
    with Client(headers=headers) as client:
        return client.stream(url).close_stream(data)


def head(url: str, *, headers: Pairs | None = None) -> StreamInfo:
    """What the server says about the stream at ``url``; see :meth:`Stream.head`."""
    with Client(headers=headers) as client:
        return client.stream(url).head()


def delete(url: str, *, missing_ok: bool = False, headers: Pairs | None = None) -> None:
    """Delete the stream at ``url``; see :meth:`Stream.delete`."""
    with Client(headers=headers) as client:
        client.stream(url).delete(missing_ok=missing_ok)


def read(url: str, offset: str = START, *, headers: Pairs | None = None) -> Iterator[Batch[Any]]:
    """The batches of the stream at ``url`` up to its tail; see :meth:`Stream.read`."""
    with Client(headers=headers) as client, client.stream(url).read(offset) as reader:
        yield from reader


def follow(
    url: str, offset: str = START, *, live: Live = "auto", headers: Pairs | None = None
) -> Iterator[Batch[Any]]:
    """The batches of the stream at ``url`` until it is closed; see :meth:`Stream.follow`."""
    with (
        Client(headers=headers) as client,
        client.stream(url).follow(offset, live=live) as reader,
    ):
        yield from reader
