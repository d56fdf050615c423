"""Stream paths: which there are, and what a hostile one looks like (§12.2).

A path is relative to the stream root, without a leading slash, percent-decoded UTF-8, with
segments separated by ``/``. An encoded slash is refused rather than decoded: servers in front
disagree on it, and two names for one stream are a way round access rules.
"""

import re
from functools import lru_cache
from typing import Final
from urllib.parse import unquote_to_bytes

from durable_streams_core.errors import InvalidRequest
from durable_streams_core.protocol import RESERVED_SEGMENT

__all__ = ["check_path", "decode_path", "percent_decoded"]

MAX_PATH_BYTES: Final = 1024

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028\u2029]")
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_PLAIN: Final = re.compile(r"[A-Za-z0-9_~-][A-Za-z0-9._~-]*(?:/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)*")


@lru_cache(maxsize=4096)
def decode_path(raw: str, max_bytes: int = MAX_PATH_BYTES) -> str:
    """The path in a request target, still percent-encoded there; raises :class:`InvalidRequest`."""
    if len(raw) > 3 * max_bytes:
        raise _too_long(max_bytes)
    if "%" not in raw and raw.isascii():
        return check_path(raw, max_bytes)
    if "%2f" in raw.lower() or "%5c" in raw.lower():
        raise InvalidRequest(
            "An encoded slash or backslash cannot be part of a stream path; use other names.",
            code="invalid-path",
        )
    try:
        decoded = percent_decoded(raw)
    except ValueError:
        raise InvalidRequest(
            "Percent-encode the stream path as UTF-8.", code="invalid-path"
        ) from None
    return check_path(decoded, max_bytes)


def percent_decoded(raw: str) -> str:
    """Text that is percent-encoded UTF-8 (RFC 3986 §2.1).

    Raises ``ValueError`` for text that is not ASCII, for a ``%`` without two hexadecimal digits,
    and for escapes that are not UTF-8.
    """
    if _BAD_ESCAPE.search(raw) or not raw.isascii():
        raise ValueError("This is not percent-encoded.")
    return unquote_to_bytes(raw).decode()


def check_path(path: str, max_bytes: int = MAX_PATH_BYTES) -> str:
    """The path itself, if a stream may have it; raises :class:`InvalidRequest`."""
    if len(path) > max_bytes or (
        not path.isascii() and len(path.encode(errors="replace")) > max_bytes
    ):
        raise _too_long(max_bytes)
    if _PLAIN.fullmatch(path) is None:
        if _CONTROL.search(path) or "\\" in path:
            raise InvalidRequest(
                "A stream path holds no control characters and no backslash.", code="invalid-path"
            )
        for segment in path.split("/"):
            if segment in ("", ".", ".."):
                raise InvalidRequest(
                    "A stream path has no empty, '.' or '..' segments.", code="invalid-path"
                )
    if path == RESERVED_SEGMENT or path.startswith(RESERVED_SEGMENT + "/"):
        raise InvalidRequest(
            f"Paths under {RESERVED_SEGMENT}/ are reserved for the control API.",
            code="reserved-path",
        )
    return path


def _too_long(max_bytes: int) -> InvalidRequest:
    return InvalidRequest(
        f"The stream path is longer than {max_bytes} bytes.", code="path-too-long", status=414
    )
