"""Credentials in a front end's own request: its bearer token and its client certificate.

An ``authorize`` function gets the request of whichever front end serves it: a
:class:`~durable_streams_server.http.messages.RequestHead`, aiohttp's request, or an ASGI scope.
"""

from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from durable_streams_server.http import names
from durable_streams_server.http.messages import RequestHead

MAX_TOKEN: Final = 8 * 1024
"""Bytes of a bearer token; a longer one is not looked at."""


def authorization_of(request: object) -> bytes | None:
    """The ``Authorization`` header, None without one. Two that differ make one that is invalid."""
    if isinstance(request, RequestHead):
        return request.headers.get(names.AUTHORIZATION)
    values: list[bytes]
    if isinstance(request, web.BaseRequest):
        values = [
            # Bytes that are not UTF-8 are in no token, and are refused as one.
            value.encode(errors="surrogateescape")
            for value in request.headers.getall("authorization", ())
        ]
    elif isinstance(request, Mapping):
        values = [
            value for name, value in request["headers"] if name.lower() == names.AUTHORIZATION
        ]
    else:
        raise TypeError(f"This is not the request of a front end: {type(request).__name__}.")
    if not values:
        return None
    return values[0] if len(set(values)) == 1 else b""


def bearer_of(authorization: bytes) -> bytes | None:
    """The token of ``Authorization: Bearer`` (RFC 6750 §2.1), None for anything else."""
    if authorization[:7].lower() != b"bearer ":
        return None
    token = authorization[7:].strip()
    return token if 0 < len(token) <= MAX_TOKEN else None


def certificate_of(request: object) -> bytes | None:
    """The client's certificate (DER), None without one.

    The TLS layer has verified it. In ASGI it comes with the extension ``tls``, which few servers
    have.
    """
    if isinstance(request, RequestHead):
        return None if request.peer is None else request.peer.certificate
    if isinstance(request, web.BaseRequest):
        tls = request.get_extra_info("ssl_object")
        found: bytes | None = None if tls is None else tls.getpeercert(binary_form=True)
        return found
    if isinstance(request, Mapping):
        return _from_scope(request)
    return None


def _from_scope(scope: Mapping[str, Any]) -> bytes | None:
    tls = (scope.get("extensions") or {}).get("tls") or {}
    chain = tls.get("client_cert_chain")
    # A server may let a client go on whose certificate it could not verify, and says so.
    if not chain or tls.get("client_cert_error"):
        return None
    pem: str = next(iter(chain))
    return x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER)
