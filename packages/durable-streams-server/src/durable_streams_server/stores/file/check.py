"""Verifying a store without starting it: every checksum and every proof, read-only."""

from collections.abc import Callable

import msgspec

from durable_streams_core.errors import StoreError
from durable_streams_server.stores.file.data_files import file_name
from durable_streams_server.stores.file.directory import FORMAT, identify, lock_to_read
from durable_streams_server.stores.file.disk import LocalDisk
from durable_streams_server.stores.file.journal_reader import CorruptionError
from durable_streams_server.stores.file.proof import file_sums
from durable_streams_server.stores.file.recovery import Recovery
from durable_streams_server.stores.file.report import Report


class Checked(msgspec.Struct):
    """The findings. ``bytes`` counts those in stream files; no ``problems`` means sound."""

    report: Report
    bytes: int = 0
    problems: list[str] = msgspec.field(default_factory=list)


def check(path: str, progress: Callable[[int, int], None] = lambda _done, _all: None) -> Checked:
    """Verify the store in a directory; ``progress`` hears how many bytes of how many are read.

    Raises :class:`StoreError` if the directory holds no store, or if it is in use.
    """
    disk = LocalDisk(path)
    if disk.file_size(FORMAT) is None:
        raise StoreError(f"{path} holds no store: there is no file {FORMAT} in it.")
    unlock = lock_to_read(disk, path)
    try:
        return _check(disk, path, progress)
    except OSError as error:
        raise StoreError(f"The store in {path} cannot be read: {error}.") from error
    finally:
        unlock()


def _check(disk: LocalDisk, path: str, progress: Callable[[int, int], None]) -> Checked:
    store = identify(disk, path, str, create=False)
    try:
        recovery = Recovery(disk, store)
    except CorruptionError as error:
        return Checked(Report(), problems=[_described(error)])
    checked = Checked(recovery.report)
    checked.problems.extend(_described(error) for error in recovery.damaged)
    damaged = {error.number for error in recovery.damaged}
    sound = [
        (stream, entity)
        for stream, entity in recovery.table.entities.items()
        if entity.number not in damaged and not recovery.lacks(entity.number)
    ]
    everything = sum(entity.head.tail - entity.head.start for _, entity in sound)
    for stream, entity in sound:
        length = entity.head.tail - entity.head.start
        if length and file_sums(disk, entity.number, 0, length) != entity.sums:
            checked.problems.append(
                f"{file_name(entity.number)}: its bytes are not those that were stored; it holds the "
                f"stream {stream!r}"
            )
        checked.bytes += length
        progress(checked.bytes, everything)
    return checked


def _described(error: CorruptionError) -> str:
    return f"{error.name}, byte {error.position}: {error.problem}"
