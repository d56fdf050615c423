"""Reads the streams' data files, and verifies what was found at the start when it is first read."""

import logging
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, NamedTuple

from durable_streams_core.errors import ProtocolError, Unavailable
from durable_streams_server.stores.file.data_files import file_name
from durable_streams_server.stores.file.disk import Disk
from durable_streams_server.stores.file.errors import describe, is_passing
from durable_streams_server.stores.file.sums import BLOCK, blocks
from durable_streams_server.stores.file.write_behind import Stored

_log: Final = logging.getLogger(__name__)


class StreamDamaged(ProtocolError):
    """A stream's data file does not hold what was stored; nothing of that is served."""

    status = 500
    code = "stream-damaged"


class Block(NamedTuple):
    """A block of a data file, and the CRC that its bytes must have."""

    number: int
    length: int
    crc: int


class OpenFile:
    """A stream file that is open for reading, and how many read it now."""

    __slots__ = ("fd", "forgotten", "readers")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.readers = 0
        self.forgotten = False


class FileReader:
    """Reads stream files and keeps the latest open, at most ``most``. Called in the event loop, but
    for :meth:`read_from`.

    Bytes that were found at the start are verified when they are first read.
    """

    def __init__(self, disk: Disk, most: int) -> None:
        self._disk = disk
        self._most = most
        self._open: OrderedDict[int, OpenFile] = OrderedDict()
        self._reported: set[int] = set()

    def read(self, entity: Stored, offset: int, length: int) -> bytes:
        """Exactly ``length`` bytes. Raises :class:`StreamDamaged` and :class:`Unavailable`."""
        file = self._get(entity.number)
        unverified = self.unverified(entity, offset, length) if entity.unverified else ()
        data = self.read_from(file, entity.number, offset, length, unverified)
        if unverified:
            self.verified(entity, unverified)
        return data

    def begin(self, number: int) -> OpenFile:
        """Open a file and keep it so until :meth:`end`, whatever happens to it meanwhile."""
        file = self._get(number)
        file.readers += 1
        return file

    def unverified(self, entity: Stored, offset: int, length: int) -> Sequence[Block]:
        """The blocks that a read has to verify first."""
        end = entity.saved - entity.head.start
        return [
            Block(number, min(BLOCK, end - number * BLOCK), entity.sums.of_block(number))
            for number in blocks(offset, offset + length, entity.unverified)
        ]

    def verified(self, entity: Stored, found: Sequence[Block]) -> None:
        """Count blocks as verified."""
        for block in found:
            entity.unverified &= ~(1 << block.number)

    def end(self, file: OpenFile) -> None:
        file.readers -= 1
        if file.forgotten and not file.readers:
            self._disk.close(file.fd)

    def read_from(
        self,
        file: OpenFile,
        number: int,
        offset: int,
        length: int,
        unverified: Sequence[Block] = (),
    ) -> bytes:
        """Exactly ``length`` bytes, after some blocks were verified; in any thread."""
        for block in unverified:
            begin = block.number * BLOCK
            end = begin + block.length
            data = self._disk.read(file.fd, begin, block.length)
            if len(data) < block.length or zlib.crc32(data) != block.crc:
                raise self._damaged(
                    number, f"bytes {begin} to {end} are not those that were stored"
                )
        data = self._disk.read(file.fd, offset, length)
        if len(data) < length:
            raise self._damaged(
                number, f"it ends at byte {offset + len(data)} and should have {offset + length}"
            )
        return data

    def _damaged(self, number: int, problem: str) -> StreamDamaged:
        error = StreamDamaged(
            f"The data file {file_name(number)} of this stream is damaged: {problem}. Restore the "
            "directory from a backup, or start the server once with ?corruption=set-aside to go on "
            "without this stream. Other streams are served."
        )
        if number not in self._reported:
            self._reported.add(number)
            _log.error("%s", error)
        return error

    def forget(self, number: int) -> None:
        file = self._open.pop(number, None)
        if file is not None:
            self._close(file)

    def close(self) -> None:
        while self._open:
            self._close(self._open.popitem()[1])

    def _get(self, number: int) -> OpenFile:
        opened = self._open
        file = opened.get(number)
        if file is not None:
            opened.move_to_end(number)
            return file
        try:
            file = opened[number] = OpenFile(self._disk.open(file_name(number)))
        except FileNotFoundError as error:
            raise self._damaged(number, "it is missing") from error
        except OSError as error:
            if not is_passing(error):
                raise
            raise Unavailable(
                f"The server had no means to read this ({describe(error)}). Ask again in a moment."
            ) from error
        if len(opened) > self._most:
            self._close(opened.popitem(last=False)[1])
        return file

    def _close(self, file: OpenFile) -> None:
        file.forgotten = True
        if not file.readers:
            self._disk.close(file.fd)
