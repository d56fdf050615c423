"""What an acknowledgement promises, as a choice.

* ``memory``: in the master's memory. Nothing is asked of the server.
* ``everysec``: there, and on its disk within a second or two. The server must keep an append-only
  file.
* ``always``: on the master's disk. The server must have ``appendfsync always``.
* ``wait:N``: in the memory of N replicas too: ``WAIT`` goes last in the same pipeline.
* ``waitaof:L,N``: on the disk of the master (L is 0 or 1) and of N replicas: ``WAITAOF`` does.

With the last two others may see a commit before it is confirmed; one that is not confirmed in time
is outcome unknown.
"""

import re
from dataclasses import dataclass
from typing import Final

from durable_streams_core.errors import StoreError
from durable_streams_redis.scripts import pack
from durable_streams_redis.servers import Reply

CHOICES: Final = "memory, everysec, always, wait:N or waitaof:L,N"

_SHAPE: Final = re.compile(r"(memory|everysec|always)|wait:(\d{1,2})|waitaof:([01]),(\d{1,2})")


@dataclass(frozen=True, slots=True)
class Durability:
    """When a commit counts as stored, and the commands that make it so."""

    name: str
    last: bytes = b""
    """The command that goes last in each pipeline of commits."""
    wanted: tuple[int, ...] = ()
    patience: float = 0.0
    """How many seconds it may take."""

    def confirmed(self, reply: Reply) -> bool:
        """Whether enough servers have said that they have it."""
        if not self.last:
            return True
        counts = [reply] if isinstance(reply, int) else reply
        return (
            isinstance(counts, list)
            and len(counts) == len(self.wanted)
            and all(have >= want for have, want in zip(counts, self.wanted, strict=True))
        )


def parse_durability(text: str, patience: float) -> Durability:
    """The durability of an option such as ``wait:1``; ``patience`` is seconds.

    Raises :class:`StoreError` for any other text.
    """
    match = _SHAPE.fullmatch(text)
    if match is None:
        raise StoreError(f"{text!r} is no durability: give {CHOICES}.")
    name, replicas, local, disks = match.groups()
    milliseconds = b"%d" % int(patience * 1000)
    if name:
        return Durability(name)
    if replicas:
        if int(replicas) == 0:
            raise StoreError("wait:0 waits for nothing: use memory, or wait:1 or more.")
        return Durability(
            text, pack(b"WAIT", replicas.encode(), milliseconds), (int(replicas),), patience
        )
    return Durability(
        text,
        pack(b"WAITAOF", local.encode(), disks.encode(), milliseconds),
        (int(local), int(disks)),
        patience,
    )
