"""The reserved control routes under ``__ds/`` (§6, §7), with the bodies that the protocol fixes.

    PUT, GET, DELETE  __ds/subscriptions/:id
    POST              __ds/subscriptions/:id/streams
    DELETE            __ds/subscriptions/:id/streams/:path
    POST              __ds/subscriptions/:id/callback, /claim, /ack, /release
    GET               __ds/jwks.json

Callback, ack and release are authenticated by the tokens of their wake alone, and the public keys
are public; for everything else the server's own access rules are asked.
"""

from typing import Any, Final

import msgspec

from durable_streams_core.errors import PreconditionFailed, ProtocolError, SubscriptionError
from durable_streams_core.paths import percent_decoded
from durable_streams_core.protocol import RESERVED_SEGMENT
from durable_streams_core.subscriptions.operations import no_subscription
from durable_streams_core.subscriptions.records import (
    PREFIX,
    WEBHOOK,
    BaseUrl,
    Config,
    invalid,
    parse_config,
    parse_object,
    parse_streams,
    subscription_path,
)
from durable_streams_server.http import headers, names
from durable_streams_server.http.conditions import ANY, Conditions, parse_conditions
from durable_streams_server.http.errors import wrong_method
from durable_streams_server.http.messages import Header, RequestHead, Response
from durable_streams_server.http.parsing import bearer_token
from durable_streams_server.subscriptions import Subscriptions
from durable_streams_server.subscriptions.service import MAX_WORKER
from durable_streams_server.subscriptions.tokens import token_invalid

MAX_CONTROL_BODY: Final = 1024 * 1024

_JWKS: Final[Header] = (names.CONTENT_TYPE, b"application/jwk-set+json")
_FOR_MINUTES: Final[Header] = (names.CACHE_CONTROL, b"public, max-age=300")

METHODS: Final = {
    "jwks": ("GET",),
    "subscription": ("PUT", "GET", "DELETE"),
    "streams": ("POST",),
    "stream": ("DELETE",),
    "callback": ("POST",),
    "claim": ("POST",),
    "ack": ("POST",),
    "release": ("POST",),
}
BY_TOKEN: Final = ("callback", "ack", "release")
OPEN: Final = ("jwks", *BY_TOKEN)
"""Routes for which the server's own access rules are not asked."""


class Route(msgspec.Struct, frozen=True):
    """The meaning of a control path."""

    name: str
    subscription: str = ""
    stream: str = ""

    @property
    def path(self) -> str:
        """The path in a question for the access hook."""
        return PREFIX + self.subscription

    @property
    def action(self) -> str:
        """The action in a question for the access hook."""
        return "claim" if self.name == "claim" else "subscribe"

    @property
    def kind(self) -> str:
        """The name in metrics and logs."""
        return "subscribe" if self.name in ("subscription", "streams", "stream") else self.name


def is_control(path: str) -> bool:
    """Whether a raw path is that of a control route."""
    return path.startswith(RESERVED_SEGMENT) and path[4:5] in ("", "/")


def parse_route(path: str) -> Route:
    """The route of a raw path; raises :class:`SubscriptionError`."""
    parts = path.split("/")[1:]
    if parts == ["jwks.json"]:
        return Route("jwks")
    if len(parts) < 2 or parts[0] != "subscriptions":
        raise no_route()
    subscription = _decoded(parts[1])
    subscription_path(subscription)
    match parts[2:]:
        case []:
            return Route("subscription", subscription)
        case ["streams"]:
            return Route("streams", subscription)
        case ["streams", *stream]:
            return Route("stream", subscription, _decoded("/".join(stream)))
        case [("callback" | "claim" | "ack" | "release") as name]:
            return Route(name, subscription)
    raise no_route()


def check_method(route: Route, method: str) -> None:
    """Raise :class:`ProtocolError` for a method that the route does not know."""
    allowed = METHODS[route.name]
    if method not in allowed:
        raise wrong_method(*allowed)


def _decoded(raw: str) -> str:
    try:
        return percent_decoded(raw)
    except ValueError:
        raise invalid("Percent-encode the path as UTF-8.") from None


def no_route() -> SubscriptionError:
    error = no_subscription()
    error.message = "There is no such control route."
    return error


def bearer(request: RequestHead) -> str:
    """The token of a request; raises :class:`SubscriptionError` where there is none."""
    token = bearer_token(request)
    if not token or not token.isascii():
        raise token_invalid()
    return token.decode()


def error_response(error: ProtocolError, common: list[Header]) -> Response:
    """An error of these routes in the form that the protocol gives it (§7).

    Codes of streams are written as the protocol writes codes here.
    """
    said: dict[str, Any] = {"code": error.code.upper().replace("-", "_")}
    if isinstance(error, SubscriptionError):
        said.update(error.details)
    said["message"] = error.message
    fields = [*common, headers.JSON, headers.NO_STORE]
    fields += [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
    return Response(error.status, fields, msgspec.json.encode({"error": said}))


def parse_json(body: bytes) -> object:
    """The value in a body; an empty one is an empty object."""
    if not body:
        return {}
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise invalid("The body is not valid JSON.") from None


class ControlRequest(msgspec.Struct, frozen=True):
    """A request whose body was read.

    ``questions`` are for the access hook, beyond that about the route itself: a subscription learns
    of its streams, and the server writes to its wake stream for it.
    """

    questions: list[tuple[str, str]]
    config: Config | None = None
    streams: tuple[str, ...] = ()
    worker: str = ""
    body: object = None


def parse_body(route: Route, method: str, body: bytes) -> ControlRequest:
    """The meaning of a body; raises :class:`SubscriptionError`."""
    if method in ("GET", "DELETE"):
        return ControlRequest([])
    value = parse_json(body)
    if route.name == "subscription":
        config = parse_config(value)
        questions = [("subscribe", path) for path in config.streams]
        if config.pattern is not None:
            questions.append(("subscribe", config.pattern))
        if config.wake_stream is not None:
            questions.append(("append", config.wake_stream))
        return ControlRequest(questions, config)
    if route.name == "streams":
        streams = parse_streams(parse_object(value))
        return ControlRequest([("subscribe", path) for path in streams], streams=streams)
    if route.name == "claim":
        worker = parse_object(value).get("worker")
        if not isinstance(worker, str) or not 0 < len(worker) <= MAX_WORKER:
            raise invalid(f"worker is a name of 1 to {MAX_WORKER} characters.")
        return ControlRequest([], worker=worker)
    return ControlRequest([], body=value)


async def respond(
    subscriptions: Subscriptions,
    route: Route,
    request: RequestHead,
    control_request: ControlRequest,
    *,
    base_url: BaseUrl,
    common: list[Header],
) -> Response:
    """Do what a permitted request wants; raises :class:`SubscriptionError`."""
    named = route.subscription
    name = route.name
    if name == "jwks":
        keys = msgspec.json.encode(await subscriptions.jwks())
        return Response(200, [*common, _JWKS, _FOR_MINUTES], keys)
    if name == "subscription":
        conditions = parse_conditions(request)
        if conditions is not None:
            await check_conditions(subscriptions, named, request.method, conditions, base_url)
        if control_request.config is not None:
            if control_request.config.type == WEBHOOK and not base_url.origin:
                raise invalid(
                    "The server cannot tell where it is reached: send a Host header, or "
                    "configure its public URL."
                )
            new, described = await subscriptions.create(named, control_request.config, base_url)
            return _json(described, common, 201 if new else 200)
        if request.method == "GET":
            return _json(await subscriptions.describe(named, base_url), common)
        await subscriptions.delete(named)
    elif name == "streams":
        await subscriptions.add_streams(named, control_request.streams)
    elif name == "stream":
        await subscriptions.remove_stream(named, route.stream)
    elif name == "claim":
        return _json(await subscriptions.claim(named, control_request.worker), common)
    elif name == "callback":
        return _json(
            await subscriptions.callback(named, bearer(request), control_request.body), common
        )
    elif name == "ack":
        return _json(await subscriptions.ack(named, bearer(request), control_request.body), common)
    else:
        await subscriptions.release(named, bearer(request), control_request.body)
    return Response(204, [*common, headers.NO_STORE])


async def check_conditions(
    subscriptions: Subscriptions, named: str, method: str, conditions: Conditions, base_url: BaseUrl
) -> None:
    """Raise :class:`PreconditionFailed` for what a subscription, which has no tag, cannot meet."""
    try:
        await subscriptions.describe(named, base_url)
    except SubscriptionError:
        if method == "PUT" and conditions.requires_stream:
            raise PreconditionFailed from None
        return
    if conditions.if_match not in (None, ANY) or conditions.if_none_match == ANY:
        raise PreconditionFailed


def _json(value: object, common: list[Header], status: int = 200) -> Response:
    return Response(status, [*common, headers.JSON, headers.NO_STORE], msgspec.json.encode(value))
