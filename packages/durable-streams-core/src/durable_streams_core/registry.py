"""Finds the store that a URL names among the installed packages.

A package offers a store through an entry point in the group :data:`ENTRY_POINT_GROUP`. The name of
the entry point is a URL scheme, and its value a function that takes the URL and returns a store
that is not yet open.
"""

from importlib.metadata import entry_points
from typing import Final

from durable_streams_core.errors import StoreError
from durable_streams_core.store import Store

__all__ = ["create_store"]

ENTRY_POINT_GROUP: Final = "durable_streams.stores"

_PACKAGES: Final = {
    "memory": "durable-streams-server",
    "file": "durable-streams-server",
    "redis": "durable-streams-redis",
    "rediss": "durable-streams-redis",
    "redis+sentinel": "durable-streams-redis",
    "redis+cluster": "durable-streams-redis",
}
"""Where the stores of this project are, to say which package is missing."""


def create_store(url: str) -> Store:
    """The store that a URL such as ``memory:``, ``file:./data`` or ``redis://host`` names, not yet
    opened. Raises :class:`StoreError` for a URL that names none.
    """
    scheme, colon, _ = url.partition(":")
    if not colon or not scheme:
        raise StoreError(
            f"{url!r} is not a store URL. Use memory:, file:PATH or redis://HOST, for example file:./data."
        )
    scheme = scheme.lower()
    for point in entry_points(group=ENTRY_POINT_GROUP, name=scheme):
        store = point.load()(url)
        if not isinstance(store, Store):
            raise StoreError(f"{point.value} did not make a store for {scheme}: URLs.")
        return store
    package = _PACKAGES.get(scheme)
    if package is None:
        raise StoreError(
            f"No installed package provides a store for {scheme}: URLs. "
            "Use memory:, file:PATH or redis://HOST, or install the store's package."
        )
    raise StoreError(f"The store for {scheme}: URLs is not installed: pip install {package}")
