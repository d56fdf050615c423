"""The lease and generation machine (§7, §7.3): a table, and what each step sets.

    idle ──wake──▶ waking ──accept, ack──▶ held ──done, release, expire──▶ idle
                   │    ▲                         webhook
                 fail  again
                   ▼    │
                  retrying

    idle ──wake──▶ waiting ──claim──▶ held ──done, release, expire──▶ idle     pull-wake
    idle ──────────claim────────────▶ held

A step that the table does not list is illegal. A worker that asks for one is fenced. A driver
that asks for one was overtaken by another step, and nothing is done. The generation rises with
every wake, and a wake id names one wake for ever.
"""

from collections.abc import Mapping
from typing import Final

import msgspec

__all__ = [
    "ACCEPT",
    "ACK",
    "AGAIN",
    "DONE",
    "DROP",
    "EXPIRE",
    "FAIL",
    "HELD",
    "IDLE",
    "NO_CHANGES",
    "RELEASE",
    "RETRYING",
    "WAITING",
    "WAKE",
    "WAKING",
    "Changes",
    "Lease",
    "decode_lease",
    "retry_delay",
]

IDLE: Final = "idle"
WAKING: Final = "waking"
"""A webhook's wake is on its way: the request was sent, or is about to be."""
RETRYING: Final = "retrying"
"""The receiver could not be told; ``until`` says when it is tried again."""
WAITING: Final = "waiting"
"""A wake event is for workers to find; nobody has claimed it."""
HELD: Final = "held"
"""A worker is at it: it claimed the wake, or its webhook took it without being done."""

WAKE: Final = "wake"
CLAIM: Final = "claim"
ACCEPT: Final = "accept"
"""The receiver answered, not yet done; or the wake event was written after all."""
FAIL: Final = "fail"
AGAIN: Final = "again"
"""Deliver the same wake once more: its retry is due, or its driver died."""
ACK: Final = "ack"
DONE: Final = "done"
RELEASE: Final = "release"
EXPIRE: Final = "expire"
DROP: Final = "drop"
"""Nothing is pending any more for a wake that nobody works on."""

NEXT: Final[Mapping[tuple[str, str], str]] = {
    (IDLE, CLAIM): HELD,
    (WAITING, CLAIM): HELD,
    (WAITING, ACCEPT): WAITING,
    (WAITING, FAIL): WAITING,
    (WAITING, DROP): IDLE,
    (WAKING, ACCEPT): HELD,
    (WAKING, FAIL): RETRYING,
    (WAKING, AGAIN): WAKING,
    (WAKING, ACK): HELD,
    (WAKING, DONE): IDLE,
    (WAKING, EXPIRE): IDLE,
    (WAKING, DROP): IDLE,
    (RETRYING, AGAIN): WAKING,
    (RETRYING, ACK): HELD,
    (RETRYING, DONE): IDLE,
    (RETRYING, DROP): IDLE,
    (HELD, ACK): HELD,
    (HELD, DONE): IDLE,
    (HELD, RELEASE): IDLE,
    (HELD, EXPIRE): IDLE,
}
"""What each step leads to. ``wake`` from ``idle`` depends on the type: see :data:`WOKEN`."""

WOKEN: Final[Mapping[str, str]] = {"webhook": WAKING, "pull-wake": WAITING}

_FIRST_RETRY_MS: Final = 1_000
_LAST_RETRY_MS: Final = 60_000
_JITTER: Final = 0.2


class Lease(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True):
    """Where a subscription stands.

    ``until`` is when its lease ends or its next attempt is due (milliseconds, 0: no timer),
    ``attempts`` how many deliveries failed in a row, ``stream`` the one that caused the wake, and
    ``driver`` the process that delivers it.
    """

    phase: str = IDLE
    generation: int = 0
    wake_id: str = ""
    holder: str = ""
    until: int = 0
    attempts: int = 0
    stream: str = ""
    driver: str = ""

    def expired(self, now: int) -> bool:
        """Whether the time of a wake or a worker is over."""
        return self.phase in (WAKING, HELD) and now >= self.until

    @property
    def failing(self) -> bool:
        """Whether a retry is scheduled or under way: the status ``failed`` (§6.3)."""
        return self.attempts > 0

    def after(self, step: str, kind: str) -> str | None:
        """The phase that a step leads to, or None where it cannot happen."""
        if step == WAKE:
            return WOKEN[kind] if self.phase == IDLE else None
        return NEXT.get((self.phase, step))

    def stepped(self, step: str, phase: str, now: int, ttl: int, changes: "Changes") -> "Lease":
        """The lease after a step that leads to ``phase``."""
        fresh = self.phase == IDLE
        attempts = self.attempts + 1 if step == FAIL else self.attempts
        if step in (ACCEPT, CLAIM, ACK, DONE):
            attempts = 0
        until = now + ttl if phase in (WAKING, HELD) else 0
        if step == FAIL:
            until = changes.until
        if phase == IDLE:
            return Lease(IDLE, self.generation, attempts=attempts)
        return Lease(
            phase,
            self.generation + fresh,
            changes.wake_id if fresh else self.wake_id,
            changes.holder or self.holder,
            until,
            attempts,
            changes.stream or self.stream,
            changes.driver or self.driver,
        )


class Changes(msgspec.Struct, frozen=True):
    """The arguments of a step: the id of a wake that it begins, and whatever else is not empty."""

    wake_id: str = ""
    holder: str = ""
    until: int = 0
    stream: str = ""
    driver: str = ""


NO_CHANGES: Final = Changes()

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(Lease)


def encode_lease(lease: Lease) -> bytes:
    return _encoder.encode(lease)


def decode_lease(data: bytes | None) -> Lease:
    """The lease in a stored field; an idle one where there is none."""
    return Lease() if data is None else _decoder.decode(data)


def retry_delay(attempts: int, jitter: float) -> int:
    """Milliseconds until the next attempt after so many failed ones (§7.1): 1 s, doubled up to
    60 s, up to a fifth more or less. ``jitter`` is a random number from -1 to 1.
    """
    doubled = _FIRST_RETRY_MS << min(max(attempts - 1, 0), 16)
    return round(min(doubled, _LAST_RETRY_MS) * (1 + _JITTER * jitter))
