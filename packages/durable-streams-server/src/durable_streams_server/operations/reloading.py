"""Reads files again while the server runs: certificates, access rules, keys."""

import logging
from collections.abc import Sequence
from typing import Protocol

log = logging.getLogger("durable_streams_server.operations")


class Reloadable(Protocol):
    """A part of a server whose file may be read again."""

    @property
    def label(self) -> str:
        """The name of the part for people, such as "the certificate server.pem"."""

    def reload(self) -> str:
        """Take over what the file says now, and return a sentence about it, or an empty text.

        Raises ``OSError`` or ``ValueError`` with a sentence to act on; the part is then as before.
        """


def reload_all(parts: Sequence[Reloadable]) -> bool:
    """Reload every part. One that cannot be read stays as it was, and the log says why.

    Returns whether all could be read.
    """
    whole = True
    for part in parts:
        try:
            said = part.reload()
        except (OSError, ValueError) as error:
            whole = False
            log.error("%s is kept as it was: %s", part.label, error)  # noqa: TRY400 - it says enough
        except Exception:
            whole = False
            log.exception("%s is kept as it was", part.label)
        else:
            log.info("%s was read again%s", part.label, f": {said}" if said else "")
    return whole
