"""What the seams of a grid have done to labels, against the truth.

A *pair* is two neighbouring voxels with a seam between them. Where both are of one true instance
and their labels differ, the seam has split it; where they are of two true instances and share a
label, it has merged them. Voxels that are 0 in the truth count in no pair; a label that is 0 on one
side only is a split like any other. Not every such pair is the seam's fault: planes half-way
between seams are measured as well, and a seam does harm as far as its rates exceed theirs.

::

        seam      control     seam
    ──────┊──────────┊──────────┊──────
          a       (a+b)/2       b

Grids of several families may lie in each other (tiles in clustering windows): a plane counts for
the first family that has it, and controls keep off all of them. A *face* is the part of a seam
between the seams that cross it; large ones are looked at in parts, so that a block holds whole ones
and none has to be remembered but the worst.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stitchsafe.coordinates import Roi
from stitchsafe.seam_grid import SeamGrid

__all__ = ["Face", "PairScores", "SeamScores", "SeamTally"]

Labels = npt.NDArray[Any]

_WORST = 10


@dataclass(frozen=True)
class PairScores:
    """Counts of pairs, which add up.

    Parameters
    ----------
    inside, false_splits
        Pairs within one true instance, and those of them whose labels differ.
    between, false_merges
        Pairs of two true instances, and those of them that share a label other than 0.
    """

    inside: int = 0
    false_splits: int = 0
    between: int = 0
    false_merges: int = 0

    def __add__(self, other: PairScores) -> PairScores:
        return PairScores(
            self.inside + other.inside,
            self.false_splits + other.false_splits,
            self.between + other.between,
            self.false_merges + other.false_merges,
        )

    @property
    def split_rate(self) -> float | None:
        return self.false_splits / self.inside if self.inside else None

    @property
    def merge_rate(self) -> float | None:
        return self.false_merges / self.between if self.between else None

    def to_json(self) -> dict[str, Any]:
        return {
            "inside": self.inside,
            "false_splits": self.false_splits,
            "split_rate": self.split_rate,
            "between": self.between,
            "false_merges": self.false_merges,
            "merge_rate": self.merge_rate,
        }


@dataclass(frozen=True)
class Face:
    """A face with pairs that are split or merged falsely.

    Parameters
    ----------
    axis, position
        The seam's axis, and the first voxel behind it.
    corner
        The first voxel of the face behind the seam.
    false_splits, false_merges
        Pairs.
    """

    axis: int
    position: int
    corner: tuple[int, ...]
    false_splits: int
    false_merges: int

    @property
    def score(self) -> int:
        """How many pairs are wrong."""
        return self.false_splits + self.false_merges


@dataclass(frozen=True)
class SeamScores:
    """Scores at the seams of a grid.

    Parameters
    ----------
    grids, families
        Cell shape of each family of seams, and the pairs at those of its seams that belong to no
        family before it.
    control
        Pairs at planes half-way between seams.
    worst
        Faces with the most wrong pairs.
    axes
        Their letters, such as ``zyx``.
    """

    grids: Mapping[str, tuple[int, ...]]
    families: Mapping[str, PairScores]
    control: PairScores
    worst: tuple[Face, ...]
    axes: str

    @property
    def together(self) -> PairScores:
        """Pairs at all seams."""
        return sum(self.families.values(), PairScores())

    def to_json(self) -> dict[str, Any]:
        """The object ``seams`` of ``stitchsafe evaluate --json``."""
        return {
            "all": self.together.to_json(),
            "control": self.control.to_json(),
            "families": {
                name: {"grid": list(self.grids[name]), **pairs.to_json()}
                for name, pairs in self.families.items()
            },
            "worst": [
                {
                    "axis": self.axes[face.axis],
                    "position": face.position,
                    "corner": list(face.corner),
                    "score": face.score,
                    "false_splits": face.false_splits,
                    "false_merges": face.false_merges,
                }
                for face in self.worst
            ],
        }


class SeamTally:
    """Collects pairs over blocks of a grid, each of which comes once, in any order."""

    def __init__(self, grid: SeamGrid) -> None:
        self.grid = grid
        axes = range(grid.region.ndim)
        self._planes = [
            sorted([*grid.seams(axis).items(), *((at, None) for at in grid.controls(axis))])
            for axis in axes
        ]
        self._bounds = [grid.bounds(axis) for axis in axes]
        self._pairs: dict[str | None, PairScores] = dict.fromkeys(grid.families, PairScores())
        self._pairs[None] = PairScores()
        self._worst: list[Face] = []

    def needed(self, block: Roi) -> Roi:
        """What must be read for a block: one voxel more where it begins, if that is inside."""
        return block.grow([1] * block.ndim, [0] * block.ndim).intersect(self.grid.region)

    def add(self, block: Roi, labels: Labels, truth: Labels) -> None:
        """Count the pairs whose second voxel is in the block.

        Parameters
        ----------
        block
            One of `SeamGrid.blocks`.
        labels, truth
            Over what `needed` says.
        """
        needed = self.needed(block)
        for axis, planes in enumerate(self._planes):
            across = [axis_ for axis_ in range(block.ndim) if axis_ != axis]
            inside = [slice(b - n, None) for b, n in zip(block.offset, needed.offset, strict=True)]
            begin = bisect_left(planes, (block.offset[axis],))
            for position, family in planes[begin : bisect_left(planes, (block.end[axis],))]:
                inside[axis] = slice(
                    position - 1 - needed.offset[axis], position + 1 - needed.offset[axis]
                )
                sides = (np.moveaxis(each[tuple(inside)], axis, 0) for each in (labels, truth))
                pairs, split, merged = _judged(*sides)
                self._pairs[family] += pairs
                if family is not None and (pairs.false_splits or pairs.false_merges):
                    self._rank(axis, position, across, block, split, merged)

    def _rank(
        self, axis: int, position: int, across: list[int], block: Roi, split: Labels, merged: Labels
    ) -> None:
        """Keep the faces of a plane that are among the worst."""
        starts = []
        for other in across:
            bounds = self._bounds[other]
            first = bisect_left(bounds, block.offset[other])
            starts.append(bounds[first : bisect_left(bounds, block.end[other])])
        for index, other in enumerate(across):
            at = np.asarray(starts[index]) - block.offset[other]
            split = np.add.reduceat(split, at, axis=index, dtype=np.int64)
            merged = np.add.reduceat(merged, at, axis=index, dtype=np.int64)
        for face in np.argwhere(split + merged):
            corner = [starts[index][at] for index, at in enumerate(face)]
            corner.insert(axis, position)
            wrong = int(split[tuple(face)]), int(merged[tuple(face)])
            self._worst.append(Face(axis, position, tuple(corner), *wrong))
        if len(self._worst) > 100 * _WORST:
            self._worst = self._ranked()

    def _ranked(self) -> list[Face]:
        ranked = sorted(self._worst, key=lambda face: (-face.score, face.axis, face.corner))
        return ranked[:_WORST]

    def scores(self, axes: str) -> SeamScores:
        """What has been found; `axes` such as ``zyx`` names the axes."""
        return SeamScores(
            grids={name: tuple(cell) for name, cell in self.grid.families.items()},
            families={name: self._pairs[name] for name in self.grid.families},
            control=self._pairs[None],
            worst=tuple(self._ranked()),
            axes=axes,
        )


def _judged(labels: Labels, truth: Labels) -> tuple[PairScores, Labels, Labels]:
    """Pairs of the first and the second plane, and which of them are split and merged falsely."""
    same_label = labels[0] == labels[1]
    inside = (truth[0] == truth[1]) & (truth[0] != 0)
    between = (truth[0] != truth[1]) & (truth[0] != 0) & (truth[1] != 0)
    split = inside & ~same_label
    merged = between & same_label & (labels[0] != 0)
    counts = (int(np.count_nonzero(each)) for each in (inside, split, between, merged))
    return PairScores(*counts), split, merged
