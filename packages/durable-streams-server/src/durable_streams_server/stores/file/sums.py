"""The checksums of a data file: a CRC of each block, so that a read verifies just what it needs."""

import zlib
from collections.abc import Iterator
from typing import Final

import msgspec

BLOCK: Final = 256 * 1024
_LENGTH: Final = 4


class Sums(msgspec.Struct, frozen=True, gc=False):
    """``full`` is the CRCs of all whole blocks, four bytes each; ``rest`` that of what follows."""

    full: bytes = b""
    rest: int = 0

    def of_block(self, number: int) -> int:
        begin = number * _LENGTH
        if begin == len(self.full):
            return self.rest
        return int.from_bytes(self.full[begin : begin + _LENGTH], "little")


NO_SUMS: Final = Sums()


def unknown_sums(length: int) -> Sums:
    """What no file of this length has, but for chance."""
    return Sums(bytes(length // BLOCK * _LENGTH), 0)


def extend(sums: Sums, length: int, data: bytes | bytearray | memoryview) -> Sums:
    """The sums after ``data`` is added to a file of ``length`` bytes."""
    room = BLOCK - length % BLOCK
    if len(data) < room:
        return Sums(sums.full, zlib.crc32(data, sums.rest))
    full, rest = [sums.full], sums.rest
    begin = 0
    with memoryview(data) as view:
        while len(view) - begin >= room:
            crc = zlib.crc32(view[begin : begin + room], rest)
            full.append(crc.to_bytes(_LENGTH, "little"))
            begin, room, rest = begin + room, BLOCK, 0
        return Sums(b"".join(full), zlib.crc32(view[begin:], rest))


def all_blocks(length: int) -> int:
    """A bit for each block of a file of ``length`` bytes."""
    return (1 << -(-length // BLOCK)) - 1


def blocks(begin: int, end: int, among: int) -> Iterator[int]:
    """The numbers of the blocks with a byte from ``begin`` to ``end``, of those ``among``."""
    for number in range(begin // BLOCK, -(-end // BLOCK)):
        if among >> number & 1:
            yield number
