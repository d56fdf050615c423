"""Keeps what belongs to one process out of its forked children.

A forked child gets a copy of everything: producer identities, which two processes must not share;
connections, on which both would write; and locks, which a thread that the child does not have may
hold. Objects that own any of these register here, and start anew in the child.
"""

import os
from typing import Final, Protocol
from weakref import WeakSet


class Inherited(Protocol):
    """An object that a child must not use as it is."""

    def after_fork(self) -> None:
        """Start anew. Called in the child, in its only thread; must not wait or take a lock."""


_registered: Final[WeakSet[Inherited]] = WeakSet()
_kept: Final[list[object]] = []


def register(inherited: Inherited) -> None:
    """Call ``inherited.after_fork()`` in every child forked from now on."""
    _registered.add(inherited)


def keep(parents: object) -> None:
    """Never destroy what belongs to the parent: destroying it could touch what the parent uses."""
    _kept.append(parents)


def close_descriptor(descriptor: int) -> None:
    """Leave a connection to the parent, and keep its number from being used for anything else."""
    if descriptor >= 0:
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, descriptor)
        os.close(nowhere)


def _reset() -> None:
    failure = None
    for inherited in list(_registered):
        try:
            inherited.after_fork()
        except Exception as error:
            failure = error  # the others are reset all the same
    if failure is not None:
        raise failure  # Python prints it: nobody can catch what a fork raises


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset)
