"""Districts: boxes of whole clustering windows that are merged together, and larger regions.

Districts lie on the grid anchored at 0 as windows do. Regions of a level are twice as large along
each axis as those of the level below; districts are level 0, and on the last level one region is
all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from stitchsafe.coordinates import CellGrid, Roi

__all__ = ["MERGING_BYTES", "Districts", "choose_districts"]

Index = tuple[int, ...]
Int64 = NDArray[np.int64]

DISTRICT_BYTES = 2**25
"""Evidence of a district, unless one window has more."""

MERGING_BYTES = 3 * DISTRICT_BYTES
"""Memory of any stage but the walk, as measured, unless one window has more evidence."""

_SEGMENT_BYTES = 256


def choose_districts(
    cells: CellGrid, segments: Mapping[Index, int], *, grown: bool = False
) -> tuple[int, ...]:
    """Shape of districts, in voxels: as many windows as have evidence for one portion of memory.

    Parameters
    ----------
    cells
        The clustering windows.
    segments
        How many each has.
    grown
        Whether segments have grown, so that faces are kept of them too.
    """
    shape = np.asarray(cells.cell_shape)
    faces = sum(int(np.prod(np.delete(shape, axis))) for axis in range(len(shape)))
    planes = (16 if grown else 8) * faces
    corner = np.asarray(cells.index(cells.region))
    grid = np.zeros(-(-np.asarray(cells.region.end) // shape) - corner, np.int64)
    for index, count in segments.items():
        grid[tuple(np.asarray(index) - corner)] = count * _SEGMENT_BYTES + planes
    factor = 1
    while (
        factor < max(corner + grid.shape) and _fullest(grid, corner, 2 * factor) <= DISTRICT_BYTES
    ):
        factor *= 2
    return tuple(int(size) * factor for size in shape)


def _fullest(grid: Int64, corner: Int64, factor: int) -> int:
    """The largest sum over boxes of cells, on the grid anchored at 0."""
    for axis, begin in enumerate(corner):
        bounds = np.arange(grid.shape[axis]) + begin
        starts = np.flatnonzero(np.diff(bounds // factor, prepend=-1))
        grid = np.add.reduceat(grid, starts, axis=axis)
    return int(grid.max(initial=0))


@dataclass(frozen=True)
class Districts:
    """Where segments lie.

    Parameters
    ----------
    windows
        The clustering windows.
    extent
        Shape of the volume, whose raster order names segments.
    grid
        The districts.
    """

    windows: CellGrid
    extent: tuple[int, ...]
    grid: CellGrid

    @cached_property
    def levels(self) -> int:
        """The level on which one region is all."""
        level = 0
        while len(list(self.regions(level).cells())) > 1:
            level += 1
        return level

    def regions(self, level: int) -> CellGrid:
        """Regions of a level."""
        return CellGrid(self.grid.region, tuple(size << level for size in self.grid.cell_shape))

    def homes(self, names: Int64, level: int = 0) -> Int64:
        """Index of the region in which first voxels lie, int64 ``(names, ndim)``."""
        positions = np.stack(np.unravel_index(names, self.extent), axis=-1)
        return np.asarray(positions // np.asarray(self.regions(level).cell_shape), np.int64)

    def windows_of(self, names: Int64) -> list[Roi]:
        """The windows in which first voxels lie."""
        positions = np.stack(np.unravel_index(names, self.extent), axis=-1)
        indices = np.unique(positions // np.asarray(self.windows.cell_shape), axis=0)
        return [self.windows.cell_at(index) for index in indices.tolist()]

    def beside(self, window: Roi, axis: int, step: int) -> Roi | None:
        """The window before or after another one along an axis, if there is one."""
        index = list(self.windows.index(window))
        index[axis] += step
        found = self.windows.cell_at(index)
        return found if found.size else None

    def slabs(self) -> Iterator[list[Index]]:
        """Districts that lie side by side, along the first axis."""
        indices = list(map(self.grid.index, self.grid.cells()))
        for at in sorted({index[0] for index in indices}):
            yield [index for index in indices if index[0] == at]

    @property
    def depth(self) -> int:
        """Slices of a slab."""
        return self.grid.cell_shape[0]

    def slices(self, names: Int64) -> Int64:
        """The slice across the first axis in which each first voxel lies."""
        return names // int(np.prod(self.extent[1:]))
