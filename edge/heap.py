"""How the hub's memory stays small for months: glibc's heap told to keep no more than it uses.

glibc gives each thread a heap of its own, and after the first large block is freed it takes later ones from the
heap, where what is freed stays. Other C libraries (musl) have neither habit and no such call.
"""

from __future__ import annotations

import ctypes
from typing import Final

# Parameters of malloc.h. Fixing the thresholds also ends their growing by themselves.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8
_BLOCK_BYTES: Final = 64 * 1024  # compiled modules, TLS buffers and unpacked segments are larger


def keep_heap_small() -> None:
    """Call it before the large imports and before the first thread."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, _BLOCK_BYTES)
        mallopt(_M_TRIM_THRESHOLD, 2 * _BLOCK_BYTES)
