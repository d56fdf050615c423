"""Subscriptions for the server that misbehaves (§6, §7): one lease each, nothing that ends by time.

A wake is written whenever something is fed to a linked stream.
"""

import base64
import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hostile import Asked, Hostile, token

CONTROL = "/__ds/subscriptions/"
JWKS = "__ds/jwks.json"

Answer = tuple[int, dict[str, str], bytes]


@dataclass
class Sub:
    wish: dict[str, Any]
    acked: dict[str, str]
    generation: int = 0
    holder: str | None = None
    worked: list[dict[str, Any]] = field(default_factory=list)
    """The bodies of what was acked, in order."""


class Signer:
    """A key of the server."""

    def __init__(self, kid: str) -> None:
        self.kid = kid
        self._key = Ed25519PrivateKey.generate()

    @property
    def jwk(self) -> dict[str, str]:
        x = self._key.public_key().public_bytes_raw()
        return {"kty": "OKP", "crv": "Ed25519", "kid": self.kid, "x": _base64(x)}

    def headers(self, body: bytes, at: int) -> dict[str, str]:
        signature = _base64(self._key.sign(b"%d." % at + body))
        return {"Webhook-Signature": f"t={at},kid={self.kid},ed25519={signature}"}


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class Subscribed(Hostile):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.subs: dict[str, Sub] = {}
        self.keys: list[Signer] = []
        self.lease_ms = 30_000

    def subscribe(self, name: str, *paths: str, wake_stream: str = "wake") -> Sub:
        """Make a subscription, and its wake stream, without asking over HTTP."""
        wish = {"type": "pull-wake", "wake_stream": wake_stream}
        self.put(wake_stream, content_type="application/json")
        made = self.subs[name] = Sub(wish, dict.fromkeys(paths, "-1"))
        return made

    def feed(self, path: str, *messages: bytes) -> None:
        """Append from outside, and wake who waits for it."""
        self.write(path, *messages)
        for name, sub in self.subs.items():
            if path in sub.acked:
                event = {"type": "wake", "subscription_id": name, "stream": path}
                self.write(sub.wish["wake_stream"], json.dumps(event).encode())

    def fence(self, name: str) -> None:
        """End the lease, as time would."""
        sub = self.subs[name]
        sub.generation += 1
        sub.holder = None

    def asks(self, ending: str) -> list[Asked]:
        """The requests whose path ends so."""
        return [asked for asked in self.asked if asked.path.endswith(ending)]

    async def _serve(self, asked: Asked, out: Any) -> Answer:
        if asked.path == f"/{JWKS}":
            return self._json(200, {"keys": [key.jwk for key in self.keys]})
        if asked.path.startswith(CONTROL):
            name, _, action = asked.path.removeprefix(CONTROL).partition("/")
            return self._control(asked, unquote(name), unquote(action))
        return await super()._serve(asked, out)

    @staticmethod
    def _json(status: int, value: Any) -> Answer:
        return status, {"Content-Type": "application/json"}, json.dumps(value).encode()

    def _no(self, status: int, code: str, **details: Any) -> Answer:
        return self._json(status, {"error": {"code": code, **details}})

    def _control(self, asked: Asked, name: str, action: str) -> Answer:
        sub = self.subs.get(name)
        body = json.loads(asked.body) if asked.body else {}
        if asked.method == "PUT":
            return self._subscribed(name, body, sub)
        if sub is None:
            if asked.method == "DELETE" and not action:
                return 204, {}, b""
            return self._no(404, "SUBSCRIPTION_NOT_FOUND", message="there is none")
        if asked.method == "GET":
            return self._json(200, self._described(name, sub))
        if asked.method == "DELETE":
            if action:
                sub.acked.pop(action.removeprefix("streams/"), None)
            else:
                del self.subs[name]
            return 204, {}, b""
        if action == "streams":
            for path in body["streams"]:
                sub.acked.setdefault(path, token(self._tail(path)))
            return 204, {}, b""
        if action == "claim":
            return self._claim(sub, body["worker"])
        lease = body["wake_id"], body["generation"], asked.headers["authorization"]
        now = sub.generation
        if sub.holder is None or lease != (f"w{now}", now, f"Bearer t{now}"):
            return self._no(409, "FENCED")
        if action == "release":
            sub.holder = None
            return 204, {}, b""
        sub.worked.append(body)
        for ack in body["acks"]:
            sub.acked[ack["stream"]] = ack["offset"]
        if body["done"]:
            sub.holder = None
        return self._json(200, {"ok": True, "next_wake": bool(self._pending(sub))})

    def _subscribed(self, name: str, wish: dict[str, Any], sub: Sub | None) -> Answer:
        if "pattern" not in wish and "streams" not in wish:
            return self._no(400, "INVALID_REQUEST", message="pattern or streams")
        if sub is not None and sub.wish != wish:
            return self._no(409, "SUBSCRIPTION_EXISTS", message="another configuration")
        if sub is not None:
            return self._json(200, self._described(name, sub))
        made = self.subs[name] = Sub(wish, {p: token(self._tail(p)) for p in wish["streams"]})
        return self._json(201, self._described(name, made))

    def _described(self, name: str, sub: Sub) -> dict[str, Any]:
        webhook = sub.wish.get("webhook")
        if webhook is not None:
            webhook = {**webhook, "signing": {"jwks_url": f"{self.url}{JWKS}"}}
        return {
            "id": name,
            "lease_ttl_ms": self.lease_ms,
            "status": "active",
            **sub.wish,
            "webhook": webhook,
            "streams": [self._link(path, sub) for path in sub.acked],
        }

    def _link(self, path: str, sub: Sub) -> dict[str, Any]:
        return {"path": path, "link_type": "explicit", "acked_offset": sub.acked[path]}

    def _tail(self, path: str) -> int:
        held = self.streams.get(f"/{path}")
        return held.tail if held else 0

    def _pending(self, sub: Sub) -> list[str]:
        return [path for path in sub.acked if self._tail(path) > max(int(sub.acked[path]), 0)]

    def _claim(self, sub: Sub, worker: str) -> Answer:
        if sub.holder is not None:
            return self._no(409, "ALREADY_CLAIMED", current_holder=sub.holder)
        pending = self._pending(sub)
        if not pending:
            return self._no(409, "NO_PENDING_WORK")
        sub.generation += 1
        sub.holder = worker
        streams = [
            {
                **self._link(path, sub),
                "tail_offset": token(self._tail(path)),
                "has_pending": path in pending,
            }
            for path in sub.acked
        ]
        return self._json(
            200,
            {
                "wake_id": f"w{sub.generation}",
                "generation": sub.generation,
                "token": f"t{sub.generation}",
                "streams": streams,
                "lease_ttl_ms": self.lease_ms,
            },
        )
