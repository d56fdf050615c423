"""Functions for scripts: each makes a client for one call. A program that does more keeps one."""

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
    """Create the stream at ``url``, or check that it exists with the same configuration (§5.1).

    ``headers`` are sent with the request. The other arguments, the result and the errors are those
    of ``Stream.create``.

    >>> create(url + "letters", content_type="text/plain", data="a").offset
    '00000001'
    """
    with Client(headers=headers) as client:
        return client.stream(url).create(
            content_type=content_type, ttl=ttl, expires_at=expires_at, closed=closed, data=data
        )


def append(url: str, data: Any, *, headers: Pairs | None = None) -> Appended:
    """Append ``data`` to the stream at ``url`` (§5.2), stored exactly once.

    ``headers`` are sent with each request. ``data``, the result and the errors are those of
    ``Stream.append``.

    >>> append(url + "numbers", 4).offset
    '00000004'
    """
    with Client(headers=headers) as client:
        return client.stream(url).append(data)


def close_stream(url: str, data: Any = None, *, headers: Pairs | None = None) -> Appended:
    """Close the stream at ``url`` for ever, with ``data`` as its last content if given (§5.3).

    ``headers`` are sent with each request. ``data``, the result and the errors are those of
    ``Stream.close_stream``.

    >>> close_stream(url + "numbers").closed
    True
    """
    with Client(headers=headers) as client:
        return client.stream(url).close_stream(data)


def head(url: str, *, headers: Pairs | None = None) -> StreamInfo:
    """Return the content type, tail, state and lifetime of the stream at ``url`` (§5.5).

    ``headers`` are sent with the request. The errors are those of ``Stream.head``.

    >>> head(url + "numbers").offset
    '00000003'
    """
    with Client(headers=headers) as client:
        return client.stream(url).head()


def delete(url: str, *, missing_ok: bool = False, headers: Pairs | None = None) -> None:
    """Delete the stream at ``url`` and its data (§5.4).

    ``headers`` are sent with the request. Raises ``NotFound`` if there is no such stream, unless
    ``missing_ok`` is true, and the other errors of ``Stream.delete``.

    >>> delete(url + "numbers")
    >>> delete(url + "numbers", missing_ok=True)
    """
    with Client(headers=headers) as client:
        client.stream(url).delete(missing_ok=missing_ok)


def read(url: str, offset: str = START, *, headers: Pairs | None = None) -> Iterator[Batch[Any]]:
    """Iterate over the batches of the stream at ``url``, from ``offset`` to its tail (§5.6).

    ``headers`` are sent with each request. The errors are those of ``Stream.read`` and ``Reader``.

    >>> for batch in read(url + "numbers"):
    ...     print(batch.items())
    [1, 2, 3]
    """
    with Client(headers=headers) as client, client.stream(url).read(offset) as reader:
        yield from reader


def follow(
    url: str, offset: str = START, *, live: Live = "auto", headers: Pairs | None = None
) -> Iterator[Batch[Any]]:
    """Iterate over the batches of the stream at ``url`` until it is closed (§5.7, §5.8).

    ``headers`` are sent with each request. ``offset``, ``live`` and the errors are those of
    ``Stream.follow`` and ``Reader``.

    >>> _ = close_stream(url + "numbers", 4)
    >>> [item for batch in follow(url + "numbers") for item in batch]
    [1, 2, 3, 4]
    """
    with (
        Client(headers=headers) as client,
        client.stream(url).follow(offset, live=live) as reader,
    ):
        yield from reader
