"""The seams of tiles and clustering windows, planes to hold them against, and the faces they make.

Grids of several families may lie in each other (tiles in clustering windows): a plane counts for
the first family that has it, and controls keep off all of them. A *face* is the part of a seam
between the seams that cross it; large ones are looked at in parts, so that a block holds whole
ones.

::

        seam      control     seam
    ──────┊──────────┊──────────┊──────
          a       (a+b)/2       b
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from stitchsafe.coordinates import Roi, floor_to

__all__ = ["SeamGrid", "whole_blocks", "whole_spans"]

_LARGEST = {2: 4096, 3: 256}  # of a face, per axis


@dataclass(frozen=True)
class SeamGrid:
    """The seams of one or several nested grids within a region.

    Parameters
    ----------
    families
        Cell shape by name, the coarser first.
    region
        What is looked at. Its own border is no seam.
    origin
        Where a cell begins; the volume's origin by default.

    Raises
    ------
    ValueError
        A cell shape has another number of axes than the region, or is not positive.
    """

    families: Mapping[str, tuple[int, ...]]
    region: Roi
    origin: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.origin:
            object.__setattr__(self, "origin", (0,) * self.region.ndim)
        for cell in self.families.values():
            if len(cell) != self.region.ndim or any(size < 1 for size in cell):
                raise ValueError(
                    f"the grid {tuple(cell)} does not fit a volume of {self.region.ndim} axes; "
                    "give one positive number of voxels per axis"
                )

    def seams(self, axis: int) -> dict[int, str]:
        """Family of each seam across an axis, by position, in order."""
        begin, end = self.region.offset[axis], self.region.end[axis]
        found: dict[int, str] = {}
        for name, cell in self.families.items():
            first = floor_to(begin - self.origin[axis], cell[axis]) + self.origin[axis]
            for at in range(first + cell[axis], end, cell[axis]):
                found.setdefault(at, name)
        return dict(sorted(found.items()))

    def controls(self, axis: int) -> list[int]:
        """Positions half-way between seams, or the region's border, where there is room."""
        bounds = [self.region.offset[axis], *self.seams(axis), self.region.end[axis]]
        return [(a + b) // 2 for a, b in itertools.pairwise(bounds) if b - a > 1]

    def bounds(self, axis: int) -> list[int]:
        """Where faces begin along an axis, and the end of the last; none is too large."""
        most = _LARGEST[self.region.ndim]
        begin, end = self.region.offset[axis], self.region.end[axis]
        cuts = {begin, end, *self.seams(axis)}
        for a, b in itertools.pairwise(sorted(cuts)):
            cuts.update(range(floor_to(a, most) + most, b, most))
        return sorted(cuts)

    def blocks(self, side: Sequence[int]) -> Iterator[Roi]:
        """The region in blocks of whole faces, of about `side` voxels along each axis."""
        if self.region.size == 0:
            return
        yield from whole_blocks([self.bounds(axis) for axis in range(self.region.ndim)], side)


def whole_blocks(bounds: Sequence[Sequence[int]], side: Sequence[int]) -> Iterator[Roi]:
    """Blocks of whole parts.

    Parameters
    ----------
    bounds
        Along each axis, where parts begin, and the end of the last.
    side
        About so many voxels are in a block along each axis; a larger part is one of its own.
    """
    spans = [whole_spans(*each) for each in zip(bounds, side, strict=True)]
    for corner in itertools.product(*spans):
        yield Roi.from_bounds([begin for begin, _ in corner], [end for _, end in corner])


def whole_spans(bounds: Sequence[int], side: int) -> list[tuple[int, int]]:
    """Blocks of whole parts along one axis: where each begins and ends; see `whole_blocks`."""
    begin, *rest = bounds
    found = []
    for at, after in itertools.zip_longest(rest, rest[1:]):
        if after is None or after - begin > side:
            found.append((begin, at))
            begin = at
    return found
