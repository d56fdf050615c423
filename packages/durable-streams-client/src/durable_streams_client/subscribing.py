"""Requests and responses of the subscription API as values, without I/O (§6, §7)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import quote

import msgspec

from durable_streams_client.errors import InvalidArgument, MalformedResponse, ResponseError
from durable_streams_client.messages import Request, WholeResponse, error_of
from durable_streams_client.parsing import NotJson, parse_json, parse_object
from durable_streams_core import protocol

T = TypeVar("T")

REFUSALS: Final = (400, 401, 403, 404, 405, 409, 413)

FENCED: Final = "FENCED"
INVALID_OFFSET: Final = "INVALID_OFFSET"
ALREADY_CLAIMED: Final = "ALREADY_CLAIMED"
NO_PENDING_WORK: Final = "NO_PENDING_WORK"

_DOTS: Final = frozenset({".", ".."})


class SubscriptionRefused(ResponseError):
    """The server refused a request about a subscription with an error object (§7).

    ``code`` is the protocol's, such as ``FENCED`` or ``SUBSCRIPTION_NOT_FOUND``. ``details`` hold
    the other members of the error object, such as ``current_holder`` of a claim.

    >>> try:
    ...     Subscriptions(client).get("missing")
    ... except SubscriptionRefused as error:
    ...     print(error.code)
    SUBSCRIPTION_NOT_FOUND
    """

    code = "subscription-refused"

    def __init__(self, message: str, **about: Any) -> None:
        self.details: Mapping[str, Any] = about.pop("details", {})
        super().__init__(message, **about)


@dataclass(frozen=True, slots=True)
class LinkedStream:
    """One stream of a subscription (§6.4).

    >>> linked = Subscriptions(client).get("jobs").streams[0]
    >>> linked.path, linked.link_type, linked.acked_offset
    ('numbers', 'explicit', '-1')
    """

    path: str
    """Its path below the stream root."""
    link_type: str
    """How it is linked: ``glob`` by pattern, ``explicit`` by name."""
    acked_offset: str
    """The subscription's cursor: how far the stream was acknowledged."""
    tail_offset: str | None = None
    """The stream's tail, in a claim."""
    has_pending: bool = False
    """Whether there is data after the cursor, in a claim."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """A subscription as the server describes it (§6.3).

    >>> subscription = Subscriptions(client).get("jobs")
    >>> subscription.type, subscription.wake_stream, subscription.lease_ttl_ms
    ('pull-wake', 'wake', 30000)
    """

    id: str
    """Its id."""
    type: str
    """How it delivers wakes: ``webhook`` or ``pull-wake``."""
    streams: tuple[LinkedStream, ...]
    """Its streams."""
    lease_ttl_ms: int
    """How long a lease lasts, in milliseconds."""
    status: str
    """``active``, or ``failed`` while a failed webhook delivery is to be repeated."""
    pattern: str | None = None
    """The pattern that links streams, if it has one."""
    wake_stream: str | None = None
    """The path of the wake stream of a pull-wake subscription."""
    webhook_url: str | None = None
    """Where webhooks are posted."""
    jwks_url: str | None = None
    """Where the keys are that sign its webhooks."""
    description: str | None = None
    """Any text."""
    created: bool = False
    """Whether this call created it."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A lease on the pending work of a subscription (§7.2).

    >>> subscriptions = Subscriptions(client)
    >>> claim = subscriptions.claim("jobs", "worker-7")
    >>> claim.generation, claim.lease_seconds, claim.streams[0].has_pending
    (1, 30.0, True)
    >>> subscriptions.release(claim)
    """

    subscription: str
    """The id of the subscription."""
    wake_id: str
    """The id of the wake that it answers."""
    generation: int
    """The number of the lease; a greater one fences it."""
    token: str
    """The bearer token that acknowledges. Keep it secret."""
    streams: tuple[LinkedStream, ...]
    """The streams of the subscription."""
    lease_seconds: float
    """How long the lease lasts after the claim and after each acknowledgement."""


def control_url(base: str, subscription: str, action: str = "") -> str:
    """The URL of a subscription below the stream root ``base``."""
    if not base:
        raise InvalidArgument("subscriptions need a client with a base URL, the stream root")
    if not subscription:
        raise InvalidArgument("a subscription needs an id")
    if subscription in _DOTS:
        raise InvalidArgument(f"the id of a subscription must not be {subscription!r}")
    return f"{base.rstrip('/')}/__ds/subscriptions/{quote(subscription, safe='')}{action}"


def link_action(stream: str) -> str:
    """The end of the URL of one of a subscription's streams (§6.4)."""
    path = stream.strip("/")
    if not path or not _DOTS.isdisjoint(path.split("/")):
        # With its dots resolved, the URL would be another one, perhaps of another subscription.
        raise InvalidArgument(
            f"the path of a stream must have a segment, none of them '.' or '..', got {stream!r}"
        )
    return f"/streams/{quote(path)}"


def paths_of(streams: Sequence[str]) -> list[str]:
    """Several paths; raises ``InvalidArgument`` for a string, which is a sequence too."""
    if isinstance(streams, (str, bytes)):
        raise InvalidArgument("streams must be a list of paths", advice=f"Pass [{streams!r}].")
    return list(streams)


def control_request(
    method: str, url: str, body: object = None, token: str | None = None
) -> Request:
    """A request with a JSON body, or a token instead of the client's credentials."""
    headers = {} if body is None else {"content-type": "application/json"}
    if token is not None:
        headers["authorization"] = f"Bearer {token}"
    return Request(method, url, headers, [], None if body is None else msgspec.json.encode(body))


def subscription_body(
    kind: str,
    *,
    pattern: str | None,
    streams: Sequence[str],
    lease_seconds: float,
    description: str | None,
    **delivery: object,
) -> dict[str, object]:
    """The body that creates a subscription (§6.2)."""
    if not (isfinite(lease_seconds) and lease_seconds > 0):
        raise InvalidArgument("lease_seconds must be a positive number of seconds")
    body: dict[str, object] = {
        "type": kind, "lease_ttl_ms": round(lease_seconds * 1000), **delivery,
    }  # fmt: skip
    if pattern is not None:
        body["pattern"] = pattern
    if streams:
        body["streams"] = paths_of(streams)
    if description is not None:
        body["description"] = description
    return body


class _Signing(msgspec.Struct):
    jwks_url: str | None = None


class _Webhook(msgspec.Struct):
    url: str | None = None
    signing: _Signing | None = None


_Milliseconds = Annotated[int, msgspec.Meta(ge=1, le=protocol.MAX_SAFE_INTEGER)]
_Token = Annotated[str, msgspec.Meta(pattern="^[!-~]{1,4096}$")]


class _SubscriptionBody(msgspec.Struct):
    """The body of a response that describes a subscription (§6.3)."""

    id: str
    type: str
    streams: tuple[LinkedStream, ...]
    lease_ttl_ms: _Milliseconds
    status: str
    pattern: str | None = None
    wake_stream: str | None = None
    webhook: _Webhook | None = None
    description: str | None = None


class _ClaimBody(msgspec.Struct):
    """The body of the response to a claim (§7.2)."""

    wake_id: str
    generation: int
    token: _Token
    streams: tuple[LinkedStream, ...]
    lease_ttl_ms: _Milliseconds


class _AckBody(msgspec.Struct):
    """The body of the response to an ack (§7.2)."""

    next_wake: bool = False


_SUBSCRIPTION: Final = msgspec.json.Decoder(_SubscriptionBody)
_CLAIM: Final = msgspec.json.Decoder(_ClaimBody)
_ACK: Final = msgspec.json.Decoder(_AckBody)


def check(sent: Request, response: WholeResponse) -> None:
    """Raise the error of a response that refuses."""
    if 200 <= response.head.status < 300:
        return
    error = error_of(sent, response.head, response.body)
    try:
        refusal = parse_object(response.body)["error"]
        details = {key: refusal[key] for key in refusal if key not in ("code", "message")}
        code, message = refusal["code"], refusal.get("message", "")
    except (NotJson, TypeError, KeyError, AttributeError):
        raise error from None
    if not (isinstance(code, str) and isinstance(message, str)):
        raise error
    raise SubscriptionRefused(
        f"{code}: {message}" if message else code,
        method=sent.method,
        url=sent.url,
        status=response.head.status,
        code=code,
        details=details,
    )


def _body(sent: Request, response: WholeResponse, decoder: msgspec.json.Decoder[T]) -> T:
    check(sent, response)
    try:
        return parse_json(response.body, decoder)
    except NotJson as error:
        raise MalformedResponse(
            f"The response about a subscription is not of its form: {error}.",
            method=sent.method,
            url=sent.url,
        ) from None


def subscription_of(sent: Request, response: WholeResponse) -> Subscription:
    """The subscription that a response describes.

    Raises ``SubscriptionRefused`` and ``MalformedResponse``.
    """
    body = _body(sent, response, _SUBSCRIPTION)
    webhook = body.webhook or _Webhook()
    return Subscription(
        id=body.id,
        type=body.type,
        streams=body.streams,
        lease_ttl_ms=body.lease_ttl_ms,
        status=body.status,
        pattern=body.pattern,
        wake_stream=body.wake_stream,
        webhook_url=webhook.url,
        jwks_url=webhook.signing.jwks_url if webhook.signing is not None else None,
        description=body.description,
        created=response.head.status == 201,
    )


def claim_of(subscription: str, sent: Request, response: WholeResponse) -> Claim:
    """The claim that a response grants.

    Raises ``SubscriptionRefused`` and ``MalformedResponse``.
    """
    body = _body(sent, response, _CLAIM)
    return Claim(
        subscription,
        body.wake_id,
        body.generation,
        body.token,
        body.streams,
        body.lease_ttl_ms / 1000,
    )


def more_work(sent: Request, response: WholeResponse) -> bool:
    """Whether the response to an ack says that more work is pending already."""
    check(sent, response)
    return bool(response.body) and _body(sent, response, _ACK).next_wake


def ack_body(claim: Claim, acks: Mapping[str, str], *, done: bool) -> dict[str, object]:
    """The body that acknowledges offsets of streams, and with ``done`` ends the lease (§7.3)."""
    return {
        "wake_id": claim.wake_id,
        "generation": claim.generation,
        "acks": [{"stream": path, "offset": offset} for path, offset in acks.items()],
        "done": done,
    }
