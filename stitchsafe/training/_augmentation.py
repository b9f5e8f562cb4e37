"""Flips, turns by 90° and intensity changes, drawn from one generator.

Turns swap axes only where the window is as long and the voxels as large along both, so an
anisotropic stack is turned about its long axis alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Intensity", "Symmetry", "draw_symmetry"]


@dataclass(frozen=True)
class Symmetry:
    """A permutation of the spatial axes and flips, applied to the last axes of an array."""

    order: tuple[int, ...]
    flips: tuple[bool, ...]

    def apply(self, array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        leading = array.ndim - len(self.order)
        turned = array.transpose(*range(leading), *(leading + axis for axis in self.order))
        flipped = tuple(leading + axis for axis, flip in enumerate(self.flips) if flip)
        return np.ascontiguousarray(np.flip(turned, flipped))


def draw_symmetry(
    generator: np.random.Generator, alike: Sequence[object], *, enabled: bool = True
) -> Symmetry:
    """A random symmetry that only swaps axes whose entries in `alike` are equal."""
    ndim = len(alike)
    if not enabled:
        return Symmetry(tuple(range(ndim)), (False,) * ndim)
    order = list(range(ndim))
    for kind in dict.fromkeys(alike):
        group = [axis for axis in range(ndim) if alike[axis] == kind]
        for axis, source in zip(group, generator.permutation(group), strict=True):
            order[axis] = int(source)
    return Symmetry(tuple(order), tuple(bool(f) for f in generator.integers(0, 2, ndim)))


@dataclass(frozen=True)
class Intensity:
    """Half-ranges of contrast, brightness and gamma, and the largest noise, of normalised data."""

    contrast: float = 0.0
    brightness: float = 0.0
    gamma: float = 0.0
    noise: float = 0.0
    invert: float = 0.0

    def apply(
        self, image: npt.NDArray[np.float32], generator: np.random.Generator
    ) -> npt.NDArray[np.float32]:
        """A changed copy of ``(c, *spatial)``; the same draw for all voxels but the noise."""
        scale, shift, power, flip = generator.uniform(-1, 1, 4)
        sigma = generator.uniform(0, self.noise) if self.noise else 0.0
        result = image
        if self.invert and (flip + 1) / 2 < self.invert:
            result = 1.0 - result
        if self.gamma:
            exponent = np.exp(self.gamma * power)
            result = np.sign(result) * np.abs(result) ** exponent
        result = result * (1 + self.contrast * scale) + self.brightness * shift
        if sigma:
            result = result + generator.normal(0, sigma, result.shape)
        return np.asarray(result, dtype=np.float32)
