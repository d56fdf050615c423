"""Subscriptions as the client sees them (§6, §7): what is asked and answered, without I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import quote

import msgspec

from durable_streams_client.errors import AnswerError, InvalidArgument, MalformedAnswer
from durable_streams_client.messages import Reply, Request, error_of
from durable_streams_client.parsing import NotJson, parse_json, parse_object
from durable_streams_core import protocol

T = TypeVar("T")

REFUSALS: Final = (400, 401, 403, 404, 405, 409, 413)

FENCED: Final = "FENCED"
INVALID_OFFSET: Final = "INVALID_OFFSET"
ALREADY_CLAIMED: Final = "ALREADY_CLAIMED"
NO_PENDING_WORK: Final = "NO_PENDING_WORK"

_DOTS: Final = frozenset({".", ".."})


class SubscriptionRefused(AnswerError):
    """The server refused a request about a subscription; ``code`` is the protocol's (§7).

    ``details`` hold what else it said, such as ``current_holder`` of a claim that came too late.
    """

    code = "subscription-refused"

    def __init__(self, message: str, **about: Any) -> None:
        self.details: Mapping[str, Any] = about.pop("details", {})
        super().__init__(message, **about)


@dataclass(frozen=True, slots=True)
class LinkedStream:
    """One stream of a subscription. ``tail_offset`` and ``has_pending`` are told with a wake."""

    path: str
    link_type: str
    acked_offset: str
    tail_offset: str | None = None
    has_pending: bool = False


@dataclass(frozen=True, slots=True)
class Subscription:
    """A subscription as the server describes it (§6.3)."""

    id: str
    type: str
    streams: tuple[LinkedStream, ...]
    lease_ttl_ms: int
    status: str
    pattern: str | None = None
    wake_stream: str | None = None
    webhook_url: str | None = None
    jwks_url: str | None = None
    """Where the keys are that sign its webhooks."""
    description: str | None = None
    created: bool = False
    """Whether the call that answered this created it."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A lease that this worker holds (§7.2), of the streams with pending work."""

    subscription: str
    wake_id: str
    generation: int
    token: str
    streams: tuple[LinkedStream, ...]
    lease_seconds: float


def control_url(base: str, subscription: str, action: str = "") -> str:
    """The URL of a subscription below the stream root ``base``."""
    if not base:
        raise InvalidArgument("subscriptions need a client with a base URL, the stream root")
    if not subscription:
        raise InvalidArgument("a subscription needs an id")
    if subscription in _DOTS:
        raise InvalidArgument(f"{subscription!r} cannot be the id of a subscription")
    return f"{base.rstrip('/')}/__ds/subscriptions/{quote(subscription, safe='')}{action}"


def link_action(stream: str) -> str:
    """What follows a subscription's URL where one of its streams is meant (§6.4)."""
    path = stream.strip("/")
    if not path or not _DOTS.isdisjoint(path.split("/")):
        # Whoever resolves the dots would arrive at something else, another subscription even.
        raise InvalidArgument(f"{stream!r} cannot be the path of a stream")
    return f"/streams/{quote(path)}"


def paths_of(streams: Sequence[str]) -> list[str]:
    """Several paths; one alone, which is a sequence of characters, is a mistake."""
    if isinstance(streams, (str, bytes)):
        raise InvalidArgument("streams must be a list of paths", advice=f"Pass [{streams!r}].")
    return list(streams)


def request(method: str, url: str, body: object = None, token: str | None = None) -> Request:
    headers = {} if body is None else {"content-type": "application/json"}
    if token is not None:
        headers["authorization"] = f"Bearer {token}"
    return Request(method, url, headers, [], None if body is None else msgspec.json.encode(body))


def wish(
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


class _SubscriptionAnswer(msgspec.Struct):
    """The answer about a subscription (§6.3)."""

    id: str
    type: str
    streams: tuple[LinkedStream, ...]
    lease_ttl_ms: _Milliseconds
    status: str
    pattern: str | None = None
    wake_stream: str | None = None
    webhook: _Webhook | None = None
    description: str | None = None


class _ClaimAnswer(msgspec.Struct):
    """The answer to a claim (§7.2)."""

    wake_id: str
    generation: int
    token: _Token
    streams: tuple[LinkedStream, ...]
    lease_ttl_ms: _Milliseconds


class _AckAnswer(msgspec.Struct):
    """The answer to an ack (§7.2)."""

    next_wake: bool = False


_SUBSCRIPTION: Final = msgspec.json.Decoder(_SubscriptionAnswer)
_CLAIM: Final = msgspec.json.Decoder(_ClaimAnswer)
_ACK: Final = msgspec.json.Decoder(_AckAnswer)


def check(asked: Request, reply: Reply) -> None:
    """Raise what a refusal means."""
    if 200 <= reply.head.status < 300:
        return
    error = error_of(asked, reply.head, reply.body)
    try:
        refusal = parse_object(reply.body)["error"]
        details = {key: refusal[key] for key in refusal if key not in ("code", "message")}
        code, message = refusal["code"], refusal.get("message", "")
    except (NotJson, TypeError, KeyError, AttributeError):
        raise error from None
    if not (isinstance(code, str) and isinstance(message, str)):
        raise error
    raise SubscriptionRefused(
        f"{code}: {message}" if message else code,
        method=asked.method,
        url=asked.url,
        status=reply.head.status,
        code=code,
        details=details,
    )


def _answer(asked: Request, reply: Reply, decoder: msgspec.json.Decoder[T]) -> T:
    check(asked, reply)
    try:
        return parse_json(reply.body, decoder)
    except NotJson as error:
        raise MalformedAnswer(
            f"The answer about a subscription is not of its form: {error}.",
            method=asked.method,
            url=asked.url,
        ) from None


def subscription_of(asked: Request, reply: Reply) -> Subscription:
    answer = _answer(asked, reply, _SUBSCRIPTION)
    webhook = answer.webhook or _Webhook()
    return Subscription(
        id=answer.id,
        type=answer.type,
        streams=answer.streams,
        lease_ttl_ms=answer.lease_ttl_ms,
        status=answer.status,
        pattern=answer.pattern,
        wake_stream=answer.wake_stream,
        webhook_url=webhook.url,
        jwks_url=webhook.signing.jwks_url if webhook.signing is not None else None,
        description=answer.description,
        created=reply.head.status == 201,
    )


def claim_of(subscription: str, asked: Request, reply: Reply) -> Claim:
    answer = _answer(asked, reply, _CLAIM)
    return Claim(
        subscription,
        answer.wake_id,
        answer.generation,
        answer.token,
        answer.streams,
        answer.lease_ttl_ms / 1000,
    )


def more_work(asked: Request, reply: Reply) -> bool:
    """Whether the answer to an ack says that more work waits already."""
    check(asked, reply)
    return bool(reply.body) and _answer(asked, reply, _ACK).next_wake


def ack_body(claim: Claim, acks: Mapping[str, str], *, done: bool) -> dict[str, object]:
    return {
        "wake_id": claim.wake_id,
        "generation": claim.generation,
        "acks": [{"stream": path, "offset": offset} for path, offset in acks.items()],
        "done": done,
    }
