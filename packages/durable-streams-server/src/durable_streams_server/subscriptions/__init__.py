"""Subscriptions as the engine runs them (§6, §7): whom an append wakes, and how.

The rules are core's. Here is what needs a loop: hearing of appends, looking up what is pending,
telling receivers and wake streams, and minding the time.
"""

from durable_streams_server.subscriptions.options import SubscriptionOptions
from durable_streams_server.subscriptions.service import Subscriptions

__all__ = ["SubscriptionOptions", "Subscriptions"]
