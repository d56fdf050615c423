"""A request to one of the reserved control routes (§6, §7)."""

import logging

from durable_streams_core.errors import ProtocolError
from durable_streams_core.subscriptions.records import BaseUrl
from durable_streams_server.http.context import Context
from durable_streams_server.http.control_routes import (
    MAX_CONTROL_BODY,
    ControlRequest,
    Route,
    check_method,
    error_response,
    parse_body,
    respond,
)
from durable_streams_server.http.errors import internal_error
from durable_streams_server.http.exchange import Exchange
from durable_streams_server.http.messages import AnyResponse, Header, Pending, RequestHead, Response

log = logging.getLogger("durable_streams_server.http")


class Controlling(Exchange):
    """Its questions of access depend on its body too."""

    def __init__(
        self, context: Context, request: RequestHead, route: Route, common: list[Header]
    ) -> None:
        super().__init__(context, request, route.path, common)
        self._route = route
        self.kind = route.kind
        self.takes_body = request.method in ("POST", "PUT")
        self.max_body = MAX_CONTROL_BODY

    def problem(self, error: ProtocolError) -> Response:
        return error_response(error, self._common)

    def _check_head(self) -> None:
        check_method(self._route, self.request.method)
        super()._check_head()

    def _respond(self, body: bytes) -> AnyResponse:
        pending = Pending()

        async def work() -> None:
            try:
                response = await self._control(body)
            except ProtocolError as error:
                response = self.problem(error)
            except Exception:
                log.exception("responding to a control request failed")
                response = self.problem(internal_error())
            pending.resolve(response)

        # The engine finishes this also when the client goes away.
        _ = self._engine.spawn(work())
        return pending

    async def _control(self, body: bytes) -> Response:
        context = self._context
        control_request = parse_body(self._route, self.request.method, body)
        steps = self._consult(context.options.authorize, iter(control_request.questions))
        question = next(steps, None)
        if question is not None:
            await self._consult_on(steps, question)
        if self.verdict is not None:
            return self.verdict
        base_url = BaseUrl(context.origin(self.request), self.request.root)
        limiter = context.options.limiter
        if limiter is None or control_request.config is None:
            return await self._obey(control_request, base_url)
        try:
            limiter.charge_subscription(self.principal)
        except ProtocolError:
            # To ask for a subscription that is there costs nothing.
            if not await self._is_there(base_url):
                raise
            return await self._obey(control_request, base_url)
        created = False
        try:
            response = await self._obey(control_request, base_url)
            created = response.status == 201
        finally:
            if not created:
                limiter.return_subscription(self.principal)
        return response

    async def _is_there(self, base_url: BaseUrl) -> bool:
        try:
            await self._engine.subscriptions.describe(self._route.subscription, base_url)
        except ProtocolError:
            return False
        return True

    async def _obey(self, control_request: ControlRequest, base_url: BaseUrl) -> Response:
        return await respond(
            self._engine.subscriptions,
            self._route,
            self.request,
            control_request,
            base_url=base_url,
            common=self._common,
        )
