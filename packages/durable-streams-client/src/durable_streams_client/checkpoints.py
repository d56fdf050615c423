"""Checkpoints: where a consumer keeps its offset.

A reader loads its checkpoint once, before reading, and saves it after each batch was handled, or
after each message with ``save_every=1``. A crash in between repeats what was handled since the last
save, and loses nothing. Any object with these two methods is a checkpoint;
those of an async reader may be coroutine functions.
"""

import inspect
import os
import tempfile
from collections.abc import Awaitable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, Protocol

from durable_streams_client.errors import InvalidArgument

if TYPE_CHECKING:
    import sqlite3

_TMPFILE: Final = getattr(os, "O_TMPFILE", 0)
"""Opens a file without a name, on Linux."""


class Checkpoint(Protocol):
    """Keeps one offset. ``FileCheckpoint`` and ``MemoryCheckpoint`` are two; write your own.

    >>> class Places(dict):
    ...     def load(self):
    ...         return self.get("place")
    ...     def save(self, offset):
    ...         self["place"] = offset
    >>> places = Places(place="00000002")
    >>> for item in stream.follow(checkpoint=places, save_every=1).items():
    ...     print(item)
    3
    >>> places
    {'place': '00000003'}
    """

    def load(self) -> str | None:
        """Return the offset that was saved last, or None to begin where the reader begins."""
        ...

    def save(self, offset: str) -> None:
        """Keep ``offset``. To survive a crash, return only when it is durable."""
        ...


class AsyncCheckpoint(Protocol):
    """A ``Checkpoint`` for an ``AsyncReader``, whose methods are coroutine functions.

    >>> class Places(dict):
    ...     async def load(self):
    ...         return self.get("place")
    ...     async def save(self, offset):
    ...         self["place"] = offset
    >>> places = Places(place="00000002")
    >>> async for item in stream.follow(checkpoint=places, save_every=1).items():
    ...     print(item)
    3
    >>> places
    {'place': '00000003'}
    """

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
      program) may undo the last saves, so that their messages come again.

    A program that is killed during a save leaves the old file or the new one. On Linux it leaves no
    other file, but for one of the name ``.PATH.new`` in the instant before the new file takes the
    place of the old one, which the next ``load`` or ``save`` removes.

    >>> place = FileCheckpoint(folder / "place")
    >>> place.save("00000002")
    >>> stream.read(place.load()).read_items()
    [3]
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
        with suppress(OSError):
            self._new.unlink()
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
        content = f"{offset}\n".encode()
        if os.name != "posix":
            self._replace(content)
            return
        directory = os.open(self.path.parent, os.O_RDONLY)
        try:
            if not (_TMPFILE and self._replace_by_nameless(content, directory)):
                self._replace(content)
            if self.sync:
                os.fsync(directory)
        finally:
            os.close(directory)

    @property
    def _new(self) -> Path:
        return self.path.parent / f".{self.path.name}.new"

    def _replace_by_nameless(self, content: bytes, directory: int) -> bool:
        """Write a file that has no name before it is complete, so that nothing can be left over.

        Returns False where the system cannot do that.
        """
        try:
            handle = os.open(self.path.parent, os.O_WRONLY | _TMPFILE, 0o600)
        except OSError:
            return False
        with os.fdopen(handle, "wb") as file:
            self._write(file, content)
            while True:
                try:
                    # With a directory, because Python follows the link only then.
                    os.link(f"/proc/self/fd/{handle}", self._new, src_dir_fd=directory)
                    self._new.replace(self.path)
                except FileExistsError:
                    self._new.unlink(missing_ok=True)
                except OSError:
                    return False
                else:
                    return True

    def _replace(self, content: bytes) -> None:
        handle, name = tempfile.mkstemp(prefix=f".{self.path.name}.", dir=self.path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                self._write(file, content)
            Path(name).replace(self.path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def _write(self, file: IO[bytes], content: bytes) -> None:
        file.write(content)
        file.flush()
        if self.sync:
            os.fsync(file.fileno())


class SqliteCheckpoint:
    """A checkpoint in a table of an SQLite database, which holds any number of them.

    - ``database``: the path of a database, which is opened for each save, or your connection.
    - ``name``: which checkpoint it is, for example the stream and the consumer.
    - ``table``: the table, which is made if it is missing.

    A save commits what you have written on your connection together with the offset. With
    ``follow(checkpoint=…, save_every=1)`` a message's results are then stored exactly once. For an
    ``AsyncReader`` open the connection with ``check_same_thread=False``.

    >>> place = SqliteCheckpoint(folder / "places.db", "numbers")
    >>> place.save("00000002")
    >>> stream.read(place.load()).read_items()
    [3]
    """

    def __init__(
        self,
        database: "str | os.PathLike[str] | sqlite3.Connection",
        name: str,
        *,
        table: str = "checkpoints",
    ) -> None:
        self.database = database
        self.name = name
        self.table = table
        self._table = '"{}"'.format(table.replace('"', '""'))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.database!r}, {self.name!r})"

    def load(self) -> str | None:
        """Return the offset that was saved last. Raises ``sqlite3.Error``."""
        with self._connection() as connection:
            row = connection.execute(
                f"SELECT place FROM {self._table} WHERE name = ?",  # noqa: S608 - quoted
                [self.name],
            ).fetchone()
        return None if row is None else str(row[0])

    def save(self, offset: str) -> None:
        """Store ``offset``, and commit. Raises ``sqlite3.Error``."""
        with self._connection() as connection:
            connection.execute(
                f"REPLACE INTO {self._table} VALUES (?, ?)",  # noqa: S608 - quoted
                [self.name, offset],
            )
            connection.commit()

    @contextmanager
    def _connection(self) -> "Iterator[sqlite3.Connection]":
        import sqlite3

        if isinstance(self.database, sqlite3.Connection):
            self._make_table(self.database)
            yield self.database
            return
        with closing(sqlite3.connect(self.database)) as connection:
            self._make_table(connection)
            yield connection

    def _make_table(self, connection: "sqlite3.Connection") -> None:
        connection.execute(
            f"CREATE TABLE IF NOT EXISTS {self._table} (name TEXT PRIMARY KEY, place TEXT)"
        )


class RedisCheckpoint:
    """A checkpoint in a key of Redis or Valkey; the extra ``redis`` installs a client.

    - ``client``: a ``redis.Redis``, or for an ``AsyncReader`` also a ``redis.asyncio.Redis``.
    - ``key``: the key that holds the offset.

    A save survives a crash of the server as far as the server keeps writes.

    >>> place = RedisCheckpoint(redis, "places:numbers")
    >>> place.save("00000002")
    True
    >>> stream.read(place.load()).read_items()
    [3]
    """

    def __init__(self, client: Any, key: str) -> None:
        self.client = client
        self.key = key

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.key!r})"

    def load(self) -> Any:
        """Return the offset that was saved last, awaitable with an async client."""
        found = self.client.get(self.key)
        return _later_text(found) if inspect.isawaitable(found) else _text(found)

    def save(self, offset: str) -> Any:
        """Store ``offset``, awaitable with an async client."""
        return self.client.set(self.key, offset)


def _text(value: bytes | str | None) -> str | None:
    return value.decode() if isinstance(value, bytes) else value


async def _later_text(value: Awaitable[bytes | str | None]) -> str | None:
    return _text(await value)


class MemoryCheckpoint:
    """A checkpoint in memory, for tests and for readers that restart within one process.

    ``offset`` is where to begin; None is where the reader begins.

    >>> place = MemoryCheckpoint()
    >>> list(stream.read().items())[:1]
    [1]
    >>> with stream.follow(checkpoint=place, save_every=1) as reader:
    ...     for item in reader.items():
    ...         if item == 3:
    ...             break
    >>> place.load()
    '-1/2/00000003'
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
