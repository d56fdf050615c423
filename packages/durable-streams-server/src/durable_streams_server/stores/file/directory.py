"""The store's directory: what is in it, whose it is, and who may use it now.

| name                    | what it is                                                          |
|-------------------------|---------------------------------------------------------------------|
| `FORMAT`                | what this directory is, in which version, and the store's id        |
| `lock`                  | held by the process that has the store open                         |
| `journal/00000001.log`  | segments of the journal, numbered as they were begun                |
| `snapshot-00000000000f` | everything up to that group, but for the streams' bytes             |
| `streams/0/a3`          | the bytes of one incarnation, named by its number                   |
| `unsynced`              | a sync of such files failed: see `data_files`                      |
| `reserve`               | room for a checkpoint when the disk is full: see `reserve`         |
| `set-aside/`            | what was found damaged and was asked to be set aside                |
"""

import os
from collections.abc import Callable
from typing import Final

import msgspec

from durable_streams_core.errors import StoreError, StoreInUse
from durable_streams_server.stores.file.disk import Disk, LocalDisk

FORMAT_VERSION: Final = 1
FORMAT: Final = "FORMAT"
LOCK: Final = "lock"
JOURNAL: Final = "journal"
STREAMS: Final = "streams"
SET_ASIDE: Final = "set-aside"
UNSYNCED: Final = "unsynced"
RESERVE: Final = "reserve"
SNAPSHOT: Final = "snapshot-"
UNFINISHED: Final = ".new"
"""Ends the name of a file that is not yet what its name will say."""

_NAME: Final = "durable-streams file store"
_OURS: Final = {RESERVE, UNSYNCED, FORMAT, FORMAT + UNFINISHED, LOCK, JOURNAL, STREAMS, SET_ASIDE}
# What file systems and desktops put into an empty directory.
_IGNORED: Final = {"lost+found", ".DS_Store", ".gitignore", ".gitkeep"}


class Format(msgspec.Struct, frozen=True):
    """The content of ``FORMAT``. ``store`` is a random id, 32 hex digits, that every file of the
    store bears: files of another store are never taken for its own.
    """

    format: str
    version: int
    store: str


def make_root(path: str) -> LocalDisk:
    """The disk of a directory, which is made if need be."""
    try:
        if not os.path.isdir(path):  # noqa: PTH112
            os.makedirs(path, 0o750, exist_ok=True)  # noqa: PTH103
            LocalDisk(os.path.dirname(os.path.abspath(path))).sync_directory("")  # noqa: PTH100,PTH120
    except OSError as error:
        raise StoreError(
            f"The directory {path} cannot be made: {_reason(error)}. "
            "Make it yourself, or name another place for the store."
        ) from error
    return LocalDisk(path)


def take(disk: Disk, where: str) -> Callable[[], None]:
    """Lock the directory for this process, unless it is someone else's; returns what gives it
    back.
    """
    try:
        if disk.file_size(FORMAT) is None:
            _require_empty(disk, where)
        unlock = disk.lock(LOCK)
    except OSError as error:
        raise StoreError(
            f"The directory {where} cannot be written: {_reason(error)}. "
            "Give this user the right to write there, or name another directory."
        ) from error
    if unlock is None:
        raise StoreInUse(
            f"The store in {where} is in use by another process; a file store has one at a time. "
            "Stop that one, or give this one a directory of its own."
        )
    return unlock


def lock_to_read(disk: Disk, where: str) -> Callable[[], None]:
    """See that no other process writes to the directory; returns what gives it back."""
    try:
        unlock = disk.lock(LOCK, write=False)
    except OSError as error:
        raise StoreError(f"The store in {where} cannot be read: {_reason(error)}.") from error
    if unlock is None:
        raise StoreError(f"The store in {where} is in use; stop its server first.")
    return unlock


def identify(disk: Disk, where: str, new_id: Callable[[], str], *, create: bool = True) -> str:
    """The id of the store in a directory; makes a new store in an empty one if asked to."""
    try:
        text = read_whole(disk, FORMAT)
        if text is None:
            _require_empty(disk, where)
            if not create:
                raise StoreError(f"{where} is empty: there is no store in it.")
            return _begin(disk, new_id())
    except OSError as error:
        raise StoreError(
            f"The store in {where} cannot be read: {_reason(error)}. "
            "Give this user the right to read and write there."
        ) from error
    try:
        stated = msgspec.json.decode(text, type=Format)
        salt_of(stated.store)
    except ValueError as error:  # msgspec's errors are ValueErrors
        raise StoreError(
            f"{where}/{FORMAT} does not say what the directory is ({error}). If this is a "
            "durable-streams store, restore that file from a backup; else name another directory."
        ) from error
    if stated.format != _NAME:
        raise StoreError(f"{where} holds {stated.format!r}, which is no store of this server.")
    if stated.version > FORMAT_VERSION:
        raise StoreError(
            f"The store in {where} has format version {stated.version} and this server knows up to "
            f"{FORMAT_VERSION}: it was written by a newer one. Install that version, or a newer."
        )
    return stated.store


def salt_of(store_id: str) -> bytes:
    """A store's id as the 16 bytes that its files bear."""
    salt = bytes.fromhex(store_id)
    if len(salt) != 16:
        raise ValueError("a store's id has 32 hex digits")
    return salt


def read_whole(disk: Disk, name: str) -> bytes | None:
    """The content of a file, None if there is none."""
    size = disk.file_size(name)
    if size is None:
        return None
    fd = disk.open(name)
    try:
        return disk.read(fd, 0, size)
    finally:
        disk.close(fd)


def write_whole(disk: Disk, name: str, content: bytes) -> None:
    """Put a file there, whole or not at all, and surely before this returns."""
    fd = disk.open(name + UNFINISHED, create=True, write=True)
    try:
        disk.truncate(fd, 0)
        disk.write(fd, [content], 0)
        disk.sync(fd)
    finally:
        disk.close(fd)
    disk.rename(name + UNFINISHED, name)
    disk.sync_directory(name.rpartition("/")[0])


def _require_empty(disk: Disk, where: str) -> None:
    there = set(disk.names("")) - _IGNORED
    strange = sorted(there - _OURS)
    if strange or there & {JOURNAL, STREAMS, SET_ASIDE}:
        raise StoreError(
            f"{where} is not empty and has no file {FORMAT}, so it is not a store of this server "
            f"(it holds {', '.join((strange or sorted(there))[:3])}). Name an empty or a new directory."
        )


def _begin(disk: Disk, store_id: str) -> str:
    salt_of(store_id)
    document = msgspec.json.encode(Format(_NAME, FORMAT_VERSION, store_id))
    write_whole(disk, FORMAT, msgspec.json.format(document) + b"\n")
    return store_id


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
