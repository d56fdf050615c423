"""Where a reader remembers how far it got.

A checkpoint is loaded once before reading and saved after a batch was handled, never before: a
crash in between repeats a batch and loses none. Anything with these two methods will do; those
given to an async reader may be coroutines.
"""

import os
import tempfile
from collections.abc import Awaitable
from pathlib import Path
from typing import Protocol

from durable_streams_client.errors import InvalidArgument


class Checkpoint(Protocol):
    """Stores one offset."""

    def load(self) -> str | None:
        """The offset saved last, or None."""
        ...

    def save(self, offset: str) -> None:
        """Keep ``offset``; durable when it returns, if it is to survive a crash."""
        ...


class AsyncCheckpoint(Protocol):
    """The same as coroutines, for :class:`AsyncReader`."""

    def load(self) -> Awaitable[str | None]: ...

    def save(self, offset: str) -> Awaitable[None]: ...


class FileCheckpoint:
    """One offset in one small file, replaced as a whole, so that a crash leaves the old or the new.

    ``sync`` waits for the disk each time; without it a crash of the machine (not of the program)
    may take back some saves, which repeats what they covered.
    """

    def __init__(self, path: str | os.PathLike[str], *, sync: bool = True) -> None:
        self.path = Path(path)
        self.sync = sync

    def load(self) -> str | None:
        try:
            text = self.path.read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return None
        except UnicodeDecodeError:
            text = "\0"
        if not text:
            return None
        if not text.isprintable() or any(mark in text for mark in ",&=?/ "):
            raise InvalidArgument(
                f"{self.path} holds no offset", advice="Delete it to start from the beginning."
            )
        return text

    def save(self, offset: str) -> None:
        handle, name = tempfile.mkstemp(prefix=f".{self.path.name}.", dir=self.path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(offset + "\n")
                file.flush()
                if self.sync:
                    os.fsync(file.fileno())
            Path(name).replace(self.path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        if self.sync and os.name == "posix":
            directory = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)


class MemoryCheckpoint:
    """An offset in memory, for tests and for readers that only restart within one process."""

    def __init__(self, offset: str | None = None) -> None:
        self.offset = offset

    def load(self) -> str | None:
        return self.offset

    def save(self, offset: str) -> None:
        self.offset = offset
