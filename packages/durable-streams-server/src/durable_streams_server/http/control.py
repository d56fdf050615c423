"""A request to one of the reserved control routes (§6, §7)."""

import logging
from collections.abc import Awaitable
from inspect import isawaitable

from durable_streams_core.errors import ProtocolError
from durable_streams_core.subscriptions.records import Place
from durable_streams_server.http.context import Context
from durable_streams_server.http.control_routes import (
    MAX_CONTROL_BODY,
    Route,
    answer,
    error_response,
    parse_body,
)
from durable_streams_server.http.exchange import Exchange, internal_error
from durable_streams_server.http.messages import Answer, Header, Pending, RequestHead, Response

log = logging.getLogger("durable_streams_server.http")


class Controlling(Exchange):
    """Its questions of access depend on its body too."""

    __slots__ = ("_route",)

    def __init__(
        self, context: Context, head: RequestHead, route: Route, base: list[Header]
    ) -> None:
        super().__init__(context, head, route.path, base)
        self._route = route

    @property
    def max_body(self) -> int:
        return MAX_CONTROL_BODY

    def _answer(self, body: bytes) -> Answer:
        pending = Pending()

        async def work() -> None:
            try:
                response = await self._control(body)
            except ProtocolError as error:
                response = error_response(error, self._base)
            except Exception:
                log.exception("answering a control request failed")
                response = error_response(internal_error(), self._base)
            pending.resolve(response)

        # What was begun is finished, also when the client goes away.
        _ = self._engine.spawn(work())
        return pending

    async def _control(self, body: bytes) -> Response:
        context = self._context
        wanted = parse_body(self._route, self.head.method, body)
        authorize = context.options.authorize
        if authorize is not None and wanted.questions:
            (action, path), *rest = wanted.questions
            try:
                permitted = authorize(action, path, self.head.native)
                first: Awaitable[object] = (
                    permitted if isawaitable(permitted) else _given(permitted)
                )
            except Exception:
                log.exception("the authorize hook failed; access is refused")
                first = _given(False)
            refusal = self.permitted(await self._ask_on(authorize, first, rest))
            if refusal is not None:
                return refusal
        place = Place(context.origin(self.head), self.head.root)
        return await answer(
            self._engine.subscriptions, self._route, self.head, wanted, place=place, base=self._base
        )


async def _given(value: object) -> object:
    return value
