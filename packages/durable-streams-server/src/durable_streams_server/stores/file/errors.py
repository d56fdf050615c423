"""The meaning of a disk error for a commit: refused for now, or the end of all writing.

| error                              | meaning                                  | a commit gets |
|------------------------------------|------------------------------------------|---------------|
| ``ENOSPC``, ``EDQUOT``, ``EFBIG``  | the disk has no room for this user       | 507           |
| ``EMFILE``, ``ENFILE``, ``ENOMEM`` | no descriptor or memory is free just now | 503           |
| any other, and any failed sync     | the disk may have lost what was stored   | 503 for good  |
"""

import errno
from typing import Final

from durable_streams_core.entities import Refused

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
NO_DESCRIPTOR: Final = frozenset({errno.EMFILE, errno.ENFILE})
_PASSING: Final = FULL | NO_DESCRIPTOR | {errno.ENOMEM}

DISK_FULL: Final = Refused(
    "storage-full",
    "The disk is full and nothing was stored. Make room or delete streams; reading and deleting "
    "go on, and so do appends once there is room.",
)


class WriteFailedError(Exception):
    """The disk failed in a way after which nothing may be written; the cause is the ``OSError``.

    ``unsure`` says that the group may have become durable.
    """

    def __init__(self, *, unsure: bool) -> None:
        super().__init__(unsure)
        self.unsure = unsure


def is_full(error: BaseException) -> bool:
    """Whether the disk has no room."""
    return isinstance(error, OSError) and error.errno in FULL


def is_passing(error: BaseException) -> bool:
    """Whether the same may succeed later, if what it began was taken back. Not for a sync."""
    return isinstance(error, MemoryError) or (
        isinstance(error, OSError) and error.errno in _PASSING
    )


def refusal_of(error: BaseException) -> Refused:
    """The outcome of a commit that a passing error kept from being stored."""
    if is_full(error):
        return DISK_FULL
    return Refused(
        "unavailable",
        f"The server had no means to store this ({describe(error)}), and nothing was stored. Send "
        "it again in a moment.",
    )


def stopped_by(error: BaseException) -> str:
    """Why nothing more is written, from the error that ended it."""
    return (
        f"The disk failed ({describe(error.__cause__ or error)}), so nothing more is written until "
        "the server is started again. Check the disk first; reading goes on."
    )


def describe(error: BaseException) -> str:
    return str(error) or type(error).__name__
