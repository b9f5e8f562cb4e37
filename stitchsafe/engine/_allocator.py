"""Freed memory goes back to the system, so that what is resident is what is in use.

The C library of Linux raises, as large buffers come and go, the size from which on it asks the
system for each one; what it keeps instead is neither free for others nor predictable. A fixed size
turns that off.
"""

from __future__ import annotations

import ctypes
import sys

__all__ = ["return_freed_memory"]

_MMAP_THRESHOLD = -3
_ARENA_MAX = -8


def return_freed_memory() -> None:
    """Ask the allocator of this process to give large buffers back as soon as they are freed."""
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, 1 << 20)
        mallopt(_ARENA_MAX, 4)
