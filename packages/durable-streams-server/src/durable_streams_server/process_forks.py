"""Tells objects that ``os.fork`` copied them into a child process.

A child gets a copy of everything: identities that two processes must not share, connections on
which both would write, and tasks that will never run there. An object that owns any of these
registers here, and starts anew in the child.
"""

import os
from typing import Final, Protocol
from weakref import WeakSet


class Inherited(Protocol):
    """An object that a forked child must not use as it is."""

    def after_fork(self) -> None:
        """Start anew. Called in the child, which has no event loop yet; must not wait."""


_registered: Final[WeakSet[Inherited]] = WeakSet()


def register(inherited: Inherited) -> None:
    """Call ``inherited.after_fork()`` in every child that is forked from now on."""
    _registered.add(inherited)


def _start_anew() -> None:
    for inherited in list(_registered):
        inherited.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)
