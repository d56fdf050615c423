"""Access: verifies credentials and decides by rights, as an ``authorize`` function."""

from collections.abc import Awaitable, Iterable
from hashlib import sha256

from durable_streams_server.access.certificates import Certificate, Certificates
from durable_streams_server.access.grants import Grant
from durable_streams_server.access.jwt_tokens import JwtVerifier
from durable_streams_server.access.native_requests import (
    authorization_of,
    bearer_of,
    certificate_of,
)
from durable_streams_server.access.refusals import forbidden, invalid_token, no_credentials
from durable_streams_server.access.rights import Rights
from durable_streams_server.access.tokens import Token, Tokens
from durable_streams_server.http.options import Principal


class Access:
    """An ``authorize`` function for bearer tokens, JWT and client certificates.

    >>> access = Access(
    ...     tokens=[Token("ingest", Rights(write=["logs/**"]), secret="use-a-random-one-here")],
    ...     anonymous=Rights(read=["public/**"]),
    ... )

    Give it to :func:`create_app` or :func:`create_asgi` as ``authorize``. A request with a bearer
    token is judged by that alone: one that is not valid is refused, also where a request without
    any would be permitted. A request without a token is judged by its client certificate, and one
    without either by ``anonymous``.

    Args:
        tokens: bearer tokens.
        jwt: verifies bearer tokens that are none of those.
        certificates: rights of client certificates, which the TLS layer verifies.
        anonymous: rights of those who send no credentials.

    Raises:
        ValueError: for tokens or certificates that contradict each other.

    """

    def __init__(
        self,
        *,
        tokens: Iterable[Token] = (),
        jwt: JwtVerifier | None = None,
        certificates: Iterable[Certificate] = (),
        anonymous: Rights | None = None,
    ) -> None:
        self._tokens = Tokens(tokens)
        self.jwt = jwt
        self._certificates = Certificates(certificates)
        if anonymous is not None and anonymous.names:
            raise ValueError("Requests without credentials have no claims: leave braces out.")
        self._anonymous = anonymous

    def become(self, other: "Access") -> None:
        """Have the rules of another object from now on. Keys that were fetched are kept."""
        if self.jwt is not None and other.jwt is not None:
            other.jwt.keep_keys_of(self.jwt)
        self.__dict__.update(other.__dict__)

    def __call__(
        self, action: str, path: str, request: object
    ) -> Principal | bool | Awaitable[Principal]:
        """Permit or refuse one action; as the ``authorize`` function of a front end.

        Raises :class:`ProtocolError`: 401 for missing or invalid credentials, 403 for an action
        that they do not permit, 503 while the keys of JWT cannot be fetched.
        """
        authorization = authorization_of(request)
        if authorization is None:
            return self._without_token(action, path, request)
        token = bearer_of(authorization)
        if token is None:
            raise invalid_token()
        digest = sha256(token).digest()
        grant = self._tokens.find(digest)
        if grant is None:
            if self.jwt is None:
                raise invalid_token()
            found = self.jwt.find(token, digest)
            if not isinstance(found, Grant):
                return _require_later(found, action, path)
            grant = found
        return grant.require(action, path)

    def _without_token(self, action: str, path: str, request: object) -> Principal | bool:
        if self._certificates:
            certificate = certificate_of(request)
            grant = None if certificate is None else self._certificates.find(certificate)
            if grant is not None:
                return grant.require(action, path)
            if certificate is not None and self._anonymous is None:
                raise forbidden()
        if self._anonymous is None or not self._anonymous.permits(action, path):
            raise no_credentials()
        return True


async def _require_later(found: Awaitable[Grant], action: str, path: str) -> Principal:
    return (await found).require(action, path)
