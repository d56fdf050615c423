"""Speaks the protocol over HTTP, in two steps.

:meth:`Handler.begin` looks at a request before its body. It returns a response where that is enough
(access is refused, the method is wrong, the path is bad, the declared length is over the limit), or
an :class:`~durable_streams_server.http.exchange.Exchange`. The exchange says how many bytes of body
it takes and then gives the response: complete, pending or live. Access is checked before anything
else, so that a refusal tells nothing of a stream.
"""

import hmac
import logging
from collections.abc import Callable

from durable_streams_core.errors import NotFound, ProtocolError
from durable_streams_core.paths import decode_path
from durable_streams_core.protocol import RESERVED_SEGMENT
from durable_streams_server.access.refusals import no_credentials
from durable_streams_server.engine.engine import Engine
from durable_streams_server.http import headers, names
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
    wrong_method,
)
from durable_streams_server.http.exchange import Exchange
from durable_streams_server.http.listing import Listing, SubscriptionListing
from durable_streams_server.http.messages import Header, RequestHead, Response, problem
from durable_streams_server.http.observing import Observer, Observers
from durable_streams_server.http.options import Options
from durable_streams_server.http.parsing import bearer_token
from durable_streams_server.http.reads import Describing, Reading
from durable_streams_server.http.writes import Appending, Creating, Deleting
from durable_streams_server.signing import refuse_write, signature_in

Page = Callable[[], tuple[bytes, bytes]]
"""Makes a page: its content type and its body."""

log = logging.getLogger("durable_streams_server.http")

_METHODS: dict[str, tuple[type[Exchange], str]] = {
    "GET": (Reading, "read"),
    "HEAD": (Describing, "head"),
    "POST": (Appending, "append"),
    "PUT": (Creating, "create"),
    "DELETE": (Deleting, "delete"),
}
"""The exchange of each method, and the action that the access hook is asked about."""


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
        self._common_headers = context.common_headers
        self._without_origin = context.common_headers.of(None)
        self._authorize = options.authorize
        self._token = None if options.token is None else options.token.encode()
        self.observer: Observer | None = None
        """Learns of each finished request, see :meth:`observe`."""
        self.pages: dict[str, Page] = {}
        """Pages outside of the stream root, by path."""

    def observe(self, observer: Observer) -> None:
        """Report each finished request to one more observer. Call it before requests are served."""
        own = self.observer
        self.observer = observer if own is None else Observers(own, observer)

    def time_commits(self) -> None:
        """Have each exchange note when its commit began and ended, for a trace."""
        self._context.times_commits = True

    def begin(self, request: RequestHead) -> Response | Exchange:
        """The first step: a response, or the exchange to go on with, which may have its verdict."""
        if request.ordinary:
            origin, common = None, self._without_origin
        else:
            origin = request.headers.get(names.ORIGIN)
            common = self._common_headers.of(origin)
        try:
            if request.method == "OPTIONS":
                return Response(204, [*common, *self._common_headers.preflight()])
            if origin is not None and request.method not in ("GET", "HEAD"):
                self._check_origin(origin, request)
            return self._begin(request, common)
        except ProtocolError as error:
            return self._problem(error, request, common)
        except Exception:
            log.exception("looking at a request failed")
            return self._problem(internal_error(), request, common)

    def _begin(self, request: RequestHead, common: list[Header]) -> Response | Exchange:
        if request.path.startswith(RESERVED_SEGMENT) and is_control(request.path):
            return self._begin_control(request, common)
        signer = self.engine.signer
        signature = None if signer is None or not request.query else signature_in(request.query)
        if signature is None:
            if self._token is not None:
                self._check_token(request)
        elif request.method not in ("GET", "HEAD"):
            raise refuse_write()
        known = _METHODS.get(request.method)
        if known is None:
            raise wrong_method("GET", "HEAD", "POST", "PUT", "DELETE")
        kind, action = known
        path = decode_path(request.path, self.options.max_path)
        if log.isEnabledFor(logging.DEBUG):
            log.debug("%s %s", request.method, path)
        exchange = kind(self._context, request, path, common)
        if signer is None or signature is None:
            exchange.seek_access(self._authorize, action)
        else:
            signer.check(path, signature)
            exchange.seek_access(None, action)
        return exchange

    def _begin_control(self, request: RequestHead, common: list[Header]) -> Response | Exchange:
        """A request under the reserved ``__ds`` prefix (§6)."""
        asset = self._asset(request)
        if asset is not None:
            return asset.respond(request, common)
        self.engine.require_started()
        listing = _LISTINGS.get(request.path)
        if listing is not None:
            self._check_token(request)
            if request.method != "GET":
                raise wrong_method("GET")
            return listing(self._context, request, request.path, common)
        try:
            route = parse_route(request.path)
        except ProtocolError:
            self._check_token(request)
            raise
        if route.name in OPEN:
            authorize = None
        else:
            self._check_token(request)
            authorize = self._authorize
        exchange = Controlling(self._context, request, route, common)
        exchange.seek_access(authorize, route.action)
        return exchange

    def _asset(self, request: RequestHead) -> Asset | None:
        return self._context.assets.get(request.path.removeprefix(RESERVED_SEGMENT + "/"))

    def _check_origin(self, origin: bytes, request: RequestHead) -> None:
        """Refuse a write of a page that is not of a listed origin.

        A browser sends some writes without asking first, and only hides their responses.
        """
        if not (self._common_headers.allows(origin) or self._context.is_own(origin, request)):
            raise foreign_origin()

    def _check_token(self, request: RequestHead) -> None:
        if self._token is not None:
            given = bearer_token(request)
            if given is None or not hmac.compare_digest(given, self._token):
                raise no_credentials()

    def _problem(
        self, error: ProtocolError, request: RequestHead, common: list[Header]
    ) -> Response:
        """An error in the one form that errors of this route have."""
        path = request.path
        if is_control(path) and path not in _LISTINGS and self._asset(request) is None:
            return error_response(error, common)
        return problem(error, common)

    def outside(self, method: str, path: str, root: str) -> Response:
        """For a path that is not under the stream root."""
        common = self._without_origin
        if self.options.health and method in ("GET", "HEAD"):
            fields = [*common, headers.JSON, headers.NO_STORE]
            if path == "/health":
                return Response(200, fields, b'{"status":"ok"}')
            if path == "/ready":
                state = self.engine.readiness()
                if not state.ready:
                    fields.append(headers.RETRY_SOON)
                return Response(state.status, fields, state.body)
        page = self.pages.get(path)
        if page is not None and method in ("GET", "HEAD"):
            content_type, body = page()
            fields = [*common, (names.CONTENT_TYPE, content_type), headers.NO_STORE]
            return Response(200, fields, body)
        message = f"There is nothing here; streams live under {root}."
        return problem(NotFound(message, code="not-a-stream"), common)

    def too_large(self, request: RequestHead) -> Response:
        """For a body that turned out to be over the limit."""
        common = self._common_headers.of(request.headers.get(names.ORIGIN))
        limit = MAX_CONTROL_BODY if is_control(request.path) else self.options.max_body
        return self._problem(body_too_large(limit), request, common)

    def refuse(self, error: ProtocolError) -> Response:
        """A problem that a front end found itself."""
        return problem(error, self._without_origin)

    def replace_token(self, token: str | None) -> None:
        """Accept another token from now on; raises ``ValueError`` for an empty one."""
        checked = Options(token=token).token
        self._token = None if checked is None else checked.encode()

    def close(self) -> None:
        """Drain live readers; new ones get one page and are not kept."""
        self.readers.close()
