"""How the C allocator of a process that is a server treats large blocks.

glibc gives memory back to the system as soon as it is free, and gets it again a moment later, a
page fault for every 4 KiB of it. For bodies of 1 MiB that costs more than storing them does. A
process that serves streams keeps what it once needed, up to a bound, as other runtimes do.
"""

import ctypes
import os
from typing import Final

KEPT_BYTES: Final = 512 * 1024 * 1024
"""Free memory that the process keeps."""

LARGEST_KEPT: Final = 4 * 1024 * 1024
"""Larger blocks go back to the system when they are freed. Kept, a few of them would leave holes in
the heap, and it would grow by one for each new size."""

# From malloc.h.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3

_CHOSEN: Final = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
"""Variables by which the user has set the allocator already."""


def keep_large_blocks() -> None:
    """Keep freed memory for the next large block. Does nothing without glibc."""
    if any(name in os.environ for name in _CHOSEN):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(_M_MMAP_THRESHOLD, LARGEST_KEPT)
    mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
