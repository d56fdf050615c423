"""The protocol's operations as HTTP: what a front end asks, in two steps.

``begin`` looks at the head alone and either answers at once (what needs no body: a wrong method,
a bad path, a declared length over the limit) or returns an
:class:`~durable_streams_server.http.exchange.Exchange`, which says how many bytes of body it takes
and, once access is permitted, answers with a response, a pending one or a live one. Nothing is
read or told of a stream before access is permitted.
"""

import hmac
import logging

from durable_streams_core.errors import NotFound, ProtocolError
from durable_streams_core.paths import decode_path
from durable_streams_core.protocol import RESERVED_SEGMENT
from durable_streams_server.engine.engine import Engine
from durable_streams_server.http import headers
from durable_streams_server.http.context import Context
from durable_streams_server.http.control import Controlling
from durable_streams_server.http.control_routes import (
    MAX_CONTROL_BODY,
    OPEN,
    check_method,
    control_too_large,
    error_response,
    is_control,
    parse_route,
)
from durable_streams_server.http.exchange import Exchange, internal_error, not_authenticated
from durable_streams_server.http.headers import Cors
from durable_streams_server.http.listing import Listing, SubscriptionListing
from durable_streams_server.http.messages import Header, RequestHead, Response, problem
from durable_streams_server.http.options import Options
from durable_streams_server.http.reads import Describing, Reading
from durable_streams_server.http.writes import Appending, Creating, Deleting
from durable_streams_server.signing import refuse_write, signature_in

log = logging.getLogger("durable_streams_server.http")

_METHODS: dict[str, tuple[type[Exchange], str]] = {
    "GET": (Reading, "read"),
    "HEAD": (Describing, "head"),
    "POST": (Appending, "append"),
    "PUT": (Creating, "create"),
    "DELETE": (Deleting, "delete"),
}
"""What each method does, and what the access hook is asked for."""


_LISTINGS: dict[str, type[Exchange]] = {
    f"{RESERVED_SEGMENT}/streams": Listing,
    f"{RESERVED_SEGMENT}/subscriptions": SubscriptionListing,
}


class Handler:
    """Answers requests under one stream root, over one engine."""

    def __init__(self, engine: Engine, options: Options | None = None) -> None:
        self.engine = engine
        self.options = options = options or Options()
        self._context = context = Context(engine, options)
        self.readers = context.readers
        self._cors = context.cors
        self._authorize = options.authorize
        self._token = None if options.token is None else options.token.encode()

    def begin(self, head: RequestHead) -> Response | Exchange:
        """The first step: an answer that needs no more, or the exchange to go on with."""
        base = self._cors.headers(head.headers.get(b"origin"))
        try:
            return self._begin(head, base)
        except ProtocolError as error:
            return problem(error, base)
        except Exception:
            log.exception("looking at a request failed")
            return problem(internal_error(), base)

    def _begin(self, head: RequestHead, base: list[Header]) -> Response | Exchange:
        known = _METHODS.get(head.method)
        if known is None:
            return self._other_method(head.method, base)
        if is_control(head.path):
            return self._begin_control(head, base)
        kind, action = known
        path = decode_path(head.path, self.engine.limits.max_path)
        if log.isEnabledFor(logging.DEBUG):
            log.debug("%s %s", head.method, path)
        if head.method in ("POST", "PUT"):
            self._check_body(head)
        exchange = kind(self._context, head, path, base)
        if self._has_signature(head, path):
            return exchange
        if self._token is not None and not self._has_token(head):
            raise not_authenticated()
        if self._authorize is not None:
            exchange.ask(self._authorize, action)
        return exchange

    def _begin_control(self, head: RequestHead, base: list[Header]) -> Response | Exchange:
        """A request under the reserved ``__ds`` prefix (§6)."""
        asset = self._context.assets.get(head.path.removeprefix(RESERVED_SEGMENT + "/"))
        if asset is not None:
            return asset.respond(head, base)
        listing = _LISTINGS.get(head.path)
        if listing is not None and head.method == "GET":
            if self._token is not None and not self._has_token(head):
                raise not_authenticated()
            return listing(self._context, head, head.path, base)
        try:
            route = parse_route(head.path)
            check_method(route, head.method)
        except ProtocolError as error:
            return error_response(error, base)
        length = head.headers.get(b"content-length")
        if length is not None and length.isdigit() and int(length) > MAX_CONTROL_BODY:
            return error_response(control_too_large(), base)
        exchange = Controlling(self._context, head, route, base)
        if route.name not in OPEN:
            if self._token is not None and not self._has_token(head):
                raise not_authenticated()
            if self._authorize is not None:
                exchange.ask(self._authorize, route.action)
        return exchange

    def _other_method(self, method: str, base: list[Header]) -> Response:
        if method == "OPTIONS":
            return Response(204, [*base, *self._cors.preflight()])
        raise ProtocolError(
            "Streams know GET, HEAD, POST, PUT, DELETE and OPTIONS.",
            status=405,
            code="method-not-allowed",
            headers={"Allow": Cors.METHODS.decode()},
        )

    def _check_body(self, head: RequestHead) -> None:
        """Refuse a body for what the head says of it."""
        length = head.headers.get(b"content-length")
        limit = self.engine.limits.max_body
        if length is not None and length.isdigit() and int(length) > limit:
            raise body_too_large(limit)
        coding = head.headers.get(b"transfer-encoding")
        if coding is not None and coding.lower() != b"chunked":
            raise ProtocolError(
                "The only transfer coding here is chunked.",
                status=501,
                code="transfer-encoding",
            )
        coding = head.headers.get(b"content-encoding")
        if coding is not None and coding.lower() != b"identity":
            raise ProtocolError(
                "Send the body without Content-Encoding: what is stored is what is read.",
                status=415,
                code="content-encoding",
            )

    def _has_token(self, head: RequestHead) -> bool:
        scheme, _, given = head.headers.get(b"authorization", b"").partition(b" ")
        return (
            scheme.lower() == b"bearer"
            and self._token is not None
            and hmac.compare_digest(given.strip(), self._token)
        )

    def _has_signature(self, head: RequestHead, path: str) -> bool:
        """Whether a signed URL permits this; raises :class:`ProtocolError` (403) for a bad one."""
        signer = self.engine.signer
        if signer is None or not head.query:
            return False
        value = signature_in(head.query)
        if value is None:
            return False
        if head.method not in ("GET", "HEAD"):
            raise refuse_write()
        signer.check(path, value)
        return True

    def outside(self, method: str, path: str, root: str) -> Response:
        """For a path that is not under the stream root."""
        base = self._cors.headers(None)
        if self.options.health and path == "/health" and method in ("GET", "HEAD"):
            fields = [*base, (b"content-type", b"application/json"), headers.NO_STORE]
            return Response(200, fields, b'{"status":"ok"}')
        message = f"There is nothing here; streams live under {root}."
        return problem(NotFound(message, code="not-a-stream"), base)

    def too_large(self, head: RequestHead) -> Response:
        """For a body that turned out to be over the limit."""
        base = self._cors.headers(head.headers.get(b"origin"))
        if is_control(head.path):
            return error_response(control_too_large(), base)
        return problem(body_too_large(self.engine.limits.max_body), base)

    def refuse(self, error: ProtocolError) -> Response:
        """A problem that a front end found itself."""
        return problem(error, self._cors.headers(None))

    def close(self) -> None:
        """Say farewell to live readers; new ones get one page and are not kept."""
        self.readers.close()


def body_too_large(limit: int) -> ProtocolError:
    return ProtocolError(
        f"The body is larger than {limit} bytes; send it in several appends.",
        status=413,
        code="body-too-large",
    )
