"""Keeps what belongs to one process out of its forked children.

A forked child gets a copy of everything: producer identities, which two processes must not share;
connections, on which both would write; and locks, which a thread that the child does not have may
hold. Objects that own any of these register here, and start anew in the child.
"""

import os
from collections.abc import Callable
from typing import Any, Final, TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")

_registered: Final[WeakKeyDictionary[Any, Callable[[Any], None]]] = WeakKeyDictionary()
_kept: Final[list[object]] = []


def register(inherited: T, after_fork: Callable[[T], None]) -> None:
    """Call ``after_fork(inherited)`` in every child forked from now on.

    It runs in the only thread of the child and must neither wait nor take a lock. The registration
    ends with the life of ``inherited``.
    """
    _registered[inherited] = after_fork


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
    for inherited, after_fork in list(_registered.items()):
        try:
            after_fork(inherited)
        except Exception as error:
            failure = error  # the others are reset all the same
    if failure is not None:
        raise failure  # Python prints it: nobody can catch what a fork raises


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset)
