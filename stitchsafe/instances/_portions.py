"""Work in portions of bounded size."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = ["portions"]


def portions(sizes: NDArray[np.int64], most: int) -> Iterator[tuple[int, int]]:
    """Runs of consecutive sizes that add up to at most so much, or are one."""
    total, bounds = 0, [0]
    for at, size in enumerate(sizes.tolist()):
        if total and total + size > most:
            bounds.append(at)
            total = 0
        total += size
    bounds.append(len(sizes))
    yield from (pair for pair in pairwise(bounds) if pair[1] > pair[0])
