"""Producers that are still open when their process ends.

Interpreters run their exit handlers while daemon threads are alive, so the producers of the sync
client can still send what they hold. Processes that ``multiprocessing`` started run no exit
handlers but finalizers of its own. A process that is killed runs neither.
"""

import atexit
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

T = TypeVar("T")


class _Open:
    """The open producers of this process, each with the function that finishes it."""

    def __init__(self) -> None:
        self.producers: WeakKeyDictionary[Any, Callable[[Any], None]] = WeakKeyDictionary()
        self.pid = 0

    def add(self, producer: T, finish: Callable[[T], None]) -> None:
        if self.pid != os.getpid():
            # The parent finishes its own producers.
            self.producers = WeakKeyDictionary()
            self.pid = os.getpid()
            _finish_with_multiprocessing()
        self.producers[producer] = finish

    def finish(self) -> None:
        if self.pid == os.getpid():
            for producer, finish in list(self.producers.items()):
                with suppress(KeyboardInterrupt):
                    finish(producer)


_open = _Open()
atexit.register(_open.finish)


def watch(producer: T, finish: Callable[[T], None]) -> None:
    """Call ``finish(producer)`` at the end of the process.

    ``unwatch`` takes that back, and so does the end of the producer's life.
    """
    _open.add(producer, finish)


def unwatch(producer: object) -> None:
    """Do not finish ``producer``: it is closed."""
    _open.producers.pop(producer, None)


def _finish_with_multiprocessing() -> None:
    process = sys.modules.get("multiprocessing.process")
    if process is not None and process.parent_process() is not None:
        from multiprocessing.util import Finalize

        Finalize(None, _open.finish, exitpriority=0)
