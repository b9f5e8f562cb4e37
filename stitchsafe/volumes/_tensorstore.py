"""The few things that reading and writing through tensorstore share."""

from __future__ import annotations

import errno
import functools
import os
from typing import Any

import tensorstore

__all__ = ["RETRIES", "context", "first_line", "is_disk_full", "open_existing"]

RETRIES = "STITCHSAFE_RETRIES"
"""The environment variable that says how often a request to a server is made again."""

_STALLED_SECONDS = "30"


@functools.cache
def context() -> Any:
    """One context for the process. It caches no chunk, so that memory is what the caller holds.

    A request that a server does not answer, or answers with an error of its own, is made again a
    bounded number of times, each after a longer pause; one that stalls counts as not answered.
    """
    # Read when the first request is made; what the user has set stands.
    os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_TIME_SECONDS", _STALLED_SECONDS)
    os.environ.setdefault("TENSORSTORE_CURL_LOW_SPEED_LIMIT_BYTES", "1")
    given = os.environ.get(RETRIES, "")
    retries = {
        "max_retries": max(1, int(given)) if given.isdecimal() else 6,
        "initial_delay": "250ms",
        "max_delay": "4s",
    }
    return tensorstore.Context(
        {
            "cache_pool": {"total_bytes_limit": 0},
            "s3_request_retries": retries,
            "http_request_retries": retries,
        }
    )


def open_existing(kvstore: dict[str, Any], *, zarr_format: int, write: bool = False) -> Any:
    """Open the Zarr array that a key-value store holds.

    Raises
    ------
    ValueError
        tensorstore does not know its metadata or codecs.
    """
    spec = {
        "driver": "zarr3" if zarr_format == 3 else "zarr",
        "kvstore": kvstore,
        "recheck_cached_metadata": "open",
        "recheck_cached_data": True,
    }
    return tensorstore.open(
        spec, open=True, read=True, write=write or None, context=context()
    ).result()


def first_line(error: BaseException) -> str:
    """An error's text on one line, short enough to read."""
    text = " ".join(str(error).split("[source locations=")[0].split()) or type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."


def is_disk_full(error: BaseException) -> bool:
    """Whether a failed write failed for want of space or quota."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    text = str(error)
    return "No space left" in text or "quota exceeded" in text.lower()
