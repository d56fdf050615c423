"""Errors of HTTP itself, which no operation on a stream raises."""

from typing import Final

from durable_streams_core.errors import InvalidRequest, ProtocolError
from durable_streams_server.access.refusals import forbidden, no_credentials

_REFUSALS: Final = frozenset((401, 403, 429, 503))
"""The statuses that an access hook may refuse with. Any other could tell what exists."""


def wrong_method(*allowed: str) -> ProtocolError:
    return ProtocolError(
        f"Use {' or '.join(allowed)} here.",
        status=405,
        code="method-not-allowed",
        headers={"Allow": ", ".join((*allowed, "OPTIONS"))},
    )


def foreign_origin() -> ProtocolError:
    return ProtocolError(
        "Pages of this origin may not write here; the server's list of origins says which may.",
        status=403,
        code="foreign-origin",
    )


def repeated_header(name: bytes) -> InvalidRequest:
    return InvalidRequest(
        f"The {name.decode()} header was sent with two values; send it once.",
        code="repeated-header",
    )


def refusal(verdict: object) -> ProtocolError:
    """The error for what an access hook returned, or raised, when it did not permit."""
    if isinstance(verdict, ProtocolError) and verdict.status in _REFUSALS:
        return verdict
    return no_credentials() if verdict == 401 else forbidden()


def body_too_large(limit: int) -> ProtocolError:
    return ProtocolError(
        f"The body is larger than {limit} bytes; send it in several appends.",
        status=413,
        code="body-too-large",
    )


def incomplete_body(declared: bytes | None, size: int) -> InvalidRequest:
    """For a body that did not arrive as its head declared it; ``declared`` None: in chunks."""
    declared_body = (
        "a body in chunks" if declared is None else f"a body of {declared.decode()} bytes"
    )
    return InvalidRequest(
        f"The head declares {declared_body}, and {size} bytes arrived: nothing was done. Send the whole "
        "body. The HTTP server in front of this application may drop the body of a request that "
        "offers an Upgrade: then offer none.",
        code="incomplete-body",
    )


def internal_error() -> ProtocolError:
    return ProtocolError("The server failed; its log says how.")
