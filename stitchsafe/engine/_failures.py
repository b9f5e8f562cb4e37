"""What goes wrong part-way: whose fault it is, and what is said of it.

A damaged chunk, or a network that overflows, is a block's own misfortune: the rest can be finished
without it. A full disk, a want of memory, a lease that was lost or an interruption stop the run.
"""

from __future__ import annotations

import errno
import pickle
import traceback
from collections.abc import Sequence
from typing import NoReturn

from stitchsafe.coordinates import Roi
from stitchsafe.errors import (
    InputError,
    InterruptedRunError,
    MemoryShortageError,
    StitchsafeError,
    VolumeError,
)
from stitchsafe.volumes import PlaceError

__all__ = ["out_of_memory", "portable", "raise_interrupted", "set_aside", "stops_the_run"]

_NAMED = 5
_NO_MEMORY = ("allocate memory", "out of memory")


def stops_the_run(error: Exception) -> bool:
    """Whether it concerns more than the block at which it showed."""
    if isinstance(error, VolumeError):
        return False  # what cannot be read there
    if isinstance(error, InterruptedRunError | InputError):
        return True
    return isinstance(error, PlaceError) or _disk_is_full(error) or out_of_memory(error)


def raise_interrupted(stage: str, what: str, error: Exception) -> NoReturn:
    """Say of an error that it stopped the run, unless it says so, or blames the input, itself."""
    if isinstance(error, InterruptedRunError | InputError) and not isinstance(error, VolumeError):
        raise error
    kind: type[InterruptedRunError] = InterruptedRunError
    if _disk_is_full(error):
        reason, remedy = "the disk is full", "free some space"
    elif out_of_memory(error):
        kind = MemoryShortageError
        reason, remedy = (
            f"memory ran out ({said(error)})",
            "free some, or give less work at a time,",
        )
    else:
        reason, remedy = said(error), "mend that"
    raise kind(
        f"stage {stage!r} stopped at {what}: {reason}; {remedy} and run the same command again: "
        "it goes on from there"
    ) from error


def set_aside(stage: str, failed: Sequence[tuple[Roi, Exception]], left: int) -> Exception:
    """The error to raise when all but some blocks are done.

    Parameters
    ----------
    left
        Blocks that were not tried any more, since too many failed.
    """
    named = "; ".join(f"block {block}: {said(error)}" for block, error in failed[:_NAMED])
    more = f"; and {len(failed) - _NAMED} more" if len(failed) > _NAMED else ""
    rest = f"{left} blocks were not tried any more" if left else "all other blocks are done"
    return InterruptedRunError(
        f"stage {stage!r} could not do {len(failed)} of its blocks ({named}{more}), while {rest}; "
        "mend that and run the same command again: it goes on from there"
    )


def said(error: Exception) -> str:
    """An error as part of a line."""
    text = " ".join(str(error).split())[:500]
    if isinstance(error, StitchsafeError | OSError | MemoryError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def portable(error: Exception) -> Exception:
    """The error, or one that says the same, in a form that survives being pickled."""
    said = "".join(traceback.format_exception(error))
    try:
        copy: Exception = pickle.loads(pickle.dumps(error))
    except Exception:
        copy = RuntimeError(f"{type(error).__name__}: {error}")
    copy.add_note(f"In a worker process:\n{said}")
    return copy


def out_of_memory(error: Exception) -> bool:
    """Whether memory ran out; torch says so by a plain RuntimeError."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _NO_MEMORY)
    )


def _disk_is_full(error: Exception) -> bool:
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
