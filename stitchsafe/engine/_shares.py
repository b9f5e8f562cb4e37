"""Which voxels of a volume each cell answers for: together they answer for all that is read.

A cell answers for its own voxels. A cell at a face of the region also answers for the context that
lies outside beside it, and a cell that a mask leaves out answers only where its neighbours read it.
A checksum of each share is kept with its cell: wherever a volume has changed that was read, one of
them tells.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from stitchsafe.coordinates import Roi
from stitchsafe.engine._border import behind, border_map
from stitchsafe.tiling import Recipe, TileGrid

__all__ = ["Shares"]


@dataclass(frozen=True)
class Shares:
    """The shares of all cells of a recipe.

    Parameters
    ----------
    recipe, grid
        What is computed, and its tiles.
    """

    recipe: Recipe
    grid: TileGrid

    def of(self, cell: Roi) -> Roi | None:
        """What a cell answers for: disjoint from all other shares; None where nothing is read."""
        if self.recipe.skips(cell) and not self._reached[self._place(cell)]:
            return None
        roi, reads = self.recipe.roi, self.reads
        return Roi.from_bounds(
            [
                low if begin == first else begin
                for begin, first, low in zip(cell.offset, roi.offset, reads.offset, strict=True)
            ],
            [
                high if end == last else end
                for end, last, high in zip(cell.end, roi.end, reads.end, strict=True)
            ],
        )

    @cached_property
    def reads(self) -> Roi:
        """All that is read, as one box."""
        return behind(self.grid.bounds(self.recipe.roi), self.recipe.extent, self.recipe.border)

    def _place(self, cell: Roi) -> tuple[int, ...]:
        """A cell's position among those of the region."""
        index, first = self.recipe.cells.index(cell), self._first
        return tuple(i - f for i, f in zip(index, first, strict=True))

    @cached_property
    def _first(self) -> tuple[int, ...]:
        sizes = zip(self.recipe.roi.offset, self.recipe.cell_shape, strict=True)
        return tuple(offset // size for offset, size in sizes)

    @cached_property
    def _reached(self) -> NDArray[np.bool_]:
        """For every cell of the region, whether one that is predicted reads of its share."""
        spans = [self._spans(axis) for axis in range(self.recipe.roi.ndim)]
        reached = np.zeros([len(along) for along in spans], bool)
        for place in itertools.product(*(range(len(along)) for along in spans)):
            index = [f + p for f, p in zip(self._first, place, strict=True)]
            if not self.recipe.skips(self.recipe.cells.cell_at(index)):
                reached[tuple(along[at] for along, at in zip(spans, place, strict=True))] = True
        return reached

    def _spans(self, axis: int) -> list[slice]:
        """For each cell along an axis, the cells whose shares its tiles read."""
        recipe, tiling = self.recipe, self.grid.axes[axis]
        begin, end, size = recipe.roi.offset[axis], recipe.roi.end[axis], recipe.cell_shape[axis]
        first, count = begin // size, -(-end // size) - begin // size
        spans = []
        for at in range(first, first + count):
            low, high = tiling.bounds(max(at * size, begin), min((at + 1) * size, end))
            read = border_map(low, high, recipe.extent[axis], recipe.border)
            places = np.clip(np.asarray([read.min(), read.max()]) // size - first, 0, count - 1)
            spans.append(slice(int(places[0]), int(places[1]) + 1))
        return spans
