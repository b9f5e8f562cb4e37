"""Fields as arrays over a volume: where the elements of an output of any scale lie.

A field of scale ``s`` has ``s`` elements per voxel along an axis, element 0 at voxel 0, so that
element ``j`` covers the voxels from ``j / s`` to ``(j + 1) / s``. Tiles and cells begin at
multiples of the period, where an element begins too: so they share no element.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from stitchsafe.coordinates import Roi

__all__ = ["Field"]


@dataclass(frozen=True, slots=True)
class Field:
    """One dense output of the network over the volume.

    Parameters
    ----------
    name, channels
        As the network has it.
    scale
        Elements per voxel, per axis.
    """

    name: str
    channels: int
    scale: tuple[Fraction, ...]

    @property
    def on_voxels(self) -> bool:
        """Whether every element is a voxel."""
        return all(scale == 1 for scale in self.scale)

    def elements(self, region: Roi) -> Roi:
        """The elements that cover a region of the volume."""
        return Roi.from_bounds(
            [math.floor(o * s) for o, s in zip(region.offset, self.scale, strict=True)],
            [math.ceil(e * s) for e, s in zip(region.end, self.scale, strict=True)],
        )

    def shape(self, extent: Sequence[int]) -> tuple[int, ...]:
        """Elements per axis over a volume (or a tile, or a cell) of this shape."""
        return self.elements(Roi.whole(extent)).shape

    def box(self, region: Roi) -> Roi:
        """The elements that cover a region, all channels in front."""
        elements = self.elements(region)
        return Roi((0, *elements.offset), (self.channels, *elements.shape))

    def density(self) -> Fraction:
        """Numbers per voxel, all channels together."""
        return self.channels * math.prod(self.scale, start=Fraction(1))
