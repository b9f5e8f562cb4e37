"""How an example may differ from what the volume shows: all drawn from one generator.

In this order: turns and changes of size, elastic deformation, and shifted sections, which together
are one displacement of image and labels; flips and turns by 90°; changes of intensity, and noise;
missing sections.

Turns swap axes only where the window is as long and the voxels as large along both, so an
anisotropic stack is turned about its long axis alone. A displaced box reads as much more of the
volume as the displacement reaches out of it, so no border comes into a window.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from stitchsafe.coordinates import Roi
from stitchsafe.training._deformation import Displacement, Elastic, margins, warp
from stitchsafe.training._sections import Sections
from stitchsafe.training._turning import Turning

__all__ = ["Bending", "Intensity", "Symmetry", "View", "draw_symmetry"]


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


@dataclass(frozen=True)
class View:
    """A part of a volume as a displacement shows it.

    Parameters
    ----------
    box
        What is displaced, in voxels of the volume.
    displacement
        ``(ndim, *box.shape)`` in voxels.
    """

    box: Roi
    displacement: Displacement

    def see(
        self, read: Callable[[Roi], npt.NDArray[np.generic]], part: Roi, *, order: int
    ) -> npt.NDArray[np.generic]:
        """A part of the box, ``(…, *part.shape)``, from what `read` has in the places shown there.

        `order` is 1 for intensities and 0 for labels.
        """
        moved = self.displacement[(slice(None), *part.relative_to(self.box).slices)]
        before, after = zip(*margins(moved), strict=True)
        array = read(part.grow(before, after))
        flat = array.reshape(-1, *array.shape[array.ndim - part.ndim :])
        seen = np.stack([warp(channel, moved, before, order=order) for channel in flat])
        return seen.reshape(*array.shape[: array.ndim - part.ndim], *part.shape)


@dataclass(frozen=True)
class Bending:
    """What may displace voxels; along the first axis lie the sections."""

    elastic: Elastic | None = None
    sections: Sections | None = None
    turning: Turning | None = None

    def draw(self, box: Roi, generator: np.random.Generator) -> View | None:
        """A displacement of a box, or none where nothing may displace anything."""
        shifted = self.sections is not None and self.sections.shifted > 0
        smooth = [each for each in (self.turning, self.elastic) if each is not None]
        if not smooth and not shifted:
            return None
        displacement = np.zeros((box.ndim, *box.shape))
        for each in smooth:
            displacement += each.draw(box.shape, generator)
        if self.sections is not None and shifted:
            shifts = self.sections.draw_shifts(box.shape[0], box.ndim - 1, generator)
            displacement[1:] += shifts.T.reshape(box.ndim - 1, -1, *(1,) * (box.ndim - 1))
        return View(box, displacement)
