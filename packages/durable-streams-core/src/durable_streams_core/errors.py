"""The error tree of the protocol.

    DurableStreamsError
    ├── StoreError                 a store cannot be opened or used at all
    │   └── StoreInUse             … because another process has it open
    └── ProtocolError              a refusal: status, code, a sentence, headers
        ├── InvalidRequest         400, 414: what the caller sent is at fault
        ├── NotFound               404
        ├── Gone                   410  soft-deleted
        │   └── OffsetGone         410  the bytes before the offset are no longer there
        ├── Conflict               409  what exists does not allow it
        │   ├── StreamClosed
        │   └── SequenceGap
        ├── Fenced                 403  a newer producer epoch exists
        ├── TailMoved              412  ``If-Match`` of an append, an extension
        ├── PreconditionFailed     412  ``If-Match`` or ``If-None-Match`` (RFC 9110 §13)
        ├── SubscriptionError      400, 401, 404, 409  with the codes of §6 and §7
        └── Unavailable            503, 504, 507 … the server's own trouble

Each :class:`ProtocolError` carries the HTTP status and a stable ``code``; the message says what to
do next. Front ends turn them into ``application/problem+json`` (RFC 9457) without knowing the
classes.
"""

from collections.abc import Mapping
from typing import Final

from durable_streams_core import protocol
from durable_streams_core.offsets import Offset

__all__ = [
    "Conflict",
    "DurableStreamsError",
    "Fenced",
    "Gone",
    "InvalidRequest",
    "NotFound",
    "OffsetGone",
    "PreconditionFailed",
    "ProtocolError",
    "SequenceGap",
    "StoreError",
    "StoreInUse",
    "StreamClosed",
    "SubscriptionError",
    "TailMoved",
    "Unavailable",
]

_NO_HEADERS: Final[Mapping[str, str]] = {}


class DurableStreamsError(Exception):
    """Base of every error that this project raises on purpose."""


class StoreError(DurableStreamsError):
    """A store cannot be opened, or refuses to go on; the message says why and what to do."""


class StoreInUse(StoreError):
    """Another process has the store open, and only one may; it can be opened once that one ends."""


class ProtocolError(DurableStreamsError):
    """A refusal of the protocol, which becomes a response.

    ``status`` is the HTTP status, ``code`` a stable machine-readable name, ``headers`` what the
    response carries beside them.
    """

    status: int = 500
    code: str = "internal-error"
    headers: Mapping[str, str] = _NO_HEADERS

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        status: int | None = None,
        headers: Mapping[str, str] = _NO_HEADERS,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.headers = headers
        if code is not None:
            self.code = code
        if status is not None:
            self.status = status


class InvalidRequest(ProtocolError):
    """The request is malformed; sending it again unchanged cannot help."""

    status = 400
    code = "invalid-request"


class NotFound(ProtocolError):
    """There is no such stream."""

    status = 404
    code = "not-found"


class Gone(ProtocolError):
    """The stream is soft-deleted: its bytes live on for its forks only (§4.2)."""

    status = 410
    code = "gone"


class OffsetGone(Gone):
    """The bytes before an offset are no longer there: its stream was deleted and created again, or
    the store lost them. Reading on would skip data or mix two streams, so start again (§8).
    """

    code = "offset-gone"

    def __init__(self) -> None:
        super().__init__(
            "What this offset stands for is no longer there: the stream was deleted and created "
            "again, or the store lost its newest data. Drop what you kept of it and start again "
            "from offset -1."
        )


class Conflict(ProtocolError):
    """What exists does not allow the request."""

    status = 409
    code = "conflict"


class StreamClosed(Conflict):
    """An append met a closed stream (§5.2); ``offset`` is its final offset."""

    code = "stream-closed"

    def __init__(self, tail: Offset) -> None:
        self.tail = tail
        self.offset = str(tail)
        super().__init__(
            "The stream is closed and takes no more data. Read it to its end, or write to another.",
            headers={protocol.STREAM_NEXT_OFFSET: self.offset, protocol.STREAM_CLOSED: "true"},
        )


class SequenceGap(Conflict):
    """A producer skipped sequence numbers (§5.2.1)."""

    code = "producer-sequence-gap"

    def __init__(self, expected: int, received: int) -> None:
        self.expected = expected
        self.received = received
        super().__init__(
            f"The producer's next sequence number is {expected}, not {received}: "
            "an earlier batch has not arrived. Send it first, then this one again.",
            headers={
                protocol.PRODUCER_EXPECTED_SEQ: str(expected),
                protocol.PRODUCER_RECEIVED_SEQ: str(received),
            },
        )


class Fenced(ProtocolError):
    """A producer with a newer epoch took over (§5.2.1)."""

    status = 403
    code = "producer-fenced"

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        super().__init__(
            f"Another producer owns this id with epoch {epoch}. Stop, or claim it with "
            f"epoch {epoch + 1} and sequence 0.",
            headers={protocol.PRODUCER_EPOCH: str(epoch)},
        )


class TailMoved(ProtocolError):
    """``If-Match`` named an offset that is no longer the tail (an extension of ours)."""

    status = 412
    code = "tail-moved"

    def __init__(self, tail: Offset) -> None:
        self.offset = str(tail)
        super().__init__(
            f"The tail is {self.offset}, not the offset in If-Match. "
            "Read on from your offset, decide again, and repeat with the new tail.",
            headers={protocol.STREAM_NEXT_OFFSET: self.offset},
        )


class PreconditionFailed(ProtocolError):
    """What exists is not what ``If-Match`` or ``If-None-Match`` asks for (RFC 9110 §13)."""

    status = 412
    code = "precondition-failed"

    def __init__(self) -> None:
        super().__init__(
            "What is here is not what If-Match or If-None-Match asks for, so nothing was done. "
            "Read it, and decide again."
        )


class SubscriptionError(ProtocolError):
    """A refusal of the subscription API, whose errors have codes and a body of their own (§7).

    ``details`` are what the error object holds beside code and message.
    """

    STATUS: Final[Mapping[str, int]] = {
        "INVALID_REQUEST": 400,
        "WEBHOOK_URL_REJECTED": 400,
        "TOKEN_INVALID": 401,
        "TOKEN_EXPIRED": 401,
        "SUBSCRIPTION_NOT_FOUND": 404,
        "SUBSCRIPTION_ALREADY_EXISTS": 409,
        "FENCED": 409,
        "ALREADY_CLAIMED": 409,
        "NO_PENDING_WORK": 409,
        "INVALID_OFFSET": 409,
    }

    def __init__(self, code: str, message: str, **details: object) -> None:
        super().__init__(message, code=code, status=self.STATUS[code])
        self.details = details


class Unavailable(ProtocolError):
    """The server cannot do it now; ``Retry-After`` says when to repeat.

    Nothing was applied, unless the code is ``outcome-unknown`` (504).
    """

    status = 503
    code = "unavailable"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        status: int | None = None,
        retry_after: int | None = 1,
    ) -> None:
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        super().__init__(message, code=code, status=status, headers=headers)
