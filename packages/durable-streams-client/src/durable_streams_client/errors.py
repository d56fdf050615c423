"""The errors of the client.

    DurableStreamsError                 the base of every error of this project, in core
    └── ClientError                     url, status, code, advice
        ├── InvalidArgument             also a ValueError: the call itself is at fault
        ├── ClientClosed                the client was closed before or during the call
        ├── NotUsableHere               made in another process or event loop
        ├── NoFreeConnection            the HTTP client handed in has too few connections
        ├── Cancelled                   another thread or task ended the wait
        ├── NotStored                   a producer could not store everything
        ├── TransportError              no complete response came
        │   ├── ConnectFailed           no connection: the server did not get the request
        │   ├── TimedOut                also a TimeoutError
        │   └── ConnectionLost          the connection broke during the request
        ├── NotSupported                the server lacks an extension of the protocol
        ├── DecodeError                 also a ValueError: a message does not fit ``decode``
        ├── MalformedResponse             the response breaks the protocol
        └── ResponseError                 the server refused; also a ProtocolError of core
            ├── InvalidRequest          400, 405, 412, 501 and other 4xx
            ├── AccessDenied            401, 403
            ├── Fenced                  403: a newer epoch of the producer exists (§5.2.1)
            ├── Redirected              3xx to another origin, or where it cannot be followed
            ├── NotFound                404
            ├── Gone                    410
            │   └── OffsetGone          the data before the offset is no longer there (§8)
            ├── TailMoved               412: the tail is not the ``expected`` offset
            ├── TooLarge                413
            ├── Conflict                409
            │   ├── StreamClosed        the stream takes no more data (§5.2)
            │   ├── StreamExists        created before with another configuration (§5.1)
            │   ├── SequenceConflict    ``Stream-Seq`` did not rise (§5.2)
            │   └── SequenceGap         a producer skipped a sequence number (§5.2.1)
            ├── SubscriptionRefused     an error object of the subscription API (§7)
            └── Unavailable             408, 425, 429, 5xx: a later attempt may succeed

No exception of the HTTP library leaves the client; it is the ``__cause__`` of one of these.
Messages name the method and the URL without its query, which may hold secrets.

A class below ResponseError that core has too is a kind of core's, with the same ``code``: an
``except`` clause for ``durable_streams_core.errors.StreamClosed`` works on an engine in the process
and on a client of a server alike.
"""

# A client knows less than an engine: where core has a status or an offset, it may have none.
# mypy: disable-error-code="misc, assignment"

from typing import Any, Final
from urllib.parse import urlsplit

from durable_streams_core import errors as core
from durable_streams_core.errors import DurableStreamsError

RETRYABLE_STATUSES: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


class ClientError(DurableStreamsError):
    """The base of every error of the client.

    ``message`` says what happened, ``method`` and ``url`` during which request ("" if there was
    none), ``status`` with which HTTP status (None without a response). ``str(error)`` is all of
    that and the advice, with the URL's user, password and query left out.

    >>> try:
    ...     client.stream("missing").head()
    ... except ClientError as error:
    ...     print(error.code, error.status, error.method)
    not-found 404 HEAD
    """

    code: str = "client-error"
    """A stable name for programs: of the server, if it sent one."""
    advice: str = ""
    """A sentence that says what to do next."""

    def __init__(
        self,
        message: str,
        *,
        method: str = "",
        url: str = "",
        status: int | None = None,
        code: str | None = None,
        advice: str | None = None,
    ) -> None:
        self.message = message
        self.method = method
        self.url = url
        self.status = status
        if code is not None:
            self.code = code
        if advice is not None:
            self.advice = advice
        # Not `super()`: the next base may be an error of core, which takes other arguments.
        DurableStreamsError.__init__(self, message)

    def about(self, method: str, url: str) -> None:
        """Set ``method`` and ``url``, unless they are known already."""
        if not self.url:
            self.method, self.url = method, url

    def summary(self) -> str:
        """The message with the request and the status, without the advice.

        >>> error = TooLarge("Refused.", method="POST", url="http://h/a?key=1", status=413)
        >>> error.summary()
        'Refused. (POST http://h/a: 413)'
        """
        if not self.url:
            return self.message
        target = f"{self.method} {public_url(self.url)}".strip()
        return f"{self.message} ({target}{'' if self.status is None else f': {self.status}'})"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.summary()!r})"

    def __str__(self) -> str:
        return advised(self.summary(), self.advice)


def advised(said: str, advice: str) -> str:
    """A message and then the advice, each a sentence of its own."""
    if not advice:
        return said
    return f"{said}{'' if said.endswith(('.', ')', '!', '?')) else '.'} {advice}"


class InvalidArgument(ClientError, ValueError):
    """An argument has no possible meaning, or a method was called in the wrong state.

    Nothing was sent.

    >>> try:
    ...     client.stream("")
    ... except InvalidArgument as error:
    ...     print(error)
    a stream needs a name or a URL
    """

    code = "invalid-argument"


class ClientClosed(ClientError):
    """The client was closed before or during the call.

    >>> client.close()
    >>> try:
    ...     stream.head()
    ... except ClientClosed as error:
    ...     print(error.code)
    client-closed
    """

    code = "client-closed"
    advice = "Make a new client, or use this one inside its `with` block."


class NotUsableHere(ClientError):
    """The object belongs to another process or event loop; nothing was sent.

    >>> client = AsyncClient(url)
    >>> producer = client.stream("numbers").producer()
    >>> with asyncio.Runner() as loop:
    ...     loop.run(producer.append(4))
    ...     try:
    ...         asyncio.run(producer.flush())
    ...     except NotUsableHere as error:
    ...         print(error.advice)
    ...     loop.run(producer.aclose())
    ...     loop.run(client.aclose())
    Make a producer in each event loop.
    """

    code = "not-usable-here"


class NoFreeConnection(ClientError):
    """The HTTP client that was handed in limits its connections, and all were in use.

    Nothing was sent.

    >>> http = httpx.Client(limits=httpx.Limits(max_connections=1))
    >>> with http, Client(url, http=http, timeouts=Timeouts(connect=0.1)) as narrow:
    ...     with narrow.stream("numbers").follow(live="sse") as reader:
    ...         stored, _, live = next(reader), stream.append(4), next(reader)
    ...         try:
    ...             narrow.stream("numbers").head()
    ...         except NoFreeConnection as error:
    ...             print(error.code)
    no-free-connection
    """

    code = "no-free-connection"
    advice = (
        "Each live reader needs a connection of its own: raise the limit, as in"
        " httpx.Limits(max_connections=None), or hand in no client."
    )


class Cancelled(ClientError):
    """Another thread or task cancelled the reader, or closed the producer, during the call.

    It never means that the stream has ended.

    >>> reader = stream.follow("00000003")
    >>> reader.cancel()
    >>> try:
    ...     next(reader)
    ... except Cancelled as error:
    ...     print(error.code)
    cancelled
    """

    code = "cancelled"


ENDED: Final[dict[type[ClientError], str]] = {
    Cancelled: "The reader was cancelled.",
    ClientClosed: "The client is closed.",
}
"""The message for a wait that another thread or task ended."""


class NotStored(ClientError):
    """A producer gave up before everything that it had accepted was stored (§5.2.1).

    ``items`` are the encoded items that the server has not acknowledged, in order. The first
    ``uncertain`` of them may be stored all the same, because a response was lost. ``cause`` is the
    error that made the producer give up.

    The producer cannot go on. Read the end of the stream to find out which uncertain items it
    holds, then append the others with a new producer.

    >>> _ = stream.close_stream()
    >>> try:
    ...     with stream.producer() as producer:
    ...         producer.append(4)
    ... except NotStored as error:
    ...     print(error.items, error.uncertain, error.cause.code)
    [b'4'] 0 stream-closed
    """

    code = "not-stored"

    def __init__(
        self, message: str, *, items: list[bytes], uncertain: int, cause: ClientError
    ) -> None:
        super().__init__(
            message,
            method=cause.method,
            url=cause.url,
            status=cause.status,
            advice="`error.items` holds them, and `error.cause` says why.",
        )
        self.items = items
        self.uncertain = uncertain
        self.cause = cause

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickled by its attributes, because `args` lacks the keyword arguments.
        return _restored, (type(self), self.message, self.__dict__)


def _restored(kind: type[NotStored], message: str, attributes: dict[str, Any]) -> NotStored:
    error = kind.__new__(kind, message)
    error.__dict__.update(attributes)
    return error


class TransportError(ClientError):
    """No complete response came, so whether the request was carried out is unknown.

    >>> try:
    ...     stream.head()
    ... except TransportError as error:
    ...     print(error.method, error.status)
    HEAD None
    """

    code = "transport"
    advice = "Check the network and the server."


class ConnectFailed(TransportError):
    """No connection could be made, so the server did not get the request.

    >>> impatient = Client("http://127.0.0.1:9/", retry=RetryPolicy(attempts=1))
    >>> try:
    ...     impatient.stream("a").head()
    ... except ConnectFailed as error:
    ...     print(error.advice)
    Check the address, and that a server listens there.
    """

    code = "connect-failed"
    advice = "Check the address, and that a server listens there."


class TimedOut(TransportError, TimeoutError):
    """A limit of ``Timeouts`` was exceeded.

    >>> with Client(url, timeouts=Timeouts(total=0.1)) as hasty:
    ...     try:
    ...         hasty.stream("numbers").head()
    ...     except TimedOut as error:
    ...         print(error.advice)
    Raise the time limit if the server is expected to be that slow.
    """

    code = "timed-out"
    advice = "Raise the time limit if the server is expected to be that slow."


class ConnectionLost(TransportError):
    """The connection broke before the response was complete.

    >>> try:
    ...     stream.head()
    ... except ConnectionLost as error:
    ...     print(error.code)
    connection-lost
    """

    code = "connection-lost"


class MalformedResponse(ClientError):
    """The response breaks the protocol, for example by a missing header.

    It is also raised by a batch whose data does not fit its content type. The request may have been
    carried out.

    >>> try:
    ...     stream.head()
    ... except MalformedResponse as error:
    ...     print(error.message)
    The response lacks the header Stream-Next-Offset.
    """

    code = "malformed-response"
    advice = "Check that the URL is that of a stream and that no proxy rewrites the response."


class DecodeError(ClientError, ValueError):
    """A message of a JSON stream does not fit the type given as ``decode``.

    The reader stops before it, and its ``offset`` is that of the message. To go on, read from
    ``next_offset``, or read with ``on_bad="skip"``.

    >>> try:
    ...     stream.read(decode=str).read_items()
    ... except DecodeError as error:
    ...     print(error.number, error.data)
    1 b'1'
    """

    code = "decode-error"
    advice = (
        "Read on after it from `error.next_offset`, leave such messages out with `on_bad='skip'`,"
        " or read without `decode`."
    )
    offset: str | None = None
    """Where to read the message again. None if the read began at NOW."""
    next_offset: str | None = None
    """Where to read on after the message. None as for ``offset``."""
    number: int = 0
    """The number of the message in its batch, from 1 on."""
    data: bytes = b""
    """The text of the message, as the server sent it."""


class NotSupported(ClientError):
    """The server lacks an extension of the protocol that the call needs. Nothing was changed.

    >>> try:
    ...     list(client.list())
    ... except NotSupported as error:
    ...     print(error.code)
    not-supported
    """

    code = "not-supported"


class ResponseError(ClientError, core.ProtocolError):
    """The server refused the request. Nothing was changed, unless a subclass says otherwise.

    >>> try:
    ...     client.stream("missing").head()
    ... except ResponseError as error:
    ...     print(error.status, error.retry_after)
    404 None
    """

    code = "refused"
    retry_after: str | None = None
    """The ``Retry-After`` header as the server sent it: seconds, or an HTTP date."""


class InvalidRequest(ResponseError, core.InvalidRequest):
    """The server will not take such a request, now or later (400, 405, 412, 501, other 4xx).

    >>> try:
    ...     stream.read("elsewhere").read_items()
    ... except InvalidRequest as error:
    ...     print(error.status)
    400
    """

    code = "invalid-request"
    advice = "The request cannot succeed unchanged."


class AccessDenied(ResponseError):
    """The server wants other credentials (401), or does not permit this to these (403).

    >>> try:
    ...     stream.append(4)
    ... except AccessDenied as error:
    ...     print(error.status, error.advice)
    401 Check the credentials in the client's headers.
    """

    code = "access-denied"
    advice = "Check the credentials in the client's headers."


class Fenced(ResponseError, core.Fenced):
    """The server refused a producer because it knows a newer epoch of it (403, §5.2.1).

    >>> with stream.producer("job", epoch=2) as new:
    ...     new.append(4)
    >>> try:
    ...     with stream.producer("job", epoch=1) as old:
    ...         old.append(5)
    ... except NotStored as error:
    ...     print(isinstance(error.cause, Fenced), error.cause.epoch)
    True 2
    """

    code = "producer-fenced"
    advice = (
        "Another instance took over this producer id; stop, or start again with a higher epoch."
    )
    epoch: int | None = None
    """The newer epoch, if the server told it."""


class Redirected(ResponseError):
    """The server redirects to another origin, or somewhere that cannot be followed (3xx).

    The client follows redirects within one origin only, because its headers may hold credentials
    for that server.

    >>> try:
    ...     stream.head()
    ... except Redirected as error:
    ...     print(error.location)
    https://example.org/numbers
    """

    code = "redirected"
    advice = "If you trust that server, use its URL with another client."
    location: str = ""
    """The ``Location`` header as the server sent it."""


class NotFound(ResponseError, core.NotFound):
    """There is no such stream or subscription (404).

    >>> try:
    ...     client.stream("missing").head()
    ... except NotFound as error:
    ...     print(error.status, error.code)
    404 not-found
    """

    code = "not-found"
    advice = "Create the stream first, or check its name and the client's base URL."


class Gone(ResponseError, core.Gone):
    """The stream was deleted but still has forks (§4.2), or the offset is not kept (410, §8).

    >>> try:
    ...     stream.head()
    ... except Gone as error:
    ...     print(error.status)
    410
    """

    code = "gone"
    advice = "Read from START, or use another stream."


class OffsetGone(Gone, core.OffsetGone):
    """The data before the offset is no longer there (410, §8).

    The stream was deleted and created again, or the server lost its newest data. Reading on would
    skip data or mix two streams.

    >>> try:
    ...     stream.read("00000002").read_items()
    ... except OffsetGone:
    ...     print("read again from", START)
    read again from -1
    """

    code = "offset-gone"
    advice = "Discard what you have read of the stream, and read it again from START."


class TailMoved(ResponseError, core.TailMoved):
    """The tail is not the offset that an append expected, so nothing was appended (412).

    Read on from the offset, decide again, and repeat with the new one.

    >>> try:
    ...     stream.append(4, expected="00000001")
    ... except TailMoved as error:
    ...     print(error.offset)
    00000003
    """

    code = "tail-moved"
    advice = "Another writer was faster: read on, decide again, and append with the new tail."
    offset: str | None = None
    """The offset of the tail, if the server told it."""


class TooLarge(ResponseError):
    """The request's body is larger than the server accepts (413).

    >>> try:
    ...     stream.append("x" * 1000)
    ... except TooLarge as error:
    ...     print(error.advice)
    Send less at a time.
    """

    code = "too-large"
    advice = "Send less at a time."


class Conflict(ResponseError, core.Conflict):
    """The stream's state does not allow the request (409).

    >>> try:
    ...     stream.create(content_type="text/plain")
    ... except Conflict as error:
    ...     print(error.code, stream.head().content_type)
    stream-exists application/json
    """

    code = "conflict"
    advice = "Call `head()` to see the state of the stream."


class StreamClosed(Conflict, core.StreamClosed):
    """The stream is closed and takes no more data (409, §5.2).

    >>> _ = stream.close_stream()
    >>> try:
    ...     stream.append(4)
    ... except StreamClosed as error:
    ...     print(error.offset)
    00000003
    """

    code = "stream-closed"
    advice = "Read it to its end, or write to another stream."
    offset: str | None = None
    """The final offset of the stream, if the server told it."""


class StreamExists(Conflict):
    """The stream exists with another configuration (409, §5.1).

    With ``exist_ok=False`` it may also be the same configuration.

    >>> try:
    ...     stream.create(content_type="text/plain")
    ... except StreamExists as error:
    ...     print(error.status)
    409
    """

    code = "stream-exists"
    advice = "Use it as it is, delete it, or choose another name."


class SequenceConflict(Conflict):
    """``seq`` was not greater than the last ``Stream-Seq`` of the stream (409, §5.2).

    >>> _ = stream.append(4, seq="b")
    >>> try:
    ...     stream.append(5, seq="a")
    ... except SequenceConflict as error:
    ...     print(error.code)
    sequence-conflict
    """

    code = "sequence-conflict"
    advice = "Another writer is ahead: read its data, then append with a higher `seq`."


class SequenceGap(Conflict, core.SequenceGap):
    """The server has not got earlier batches of a producer (409, §5.2.1).

    >>> try:
    ...     stream.append(4)
    ... except SequenceGap as error:
    ...     print(error.expected, error.received)
    3 5
    """

    code = "producer-sequence-gap"
    advice = "The server lost acknowledged data, or the stream was deleted and created again."
    expected: int | None = None
    """The sequence number that the server expects next."""
    received: int | None = None
    """The sequence number that it received."""


class Unavailable(ResponseError, core.Unavailable):
    """The server cannot carry out the request now (408, 425, 429 and most 5xx).

    Whether it has carried it out is unknown, except that after 429 it has not.

    >>> try:
    ...     stream.head()
    ... except Unavailable as error:
    ...     print(error.status, error.retry_after)
    503 5
    """

    code = "unavailable"
    advice = "Try again later."


def public_url(url: str) -> str:
    """The URL without user, password and query, fit for logs."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "(a URL that cannot be read)"
    host = parts.netloc.rpartition("@")[2]
    shown = f"{parts.scheme or 'http'}://{host}{parts.path}" if host else parts.path
    return shown if shown.isprintable() else ascii(shown)


def is_retryable(error: ClientError) -> bool:
    """Whether the same request may succeed later, provided it is safe to repeat."""
    return isinstance(error, (TransportError, Unavailable))


def is_unapplied(error: ClientError) -> bool:
    """Whether the request certainly changed nothing: it did not arrive, or was refused."""
    if isinstance(error, Unavailable):
        return error.status == 429
    return isinstance(error, (ConnectFailed, NoFreeConnection, ResponseError, InvalidArgument))


_BY_STATUS: Final[dict[int, type[ResponseError]]] = {
    401: AccessDenied,
    403: AccessDenied,
    404: NotFound,
    409: Conflict,
    410: Gone,
    413: TooLarge,
}

_MESSAGES: Final[dict[type[ResponseError], str]] = {
    InvalidRequest: "The server refused the request",
    AccessDenied: "The server denied access",
    Fenced: "A newer epoch of this producer has taken over",
    Redirected: "The server redirects to another URL",
    NotFound: "There is no such stream",
    Gone: "The stream, or this part of it, was deleted",
    OffsetGone: "The data before the offset is no longer there",
    TailMoved: "The tail is not the offset that was expected",
    TooLarge: "The server refused the request as too large",
    Conflict: "The request does not fit the stream",
    StreamClosed: "The stream is closed",
    StreamExists: "The stream exists with another configuration",
    SequenceConflict: "The sequence number is not higher than the last one",
    SequenceGap: "The server has not got earlier batches of this producer",
    Unavailable: "The server cannot serve the request now",
}


def describe(kind: type[ResponseError], detail: str) -> str:
    """The message of an error: what happened, and what the server said about it."""
    message = _MESSAGES[kind]
    return f"{message}: {detail}" if detail else f"{message}."


def kind_of(status: int, **facts: Any) -> type[ResponseError]:
    """The error class of a refusing status, given facts about the request and the headers."""
    if status in RETRYABLE_STATUSES or (status >= 500 and status not in {501, 505}):
        return Unavailable
    if status == 403 and facts.get("producer_epoch"):
        return Fenced
    if status == 412 and facts.get("conditional"):
        return TailMoved
    if status == 410 and facts.get("code") == OffsetGone.code:
        return OffsetGone
    if status == 409:
        if facts.get("closed"):
            return StreamClosed
        if facts.get("expected_seq"):
            return SequenceGap
        if facts.get("creating"):
            return StreamExists
        if facts.get("sequenced"):
            return SequenceConflict
    if facts.get("redirected"):
        return Redirected
    return _BY_STATUS.get(status, InvalidRequest)
