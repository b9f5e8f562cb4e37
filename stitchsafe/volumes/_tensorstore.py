"""The few things that reading and writing through tensorstore share."""

from __future__ import annotations

import errno
import functools
from pathlib import Path
from typing import Any

import tensorstore

__all__ = ["context", "first_line", "is_disk_full", "open_existing"]


@functools.cache
def context() -> Any:
    """One context for the process. It caches no chunk, so that memory is what the caller holds."""
    return tensorstore.Context({"cache_pool": {"total_bytes_limit": 0}})


def open_existing(path: Path, *, zarr_format: int, write: bool = False) -> Any:
    """Open a local Zarr array.

    Raises
    ------
    ValueError
        tensorstore does not know its metadata or codecs.
    """
    spec = {
        "driver": "zarr3" if zarr_format == 3 else "zarr",
        "kvstore": {"driver": "file", "path": f"{path}/"},
        "recheck_cached_metadata": "open",
        "recheck_cached_data": True,
    }
    return tensorstore.open(
        spec, open=True, read=True, write=write or None, context=context()
    ).result()


def first_line(error: BaseException) -> str:
    """An error's text on one line, short enough to read."""
    text = str(error).split(" [source locations=")[0].split(" [tensorstore_spec=")[0]
    text = " ".join(text.split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."


def is_disk_full(error: BaseException) -> bool:
    """Whether a failed write failed for want of space or quota."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    text = str(error)
    return "No space left" in text or "quota exceeded" in text.lower()
