"""What a request must be beyond llhttp's own rules.

llhttp refuses bare CR and LF, folded lines, two lengths, a length next to chunks, and bytes that
no header holds. It lets through what is refused here, because a server in front may read it
differently: another coding before chunks, chunks in HTTP/1.0, no Host, other versions, upgrades.
Repeated headers that must stand alone are the handler's own business, as in every front end.
"""

from collections.abc import Mapping

from durable_streams_core.errors import InvalidRequest, ProtocolError


class Malformed(InvalidRequest):
    """After this request the connection's bytes mean nothing: answer, then close."""

    code = "malformed-request"


def check_head(method: bytes, version: str, headers: Mapping[bytes, bytes]) -> None:
    """Raise :class:`Malformed` for a head whose request cannot be told apart from the next."""
    if version != "1.1":
        if version != "1.0":
            raise Malformed("This server speaks HTTP/1.1.", code="http-version", status=505)
        if b"transfer-encoding" in headers:
            raise Malformed("HTTP/1.0 has no Transfer-Encoding.")
    elif b"host" not in headers:
        raise Malformed("An HTTP/1.1 request names its Host.", code="missing-host")
    coding = headers.get(b"transfer-encoding")
    if coding is not None and coding.lower() != b"chunked":
        raise Malformed(
            "Send the body with a Content-Length or in chunks, in no other coding.",
            code="transfer-encoding",
            status=501,
        )
    if b"upgrade" in headers:
        raise Malformed("This server speaks HTTP/1.1 only; ask for no upgrade.", code="no-upgrade")
    if method == b"CONNECT":
        raise Malformed(
            "This server is no proxy.",
            code="method-not-allowed",
            status=405,
            headers={"Allow": "GET, HEAD, POST, PUT, DELETE, OPTIONS"},
        )


def wants_continue(headers: Mapping[bytes, bytes]) -> bool:
    """Whether the client waits for ``100 Continue``; raises for any other expectation."""
    expectation = headers.get(b"expect")
    if expectation is None:
        return False
    if expectation.lower() != b"100-continue":
        raise ProtocolError(
            "The only expectation is 100-continue.", status=417, code="expectation-failed"
        )
    return True


def header_too_large(limit: int) -> Malformed:
    return Malformed(
        f"The request's head is larger than {limit} bytes.", code="header-too-large", status=431
    )


def target_too_long(limit: int) -> Malformed:
    return Malformed(
        f"The request's target is longer than {limit} bytes.", code="target-too-long", status=414
    )


def too_slow(what: str) -> Malformed:
    return Malformed(f"The {what} took too long to arrive.", code="too-slow", status=408)


def bad_syntax(reason: str) -> Malformed:
    return Malformed(f"This is not HTTP/1.1: {reason}.")
