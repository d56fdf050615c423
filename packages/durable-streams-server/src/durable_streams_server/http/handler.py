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
from durable_streams_server.http.assets import Asset
from durable_streams_server.http.context import Context
from durable_streams_server.http.control import Controlling
from durable_streams_server.http.control_routes import (
    MAX_CONTROL_BODY,
    OPEN,
    error_response,
    is_control,
    parse_route,
)
from durable_streams_server.http.errors import (
    body_too_large,
    foreign_origin,
    internal_error,
    not_authenticated,
    wrong_method,
)
from durable_streams_server.http.exchange import Exchange
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
            if head.method == "OPTIONS":
                return Response(204, [*base, *self._cors.preflight()])
            if head.method not in ("GET", "HEAD"):
                self._check_origin(head)
            exchange = self._begin(head, base)
        except ProtocolError as error:
            return self._problem(error, head, base)
        except Exception:
            log.exception("looking at a request failed")
            return self._problem(internal_error(), head, base)
        if isinstance(exchange, Exchange) and exchange.verdict is not None:
            return exchange.verdict
        return exchange

    def _begin(self, head: RequestHead, base: list[Header]) -> Response | Exchange:
        if is_control(head.path):
            return self._begin_control(head, base)
        signer = self.engine.signer
        signature = None if signer is None or not head.query else signature_in(head.query)
        if signature is None:
            self._check_token(head)
        elif head.method not in ("GET", "HEAD"):
            raise refuse_write()
        known = _METHODS.get(head.method)
        if known is None:
            raise wrong_method("GET", "HEAD", "POST", "PUT", "DELETE")
        kind, action = known
        path = decode_path(head.path, self.engine.limits.max_path)
        if log.isEnabledFor(logging.DEBUG):
            log.debug("%s %s", head.method, path)
        exchange = kind(self._context, head, path, base)
        if signer is None or signature is None:
            exchange.seek_access(self._authorize, action)
        else:
            signer.check(path, signature)
            exchange.seek_access(None, action)
        return exchange

    def _begin_control(self, head: RequestHead, base: list[Header]) -> Response | Exchange:
        """A request under the reserved ``__ds`` prefix (§6)."""
        asset = self._asset(head)
        if asset is not None:
            return asset.respond(head, base)
        listing = _LISTINGS.get(head.path)
        if listing is not None:
            self._check_token(head)
            if head.method != "GET":
                raise wrong_method("GET")
            return listing(self._context, head, head.path, base)
        try:
            route = parse_route(head.path)
        except ProtocolError:
            self._check_token(head)
            raise
        if route.name in OPEN:
            authorize = None
        else:
            self._check_token(head)
            authorize = self._authorize
        exchange = Controlling(self._context, head, route, base)
        exchange.seek_access(authorize, route.action)
        return exchange

    def _asset(self, head: RequestHead) -> Asset | None:
        return self._context.assets.get(head.path.removeprefix(RESERVED_SEGMENT + "/"))

    def _check_origin(self, head: RequestHead) -> None:
        """Refuse a write of a page that is not of a listed origin.

        A browser sends some writes without asking first, and only hides their answers.
        """
        origin = head.headers.get(b"origin")
        if origin is None or self._cors.allows(origin) or self._context.is_own(origin, head):
            return
        raise foreign_origin()

    def _check_token(self, head: RequestHead) -> None:
        if self._token is not None and not self._has_token(head):
            raise not_authenticated()

    def _problem(self, error: ProtocolError, head: RequestHead, base: list[Header]) -> Response:
        """An error in the one form that errors of this route have."""
        path = head.path
        if is_control(path) and path not in _LISTINGS and self._asset(head) is None:
            return error_response(error, base)
        return problem(error, base)

    def _has_token(self, head: RequestHead) -> bool:
        scheme, _, given = head.headers.get(b"authorization", b"").partition(b" ")
        return (
            scheme.lower() == b"bearer"
            and self._token is not None
            and hmac.compare_digest(given.strip(), self._token)
        )

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
        limit = MAX_CONTROL_BODY if is_control(head.path) else self.engine.limits.max_body
        return self._problem(body_too_large(limit), head, base)

    def refuse(self, error: ProtocolError) -> Response:
        """A problem that a front end found itself."""
        return problem(error, self._cors.headers(None))

    def close(self) -> None:
        """Say farewell to live readers; new ones get one page and are not kept."""
        self.readers.close()
