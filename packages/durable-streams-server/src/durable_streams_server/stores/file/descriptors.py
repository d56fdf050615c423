"""Spare file descriptors, so that the store can open its files when clients hold all others."""

import os
import threading
from collections.abc import Callable
from typing import Final, TypeVar

from durable_streams_server.stores.file.errors import NO_DESCRIPTOR

Result = TypeVar("Result")

SPARE: Final = 16
"""How many an open store holds: more than all its threads need at the same moment."""


class SpareDescriptors:
    """Descriptors of the directory ``root``, held only to be given up. Thread-safe."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._wanted = 0
        self._held: list[int] = []

    def hold(self, count: int) -> None:
        """Hold so many from now on, or none. Raises ``OSError`` if there are not so many."""
        with self._lock:
            self._wanted = count
            while len(self._held) > count:
                os.close(self._held.pop())
            while len(self._held) < count:
                self._held.append(self._take())

    def use(self, operation: Callable[[], Result]) -> Result:
        """Do what needs a descriptor, giving up spare ones while no other is free."""
        while True:
            try:
                return operation()
            except OSError as error:
                if error.errno not in NO_DESCRIPTOR:
                    raise
                with self._lock:
                    # The last one stays: `close` needs it.
                    if len(self._held) < 2:
                        raise
                    os.close(self._held.pop())

    def close(self, fd: int) -> None:
        """Close a descriptor; it becomes a spare one if any was given up."""
        if len(self._held) < self._wanted:
            with self._lock:
                if self._held and len(self._held) < self._wanted:
                    # In one step, so that no new connection gets it first.
                    os.dup2(self._held[0], fd, inheritable=False)
                    self._held.append(fd)
                    return
        os.close(fd)

    def replenish(self) -> None:
        """Take back what was given up, as far as any is free."""
        if len(self._held) == self._wanted:
            return
        with self._lock:
            try:
                while len(self._held) < self._wanted:
                    self._held.append(self._take())
            except OSError:
                pass  # it comes back with the next one that is closed

    def _take(self) -> int:
        return os.open(self._root, os.O_RDONLY | os.O_CLOEXEC)
