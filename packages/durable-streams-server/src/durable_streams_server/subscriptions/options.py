"""How one server delivers to subscriptions, in one place."""

import msgspec


class SubscriptionOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Times are seconds."""

    public_url: str | None = None
    """Where receivers reach the server: an origin, with a path if there is one before the stream
    root. Else what the request that created a subscription says."""
    webhook_allow: tuple[str, ...] = ()
    """Receivers that are trusted whatever their address: host names, ``*.suffix`` for all names
    below one, and networks such as ``10.1.0.0/16``. Only they may be reached by ``http:``."""
    webhook_localhost: bool | None = None
    """The exception for development: ``http://localhost`` and ``http://127.0.0.x`` (§6.2). None:
    only where ``public_url`` is not set."""
    webhook_timeout: float = 30.0
    """How long a receiver may take to answer, if its lease does not end before."""
    max_deliveries: int = 1000
    """Webhook requests under way at the same time."""
    key_days: float | None = None
    """Sign with a new key after so many days; None: only when told to."""
    member_lease: float = 6.0
    """Where several processes share a store: how long one may be silent before another takes over
    the subscriptions that it drives."""
