"""The errors of the client.

    DurableStreamsError                 (of core, base of the whole project)
    └── ClientError                     url, status, code, advice
        ├── InvalidArgument             also a ValueError: the call itself is at fault
        ├── ClientClosed                the client was closed before or during the call
        ├── NotUsableHere               made in another process or event loop
        ├── NoFreeConnection            the HTTP client handed in has too few connections
        ├── Cancelled                   a reader was cancelled from another thread or task
        ├── NotStored                   a producer could not store what it was given
        ├── TransportError              no complete answer came
        │   ├── ConnectFailed           and the request certainly did not reach the server
        │   ├── TimedOut                also a TimeoutError
        │   └── ConnectionLost
        ├── MalformedAnswer             an answer that breaks the protocol
        └── AnswerError                 the server said no; also a ProtocolError of core
            ├── InvalidRequest          400, 405, 501 and other 4xx
            ├── AccessDenied            401, 403
            ├── Fenced                  403: a newer epoch of the producer exists (§5.2.1)
            ├── Redirected              3xx to another origin, or where it cannot be followed
            ├── NotFound                404
            ├── Gone                    410
            │   └── OffsetGone          the data before the offset is no longer there (§8)
            ├── TooLarge                413
            ├── Conflict                409
            │   ├── StreamClosed        the stream takes no more data (§5.2)
            │   ├── StreamExists        created before with another configuration (§5.1)
            │   ├── SequenceConflict    ``Stream-Seq`` did not rise (§5.2)
            │   └── SequenceGap         a producer skipped a sequence number (§5.2.1)
            └── Unavailable             408, 425, 429, 5xx: the server's trouble, worth a repeat

Every class below AnswerError that core has too is a kind of core's, so `except` clauses that name
the classes of :mod:`durable_streams_core.errors` work on an engine and on a client alike.

No exception of the transport library leaves the client; it is the ``__cause__`` of one of these.
Messages name the method and the URL without its query, which may hold secrets.
"""

# A client knows less than an engine: where core has a status or an offset, it may have none.
# mypy: disable-error-code="misc, assignment"

from typing import Any, Final
from urllib.parse import urlsplit

from durable_streams_core import errors as core
from durable_streams_core.errors import DurableStreamsError

RETRYABLE_STATUSES: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


class ClientError(DurableStreamsError):
    """Base of every error of the client.

    ``status`` is the HTTP status where there was one, ``code`` a stable machine-readable name,
    ``advice`` a sentence that says what to do next.
    """

    code: str = "client-error"
    advice: str = ""

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
        # Not what follows in the order of bases: errors of core are made of other arguments.
        DurableStreamsError.__init__(self, message)

    def about(self, method: str, url: str) -> None:
        """Note the request that this error is about, unless that is known already."""
        if not self.url:
            self.method, self.url = method, url

    def summary(self) -> str:
        """The message with the request that it is about, without advice."""
        if not self.url:
            return self.message
        target = f"{self.method} {public_url(self.url)}".strip()
        return f"{self.message} ({target}{'' if self.status is None else f': {self.status}'})"

    def __str__(self) -> str:
        parts = [self.summary()]
        if self.advice:
            parts.append(self.advice)
        return " ".join(parts)


class InvalidArgument(ClientError, ValueError):
    """What the caller passed cannot be meant; nothing was sent."""

    code = "invalid-argument"


class ClientClosed(ClientError):
    code = "client-closed"
    advice = "Make a new client, or use this one inside its `with` block."


class NotUsableHere(ClientError):
    """What is used belongs to another process or event loop, and cannot be shared with it."""

    code = "not-usable-here"


class NoFreeConnection(ClientError):
    """The HTTP client handed in has a limit of connections, and all of them were in use."""

    code = "no-free-connection"
    advice = (
        "Each live reader needs a connection of its own: raise the limit, as in"
        " httpx.Limits(max_connections=None), or hand in no client."
    )


class Cancelled(ClientError):
    """The reader was cancelled; this is never the end of a stream."""

    code = "cancelled"


ENDED: Final[dict[type[ClientError], str]] = {
    Cancelled: "The reader was cancelled.",
    ClientClosed: "The client is closed.",
}
"""What is said to those whose wait another thread or task has ended."""


class NotStored(ClientError):
    """A producer gave up: ``items`` are, in order, what the server has not acknowledged.

    The first ``uncertain`` of them may have been stored all the same, because an answer was lost.
    Sending everything again under the same producer id, epoch and sequence is not possible any
    more; read the end of the stream to find out which of them are there.
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
        # Pickled by its attributes: what it was made with is not in `args`.
        return _restored, (type(self), self.message, self.__dict__)


def _restored(kind: type[NotStored], message: str, attributes: dict[str, Any]) -> NotStored:
    error = kind.__new__(kind, message)
    error.__dict__.update(attributes)
    return error


class TransportError(ClientError):
    """No complete answer came; whether the request was carried out is unknown."""

    code = "transport"
    advice = "Check the network and the server."


class ConnectFailed(TransportError):
    """No connection: the request certainly did not reach the server."""

    code = "connect-failed"
    advice = "Check the address, and that a server listens there."


class TimedOut(TransportError, TimeoutError):
    code = "timed-out"
    advice = "Raise the time limit if the server is expected to be that slow."


class ConnectionLost(TransportError):
    code = "connection-lost"


class MalformedAnswer(ClientError):
    """The answer breaks the protocol: a header is missing, or its content is not what it says."""

    code = "malformed-answer"
    advice = "Check that the URL is that of a stream and that no proxy rewrites the answer."


class AnswerError(ClientError, core.ProtocolError):
    """The server refused; nothing was changed unless a subclass says otherwise."""

    code = "refused"
    retry_after: str | None = None
    """The Retry-After header as it came."""


class InvalidRequest(AnswerError, core.InvalidRequest):
    code = "invalid-request"
    advice = "The request cannot succeed unchanged."


class AccessDenied(AnswerError):
    code = "access-denied"
    advice = "Check the credentials in the client's headers."


class Fenced(AnswerError, core.Fenced):
    """A newer epoch of this producer exists: this one must stop. ``epoch`` is the newer one."""

    code = "producer-fenced"
    advice = (
        "Another instance took over this producer id; stop, or start again with a higher epoch."
    )
    epoch: int | None = None


class Redirected(AnswerError):
    """The server redirects to ``location``, which is not followed.

    Redirects are followed within an origin only: the client's headers, credentials among them, are
    for that server alone. Nothing was changed.
    """

    code = "redirected"
    advice = "Use that URL, with a client of its own, if it is to be trusted."
    location: str = ""


class NotFound(AnswerError, core.NotFound):
    code = "not-found"
    advice = "Create the stream first, or check its name and the client's base URL."


class Gone(AnswerError, core.Gone):
    """The stream was deleted while forks live on it, or the offset is no longer kept."""

    code = "gone"
    advice = "Read from START, or use another stream."


class OffsetGone(Gone, core.OffsetGone):
    """The data before the offset is no longer there: the stream was deleted and created again, or
    the server lost its newest data. Reading on would skip data or mix two streams.
    """

    code = "offset-gone"
    advice = "Drop what you kept of the stream and read it again from START."


class TooLarge(AnswerError):
    code = "too-large"
    advice = "Send less at a time."


class Conflict(AnswerError, core.Conflict):
    code = "conflict"
    advice = "Compare with what `head()` says about the stream."


class StreamClosed(Conflict, core.StreamClosed):
    """The stream takes no more data; ``offset`` is its final offset, if the server told."""

    code = "stream-closed"
    advice = "Read it to its end, or write to another stream."
    offset: str | None = None


class StreamExists(Conflict):
    code = "stream-exists"
    advice = "Use it as it is, delete it, or choose another name."


class SequenceConflict(Conflict):
    code = "sequence-conflict"
    advice = "Another writer is ahead: read on, and go on with a higher `seq`."


class SequenceGap(Conflict, core.SequenceGap):
    """The server misses earlier batches of a producer."""

    code = "producer-sequence-gap"
    advice = "The server has lost what it acknowledged, or the stream was made anew."
    expected: int | None = None
    received: int | None = None


class Unavailable(AnswerError, core.Unavailable):
    """The server cannot do it now. Whether it did is unknown, except for 429."""

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
    """Whether the request certainly changed nothing: it never arrived, or was turned away."""
    if isinstance(error, Unavailable):
        return error.status == 429
    return isinstance(error, (ConnectFailed, NoFreeConnection, AnswerError, InvalidArgument))


_BY_STATUS: Final[dict[int, type[AnswerError]]] = {
    401: AccessDenied,
    403: AccessDenied,
    404: NotFound,
    409: Conflict,
    410: Gone,
    413: TooLarge,
}

_WORDS: Final[dict[type[AnswerError], str]] = {
    InvalidRequest: "The server refused the request",
    AccessDenied: "The server denied access",
    Fenced: "A newer epoch of this producer has taken over",
    Redirected: "The server redirects to another place",
    NotFound: "There is no such stream",
    Gone: "The stream or this part of it is gone",
    OffsetGone: "What the offset stands for is no longer there",
    TooLarge: "The server refused the request as too large",
    Conflict: "The request does not fit the stream",
    StreamClosed: "The stream is closed",
    StreamExists: "The stream exists with another configuration",
    SequenceConflict: "The sequence number is not higher than the last one",
    SequenceGap: "The server misses earlier batches of this producer",
    Unavailable: "The server cannot serve the request now",
}


def describe(kind: type[AnswerError], detail: str) -> str:
    """The message of an error: what it is, and what the server said about it."""
    words = _WORDS[kind]
    return f"{words}: {detail}" if detail else f"{words}."


def kind_of(status: int, **facts: Any) -> type[AnswerError]:
    """The class for a refusing status; ``facts`` tell what only the request and headers show."""
    if status in RETRYABLE_STATUSES or (status >= 500 and status not in {501, 505}):
        return Unavailable
    if status == 403 and facts.get("producer_epoch"):
        return Fenced
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
