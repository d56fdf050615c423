"""Producers that are still open when their process ends.

Interpreters run their exit handlers while daemon threads are alive, so the producers of the sync
client can still send what they hold. Processes that ``multiprocessing`` started run no exit
handlers but finalizers of its own. A process that is killed runs neither.
"""

import atexit
import os
import sys
from contextlib import suppress
from typing import Protocol
from weakref import WeakSet


class Unfinished(Protocol):
    """A producer, as far as the end of its process concerns it."""

    def finish_at_exit(self) -> None:
        """Send what is left if that is possible, and warn about what could not be stored."""
        ...


class _Open:
    """The open producers of this process."""

    def __init__(self) -> None:
        self.producers: WeakSet[Unfinished] = WeakSet()
        self.pid = 0

    def add(self, producer: Unfinished) -> None:
        if self.pid != os.getpid():
            # The parent's producers are the parent's to finish.
            self.producers = WeakSet()
            self.pid = os.getpid()
            _finish_with_multiprocessing()
        self.producers.add(producer)

    def finish(self) -> None:
        if self.pid == os.getpid():
            for producer in list(self.producers):
                with suppress(KeyboardInterrupt):
                    producer.finish_at_exit()


_open = _Open()
atexit.register(_open.finish)


def watch(producer: Unfinished) -> None:
    """Finish ``producer`` at the end of the process, unless it is closed or collected before."""
    _open.add(producer)


def unwatch(producer: Unfinished) -> None:
    _open.producers.discard(producer)


def _finish_with_multiprocessing() -> None:
    process = sys.modules.get("multiprocessing.process")
    if process is not None and process.parent_process() is not None:
        from multiprocessing.util import Finalize

        Finalize(None, _open.finish, exitpriority=0)
