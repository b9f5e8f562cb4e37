"""Regions of a volume in voxels, and the arithmetic of grids.

A :class:`Roi` is half-open and knows nothing of voxel sizes: those are metadata of a volume. Every
grid in this package (tiles, clustering windows, blocks, chunks) is anchored at the volume's origin,
so that a position belongs to the same cell whatever region is asked for.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

__all__ = ["CellGrid", "Roi", "ceil_to", "floor_to", "grid_cells"]


def floor_to(value: int, multiple: int) -> int:
    """Largest multiple of `multiple` that is not above `value`."""
    return value // multiple * multiple


def ceil_to(value: int, multiple: int) -> int:
    """Smallest multiple of `multiple` that is not below `value`."""
    return -(-value // multiple) * multiple


@dataclass(frozen=True, slots=True, order=True)
class Roi:
    """A half-open box of voxels, ``offset <= position < offset + shape``.

    Parameters
    ----------
    offset, shape
        One integer per spatial axis, in voxels. Offsets may be negative (a region that reaches out
        of the volume); shapes may not.
    """

    offset: tuple[int, ...]
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.offset) != len(self.shape):
            raise ValueError(f"offset {self.offset} and shape {self.shape} differ in length")
        if any(size < 0 for size in self.shape):
            raise ValueError(f"a region cannot have the negative shape {self.shape}")

    @classmethod
    def from_bounds(cls, begin: Sequence[int], end: Sequence[int]) -> Roi:
        """The region from `begin` up to, not including, `end`; empty where they cross."""
        return cls(tuple(begin), tuple(max(0, e - b) for b, e in zip(begin, end, strict=True)))

    @classmethod
    def around(cls, boxes: Iterable[Roi]) -> Roi:
        """The smallest box that holds some boxes, of which there is at least one."""
        offsets, ends = zip(*((box.offset, box.end) for box in boxes), strict=True)
        return cls.from_bounds(list(map(min, *offsets, offsets[0])), list(map(max, *ends, ends[0])))

    @classmethod
    def whole(cls, shape: Sequence[int]) -> Roi:
        """The region of a volume of this shape."""
        return cls((0,) * len(shape), tuple(shape))

    @property
    def ndim(self) -> int:
        return len(self.offset)

    @property
    def end(self) -> tuple[int, ...]:
        return tuple(o + s for o, s in zip(self.offset, self.shape, strict=True))

    @property
    def size(self) -> int:
        """Number of voxels."""
        return math.prod(self.shape)

    @property
    def slices(self) -> tuple[slice, ...]:
        """Index of the region in the array of the volume (offsets must not be negative)."""
        return tuple(slice(o, e) for o, e in zip(self.offset, self.end, strict=True))

    def shift(self, by: Sequence[int]) -> Roi:
        return Roi(tuple(o + d for o, d in zip(self.offset, by, strict=True)), self.shape)

    def relative_to(self, other: Roi) -> Roi:
        """The same region in the coordinates of `other`'s corner."""
        return self.shift(tuple(-o for o in other.offset))

    def grow(self, before: Sequence[int], after: Sequence[int]) -> Roi:
        """The region with a margin on every side (a negative margin shrinks it)."""
        return Roi.from_bounds(
            tuple(o - m for o, m in zip(self.offset, before, strict=True)),
            tuple(e + m for e, m in zip(self.end, after, strict=True)),
        )

    def intersect(self, other: Roi) -> Roi:
        """What both regions share; an empty region where they share nothing."""
        return Roi.from_bounds(
            tuple(map(max, self.offset, other.offset)), tuple(map(min, self.end, other.end))
        )

    def contains(self, other: Roi) -> bool:
        return all(
            a <= c and d <= b
            for a, b, c, d in zip(self.offset, self.end, other.offset, other.end, strict=True)
        )

    def align_outward(self, multiple: Sequence[int]) -> Roi:
        """The smallest region on the grid of `multiple` that contains this one."""
        return Roi.from_bounds(
            tuple(map(floor_to, self.offset, multiple)), tuple(map(ceil_to, self.end, multiple))
        )

    def __str__(self) -> str:
        return ",".join(f"{o}:{e}" for o, e in zip(self.offset, self.end, strict=True))


def grid_cells(region: Roi, cell: Sequence[int]) -> Iterator[Roi]:
    """Cells of the grid anchored at 0 that meet `region`, each clipped to it, in raster order."""
    if region.size == 0:
        return
    starts = [
        range(floor_to(o, c), e, c) for o, e, c in zip(region.offset, region.end, cell, strict=True)
    ]
    for corner in itertools.product(*starts):
        yield Roi(corner, tuple(cell)).intersect(region)


@dataclass(frozen=True, slots=True)
class CellGrid:
    """The cells of a region, each known by its position on the grid anchored at 0.

    Parameters
    ----------
    region
        What the cells cover together; cells at its edge are clipped to it.
    cell_shape
        Shape of a cell that is not clipped.
    """

    region: Roi
    cell_shape: tuple[int, ...]

    def cells(self, part: Roi | None = None) -> Iterator[Roi]:
        """Cells that meet `part` (all by default), clipped to it, in raster order."""
        within = self.region if part is None else self.region.intersect(part)
        return grid_cells(within, self.cell_shape)

    def blocks(self, block_shape: Sequence[int]) -> Iterator[Roi]:
        """The region in portions of `block_shape`, clipped, in raster order."""
        return grid_cells(self.region, block_shape)

    def index(self, cell: Roi) -> tuple[int, ...]:
        """Position of a (clipped) cell on the grid."""
        return tuple(o // c for o, c in zip(cell.offset, self.cell_shape, strict=True))

    def cell_at(self, index: Sequence[int]) -> Roi:
        """The cell at a position of the grid, clipped to the region."""
        corner = tuple(i * c for i, c in zip(index, self.cell_shape, strict=True))
        return Roi(corner, self.cell_shape).intersect(self.region)
