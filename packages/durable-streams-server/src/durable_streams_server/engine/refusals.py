"""Why the engine does not do an operation: each function makes a new error for one caller."""

import logging
from typing import Any, Final

from durable_streams_core.entities import Refused
from durable_streams_core.errors import ProtocolError, Unavailable
from durable_streams_core.operations import Operation

log = logging.getLogger("durable_streams_server.engine")

STORE_FAILED: Final = "the store failed in a commit"
"""Logged when a store raised an exception that it should not."""


def decision_failed(operation: Operation[Any], error: Exception) -> ProtocolError:
    """500; the log tells why."""
    log.error("deciding %s failed", type(operation).__name__, exc_info=error)
    return ProtocolError("The server failed; see its log.")


def stopped() -> Unavailable:
    """503: the engine has stopped, or has not started in this process."""
    return Unavailable(
        "The streams engine does not run: it is starting or stopping, or nothing in this process "
        "has started it.",
        code="not-started",
    )


def too_much_data() -> Unavailable:
    """503: the bytes that wait to be stored have reached their bound."""
    return Unavailable("Too much data waits to be stored.", code="overloaded")


def too_many_operations() -> Unavailable:
    """503: the commit queue of the stream is full."""
    return Unavailable("Too many operations wait for this stream.", code="overloaded")


def too_contended() -> Unavailable:
    """503: other writers were faster every time."""
    return Unavailable("The stream is too contended.", code="contended")


def store_failed() -> Unavailable:
    """503: the store raised something that it should not."""
    return Unavailable("The store failed; see the server's log.")


def store_unreachable() -> Unavailable:
    """503: the store did not return what a decision needs."""
    return Unavailable("The store cannot be reached.")


def refused(outcome: Refused) -> Unavailable:
    """503, or 507 where the store is full: the store did nothing and said why."""
    full = outcome.code == "storage-full"
    return Unavailable(
        outcome.message,
        code=outcome.code,
        status=507 if full else 503,
        retry_after=None if full else 1,
    )


def stream_full(limit: int) -> ProtocolError:
    """507: the stream has the size that its quota allows."""
    return ProtocolError(
        f"The stream may hold {limit} bytes and has no room for this: write to another.",
        status=507,
        code="stream-full",
    )


def prefix_full(prefix: str, limit: int) -> ProtocolError:
    """507: what lies below a prefix has the size that its quota allows."""
    return ProtocolError(
        f"The streams below {prefix or 'the root'} may hold {limit} bytes together and have no "
        "room for this: delete some of them.",
        status=507,
        code="prefix-full",
    )


def too_many_streams(prefix: str, limit: int) -> ProtocolError:
    """507: there are as many streams below a prefix as its quota allows."""
    return ProtocolError(
        f"There may be {limit} streams below {prefix or 'the root'}: delete one first.",
        status=507,
        code="too-many-streams",
    )


def outcome_unknown() -> Unavailable:
    """504: the operation may or may not have been applied."""
    return Unavailable(
        "The store does not say whether this was applied. Repeat it with producer headers, "
        "or read the stream to find out.",
        code="outcome-unknown",
        status=504,
        retry_after=None,
    )
