"""Lifetimes: ``Stream-TTL`` and ``Stream-Expires-At`` (§4.2, §5.1).

Times are milliseconds since the Unix epoch. A sliding lifetime is stored a tenth longer than asked
and renewed only once a tenth of it has passed: so a busy reader costs a few writes per lifetime,
and a restart or another process never shortens a life.
"""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from durable_streams_core.errors import InvalidRequest

__all__ = ["format_time", "parse_expires_at", "parse_ttl", "renewal_due", "two_lifetimes"]

MAX_TTL_SECONDS: Final = 3_155_760_000
"""One hundred years."""

_TTL: Final = re.compile(r"0|[1-9][0-9]{0,9}")
_RFC3339: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:([Zz])|([+-])(\d\d):(\d\d))",
    re.ASCII,
)
_LEAP_SECONDS: Final = ((6, 30, 23, 59), (12, 31, 23, 59))
"""Month, day, hour and minute (UTC) of the minutes that may have 61 seconds (RFC 3339 §5.7)."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


def two_lifetimes() -> InvalidRequest:
    """400: both kinds of lifetime were asked for (§5.1)."""
    return InvalidRequest(
        "A stream has a TTL or a time at which it expires, not both.", code="ttl-and-expires-at"
    )


def parse_ttl(value: str) -> int:
    """Parse ``Stream-TTL`` (§5.1); returns seconds.

    Raises :class:`InvalidRequest` unless it is a plain decimal number without sign, point, exponent
    or leading zeros, and at most a hundred years.
    """
    if _TTL.fullmatch(value) is None or int(value) > MAX_TTL_SECONDS:
        raise InvalidRequest(
            "Stream-TTL is a whole number of seconds such as 3600, without sign, leading zeros or "
            f"decimal point, and at most {MAX_TTL_SECONDS}.",
            code="invalid-ttl",
        )
    return int(value)


def parse_expires_at(value: str) -> int:
    """Parse ``Stream-Expires-At`` (§5.1), an RFC 3339 time of any offset and precision.

    Returns milliseconds since 1970. Raises :class:`InvalidRequest`.
    """
    match = _RFC3339.fullmatch(value)
    try:
        if match is None:
            raise ValueError
        year, month, day, hour, minute, second = (int(g) for g in match.groups()[:6])
        leap = second == 60
        moment = datetime(year, month, day, hour, minute, 59 if leap else second, tzinfo=UTC)
        if match[9]:
            if int(match[10]) > 23 or int(match[11]) > 59:
                raise ValueError
            offset = timedelta(hours=int(match[10]), minutes=int(match[11]))
            # Raises OverflowError outside of the years that can be written, 1 to 9999.
            moment = moment - offset if match[9] == "+" else moment + offset
        if leap:
            if (moment.month, moment.day, moment.hour, moment.minute) not in _LEAP_SECONDS:
                raise ValueError
            # A leap second is the same instant as the second after it.
            moment += timedelta(seconds=1)
        millis = int((match[7] or "0").ljust(3, "0")[:3])
    except (ValueError, OverflowError):
        raise InvalidRequest(
            "Stream-Expires-At is an RFC 3339 timestamp such as 2030-01-31T12:00:00Z.",
            code="invalid-expires-at",
        ) from None
    elapsed = moment - _EPOCH
    return elapsed.days * 86_400_000 + elapsed.seconds * 1000 + millis


def format_time(milliseconds: int) -> str:
    """The RFC 3339 form, in UTC, with milliseconds."""
    moment = _EPOCH + timedelta(milliseconds=milliseconds)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def sliding_deadline(ttl: int, now: int) -> int:
    """The deadline to store for a life of ``ttl`` seconds renewed at ``now``."""
    return now + ttl * 1100


def first_deadline(ttl: int | None, expires_at: int | None, now: int) -> int:
    """The deadline of a life that begins at ``now``: 0 for one without end."""
    if ttl is not None:
        return sliding_deadline(ttl, now)
    # 0 means never, and 1970 is long over.
    return 0 if expires_at is None else max(1, expires_at)


def is_past(deadline: int, now: int) -> bool:
    """Whether a deadline has come; 0 never does."""
    return deadline != 0 and now >= deadline


def renewal_due(ttl: int, deadline: int, now: int) -> bool:
    """Whether more than a tenth of the lifetime has passed since it was last stored."""
    return deadline < now + ttl * 1000
