"""Writes log lines to a descriptor, and never waits long for whoever reads them."""

import asyncio
import logging
import os
import select
import stat
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from durable_streams_server import process_forks
from durable_streams_server.operations.access_log import Entry
from durable_streams_server.operations.log_formats import LineFormatter

PIECE: Final = 4096
"""Bytes of one write. A pipe takes so many as a whole, so lines of processes that share one stay
whole; and one that is writable takes them without waiting."""
MAX_WAITING: Final = 1024 * 1024
"""Bytes of lines that wait for a reader that is slow; more are dropped and counted."""
MAX_ENTRIES: Final = 200
"""Entries of the access log that are written together."""
DELAY_SECONDS: Final = 0.01
"""How long an entry may wait for others: one line alone costs three times as much."""
RETRY_SECONDS: Final = 0.05
PATIENCE_SECONDS: Final = 1.0
"""How long lines wait for their reader where no event loop runs, such as at the end."""


class LineHandler(logging.Handler):
    """Writes records of ``logging`` and entries of the access log, in the order they came.

    Entries are gathered for a moment and written together. A record is written at once, after the
    entries before it.

    ``descriptor`` is an open file, which is not closed.
    """

    def __init__(self, descriptor: int, formatter: LineFormatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.lines = formatter
        """The format of the lines."""
        self.dropped = 0
        """Lines that were not written, because nobody read them."""
        self._told = 0
        """Of these, how many the log says."""
        self._descriptor = descriptor
        self._is_writable = _readiness_of(descriptor)
        self._entries: deque[tuple[float, Entry]] = deque()
        """Entries that no line was made of yet, and when their requests ended."""
        self._waiting: deque[bytes] = deque()
        self._size = 0
        """Bytes of the lines that wait."""
        self._rest = b""
        """The unwritten end of the piece that is being written."""
        self._loop: asyncio.AbstractEventLoop | None = None
        """The event loop whose turns are logged."""
        self._is_due = False
        """Whether that loop will write what waits."""
        process_forks.register(self)

    def after_fork(self) -> None:
        """The parent writes what waits, and not the child as well."""
        self._entries.clear()
        self._waiting.clear()
        self._size, self._rest = 0, b""
        self._loop, self._is_due = None, False

    def emit(self, record: logging.LogRecord) -> None:
        self._format_entries()
        try:
            line = self.format(record)
        except Exception:
            self.handleError(record)
            return
        self._add(line)
        self.flush()

    def write_entry(self, entry: Entry) -> None:
        """Write an entry of the access log within a moment. Only for the thread of the loop."""
        entries = self._entries
        entries.append((time.time(), entry))
        if len(entries) >= MAX_ENTRIES or not self._follow_loop():
            self.flush()
        elif not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_later(DELAY_SECONDS, self._write_due)

    def flush(self) -> None:
        """Write what waits. Where no event loop runs, wait a moment for the reader."""
        self.acquire()
        try:
            self._format_entries()
            self._follow_loop()
            loop = self._loop
            if loop is None or not loop.is_running():
                self._write_now()
            elif not self._write() and not self._is_due:
                self._is_due = True
                try:
                    # This may be a thread beside the loop's.
                    loop.call_soon_threadsafe(loop.call_later, RETRY_SECONDS, self._write_due)
                except RuntimeError:
                    # The loop ended meanwhile.
                    self._write_now()
        finally:
            self.release()

    def _write_now(self) -> None:
        """Write what waits, where no event loop would do so later."""
        self._is_due = False
        self._write(PATIENCE_SECONDS)

    def _format_entries(self) -> None:
        entries = self._entries
        while entries:
            now, entry = entries.popleft()
            self._add(self.lines.format_entry(entry, now))

    def _add(self, line: str) -> None:
        encoded = f"{line}\n".encode(errors="backslashreplace")
        if self._size + len(encoded) > MAX_WAITING:
            self.dropped += 1
            return
        self._waiting.append(encoded)
        self._size += len(encoded)

    def _follow_loop(self) -> bool:
        """Note the event loop that runs in this thread; returns whether one does."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return False
        if loop is not self._loop:
            self._loop, self._is_due = loop, False
        return True

    def _write_due(self) -> None:
        self._is_due = False
        self.flush()

    def _write(self, patience: float = 0.0) -> bool:
        """Write as much as the reader takes in so many seconds; returns whether that was all."""
        until = time.monotonic() + patience if patience else 0.0
        while self._rest or self._waiting or self._tell():
            rest = self._rest = self._rest or self._next()
            try:
                left = max(0.0, until - time.monotonic()) if patience else 0.0
                if not self._is_writable(left):
                    return False
                self._rest = rest[os.write(self._descriptor, rest[:PIECE]) :]
            except BlockingIOError:
                return False
            except OSError:
                # The reader is gone, or the disk is full.
                self.dropped += rest.count(b"\n") + len(self._waiting)
                self._waiting.clear()
                self._size, self._rest = 0, b""
                return True
        return True

    def _next(self) -> bytes:
        """The lines that the next write takes."""
        waiting = self._waiting
        taken = [waiting.popleft()]
        size = len(taken[0])
        while waiting and size + len(waiting[0]) <= PIECE:
            taken.append(waiting.popleft())
            size += len(taken[-1])
        self._size -= size
        return b"".join(taken)

    def _tell(self) -> bool:
        """Add a line about those that were dropped; False if there is nothing to tell."""
        count = self.dropped - self._told
        if not count:
            return False
        self._told = self.dropped
        message = "%d lines of the log were dropped, because they were not read fast enough"
        level, name = logging.WARNING, "durable_streams_server.operations"
        self._add(self.format(logging.LogRecord(name, level, __file__, 0, message, (count,), None)))
        return True


def _readiness_of(descriptor: int) -> Callable[[float], bool]:
    """Tells whether a write of one piece would not wait, within so many seconds."""
    if not hasattr(select, "poll") or stat.S_ISREG(os.fstat(descriptor).st_mode):
        # Windows asks so of sockets only. A file is always writable.
        return lambda _: True
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    # A descriptor that is closed or broken counts as writable: the write says what is wrong.
    return lambda seconds: bool(poll.poll(seconds * 1000))
