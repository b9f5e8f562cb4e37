"""Memory of forward passes that cannot be derived: measured at two sizes, and extrapolated."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import psutil
from numpy.typing import NDArray

from stitchsafe.engine import return_freed_memory

__all__ = ["PassMemory", "bytes_of_pass"]


@dataclass(frozen=True, slots=True)
class PassMemory:
    """Bytes of a pass over any number of voxels, rather too many than too few.

    Parameters
    ----------
    passes
        (voxels, bytes) of one measured pass, or of two, the smaller first.
    """

    passes: tuple[tuple[int, int], ...]

    def of(self, voxels: int) -> int:
        """Bytes of a pass over so many voxels.

        In proportion to the larger measured pass, or along the line through both where that is
        more: below it, where some of the memory is not the voxels'. Above it, if memory grew
        faster than the voxels do, it is taken to go on doing so.
        """
        (small, least), (large, most) = self.passes[0], self.passes[-1]
        share = most * voxels / large
        if small == large:
            return math.ceil(max(share, most if voxels < large else 0))
        if voxels <= large:
            slope = max(0.0, (most - least) / (large - small))
            return math.ceil(max(share, most - slope * (large - voxels)))
        power: float = math.log(max(most, 1) / max(least, 1)) / math.log(large / small)
        return math.ceil(most * math.pow(voxels / large, min(max(power, 1.0), 2.0)))


def bytes_of_pass(
    run: Callable[[NDArray[np.floating]], Sequence[NDArray[np.floating]]],
    batch: NDArray[np.floating],
) -> int:
    """How far resident memory rises in one pass; at least twice what goes in and comes out."""
    return_freed_memory()
    with _resident() as peak:
        results = run(batch)
    return max(peak[0], 2 * (batch.nbytes + sum(result.nbytes for result in results)))


@contextmanager
def _resident() -> Iterator[list[int]]:
    """How far resident memory rises while the body runs, watched from beside."""
    process, rise, done = psutil.Process(), [0], threading.Event()
    before = process.memory_info().rss

    def watch() -> None:
        while not done.is_set():
            rise[0] = max(rise[0], process.memory_info().rss - before)
            done.wait(0.0005)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield rise
    finally:
        done.set()
        watcher.join()
