"""The log of aiohttp's servers, less what a malformed request holds.

aiohttp logs such a request as an error, with a traceback that quotes its line or its header: a
token, or a signed URL.
"""

import logging
from typing import Final

from aiohttp.http_exceptions import HttpProcessingError

log: Final = logging.getLogger("durable_streams_server.frontends.aiohttp")
"""Give it to a runner as ``logger``."""


class _Malformed(logging.Filter):
    """Says of a malformed request what kind of fault it has, and nothing else."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, HttpProcessingError):
            record.msg = "a malformed request was refused (%s)"
            record.args = (type(error).__name__,)
            record.exc_info = record.exc_text = None
            record.levelno = min(record.levelno, logging.WARNING)
            record.levelname = logging.getLevelName(record.levelno)
        return True


log.addFilter(_Malformed())
