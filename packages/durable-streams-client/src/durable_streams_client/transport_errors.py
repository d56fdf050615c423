"""The client's errors for exceptions of the HTTP library.

Exception classes are recognised by name, because httpx and httpx2 have the same ones in two
packages, and a client of either can be handed in. httpcore below them uses the same names.
"""

from typing import Final

from durable_streams_client.errors import (
    ClientClosed,
    ClientError,
    ConnectFailed,
    ConnectionLost,
    InvalidArgument,
    NoFreeConnection,
    NotUsableHere,
    TimedOut,
)

_KINDS: Final[tuple[tuple[frozenset[str], type[ClientError], str], ...]] = (
    (
        frozenset({"ConnectError", "ConnectTimeout", "ProxyError"}),
        ConnectFailed,
        "The server cannot be reached",
    ),
    (frozenset({"PoolTimeout"}), NoFreeConnection, "No connection became free in time"),
    (frozenset({"TimeoutException"}), TimedOut, "The server sent nothing for too long"),
    (
        frozenset({"InvalidURL", "UnsupportedProtocol", "LocalProtocolError"}),
        InvalidArgument,
        "The request cannot be sent",
    ),
    (
        frozenset({"TransportError", "NetworkError", "ProtocolError"})
        | frozenset({"DecodingError", "StreamError", "OSError"}),
        ConnectionLost,
        "The connection broke before the response was complete",
    ),
)


def transport_error_of(error: Exception, *, method: str, url: str) -> ClientError | None:
    """The client's error for an exception of the HTTP library, or None for any other."""
    names = {kind.__name__ for kind in type(error).__mro__}
    for known, kind, message in _KINDS:
        if names & known:
            detail = str(error).rstrip(". ") or type(error).__name__
            return kind(f"{message}: {detail}.", method=method, url=url)
    if isinstance(error, RuntimeError) and "loop" in str(error):
        return NotUsableHere(
            "The HTTP client handed in has connections of another event loop.",
            method=method,
            url=url,
            advice="Make one in each event loop, or hand in none.",
        )
    if isinstance(error, RuntimeError) and "closed" in str(error):
        return ClientClosed("The client is closed.", method=method, url=url)
    return None
