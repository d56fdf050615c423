"""Checkpoints: where a consumer keeps its offset.

A reader loads its checkpoint once, before reading, and saves it after each batch was handled. A
crash in between repeats a batch and loses none. Any object with these two methods is a checkpoint;
those of an async reader may be coroutine functions.
"""

import os
import tempfile
from collections.abc import Awaitable
from pathlib import Path
from typing import Protocol

from durable_streams_client.errors import InvalidArgument


class Checkpoint(Protocol):
    """Keeps one offset. ``FileCheckpoint`` and ``MemoryCheckpoint`` are two; write your own."""

    def load(self) -> str | None:
        """Return the offset that was saved last, or None to begin where the reader begins."""
        ...

    def save(self, offset: str) -> None:
        """Keep ``offset``. To survive a crash, return only when it is durable."""
        ...


class AsyncCheckpoint(Protocol):
    """A ``Checkpoint`` for an ``AsyncReader``, whose methods are coroutine functions."""

    def load(self) -> Awaitable[str | None]:
        """Return the offset that was saved last, or None to begin where the reader begins."""
        ...

    def save(self, offset: str) -> Awaitable[None]:
        """Keep ``offset``. To survive a crash, return only when it is durable."""
        ...


class FileCheckpoint:
    """A checkpoint in a small file, which is replaced as a whole by each save.

    - ``path``: the file, in a directory that exists.
    - ``sync``: waits for the disk at each save. Without it, a crash of the machine (not of the
      program) may undo the last saves, so that their batches come again.
    """

    def __init__(self, path: str | os.PathLike[str], *, sync: bool = True) -> None:
        self.path = Path(path)
        self.sync = sync

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    def load(self) -> str | None:
        """Return the offset in the file, or None if it is missing or empty.

        Raises ``InvalidArgument`` if the file holds anything else, and ``OSError``.
        """
        try:
            text = self.path.read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return None
        except UnicodeDecodeError:
            text = "\0"
        if not text:
            return None
        if not text.isprintable() or any(mark in text for mark in ",&=? "):
            raise InvalidArgument(
                f"{self.path} does not hold an offset",
                advice="Delete it to start from the beginning.",
            )
        return text

    def save(self, offset: str) -> None:
        """Replace the file. Raises ``OSError``, with the old file left in place."""
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
    """A checkpoint in memory, for tests and for readers that restart within one process.

    ``offset`` is where to begin; None is where the reader begins.
    """

    def __init__(self, offset: str | None = None) -> None:
        self.offset = offset

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.offset!r})"

    def load(self) -> str | None:
        """Return the offset."""
        return self.offset

    def save(self, offset: str) -> None:
        """Keep ``offset``."""
        self.offset = offset
