"""What goes wrong between the sections of a stack: missing ones, and shifted ones.

Electron microscopes see one section after another, along the first axis. A section may be lost,
and then shows nothing, though its labels are known; or it lies a few voxels off its neighbours,
alone or with all that follow, and its labels with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Sections"]


@dataclass(frozen=True)
class Sections:
    """How often sections are lost or shifted.

    Parameters
    ----------
    missing
        Probability of each section to be lost.
    shifted
        Probability of each section to be shifted; of two such, one takes along all that follow.
    shift
        The largest shift along each of the other axes, in voxels, of all shifts together.
    """

    missing: float = 0.0
    shifted: float = 0.0
    shift: int = 0

    def draw_missing(self, count: int, generator: np.random.Generator) -> npt.NDArray[np.bool_]:
        """Which of so many sections are lost."""
        return np.asarray(generator.uniform(size=count) < self.missing)

    def draw_shifts(
        self, count: int, axes: int, generator: np.random.Generator
    ) -> npt.NDArray[np.int64]:
        """``(count, axes)``: how far each section is shifted, in voxels."""
        moved = generator.uniform(size=(count, 1)) < self.shifted
        follow = generator.uniform(size=(count, 1)) < 0.5
        by = generator.integers(-self.shift, self.shift + 1, (count, axes)) * moved
        drift = np.where(follow, by, 0).cumsum(0)
        return np.asarray(np.clip(np.where(follow, 0, by) + drift, -self.shift, self.shift))
