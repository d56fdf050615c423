"""Subscriptions as the client sees them (§6, §7): what is asked and answered, without I/O."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any, Final
from urllib.parse import quote

import msgspec

from durable_streams_client.errors import AnswerError, InvalidArgument, MalformedAnswer
from durable_streams_client.messages import Reply, Request, error_of

REFUSALS: Final = (400, 401, 403, 404, 405, 409, 413)

FENCED: Final = "FENCED"
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


def answered(asked: Request, reply: Reply) -> dict[str, Any]:
    """The object in an answer, empty for one without a body; raises what a refusal means."""
    if 200 <= reply.head.status < 300:
        if not reply.body:
            return {}
        return _object(asked, reply.body)
    error = error_of(asked, reply.head, reply.body)
    try:
        said = msgspec.json.decode(reply.body)["error"]
        details = {key: said[key] for key in said if key not in ("code", "message")}
        code, message = str(said["code"]), str(said.get("message", ""))
    except (msgspec.DecodeError, UnicodeDecodeError, TypeError, KeyError):
        raise error from None
    raise SubscriptionRefused(
        f"{code}: {message}" if message else code,
        method=asked.method,
        url=asked.url,
        status=reply.head.status,
        code=code,
        details=details,
    )


def _object(asked: Request, body: bytes) -> dict[str, Any]:
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        value = None
    if not isinstance(value, dict):
        raise MalformedAnswer(
            "The answer about a subscription is no JSON object.", method=asked.method, url=asked.url
        )
    return value


def subscription_of(asked: Request, reply: Reply) -> Subscription:
    said = answered(asked, reply)
    webhook = said.get("webhook") or {}
    with _well_formed(asked):
        return Subscription(
            id=said["id"],
            type=said["type"],
            streams=_streams(said["streams"]),
            lease_ttl_ms=said["lease_ttl_ms"],
            status=said["status"],
            pattern=said.get("pattern"),
            wake_stream=said.get("wake_stream"),
            webhook_url=webhook.get("url"),
            jwks_url=(webhook.get("signing") or {}).get("jwks_url"),
            description=said.get("description"),
            created=reply.head.status == 201,
        )


def claim_of(subscription: str, asked: Request, reply: Reply) -> Claim:
    said = answered(asked, reply)
    with _well_formed(asked):
        return Claim(
            subscription,
            said["wake_id"],
            said["generation"],
            said["token"],
            _streams(said["streams"]),
            said["lease_ttl_ms"] / 1000,
        )


def _streams(said: list[dict[str, Any]]) -> tuple[LinkedStream, ...]:
    return tuple(
        LinkedStream(
            stream["path"],
            stream["link_type"],
            stream["acked_offset"],
            stream.get("tail_offset"),
            stream.get("has_pending", False),
        )
        for stream in said
    )


class _well_formed:  # noqa: N801 - used like a function
    """Turns what is missing in an answer into :class:`MalformedAnswer`."""

    def __init__(self, asked: Request) -> None:
        self._asked = asked

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (KeyError, TypeError, AttributeError)):
            raise MalformedAnswer(
                f"The answer about a subscription lacks {error}.",
                method=self._asked.method,
                url=self._asked.url,
            ) from error


def ack_body(claim: Claim, acks: Mapping[str, str], *, done: bool) -> dict[str, object]:
    return {
        "wake_id": claim.wake_id,
        "generation": claim.generation,
        "acks": [{"stream": path, "offset": offset} for path, offset in acks.items()],
        "done": done,
    }
