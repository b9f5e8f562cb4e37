"""Grids and faces as layers that cost no memory: computed for what is in view.

A grid is drawn as lines in a slice, and as the edges of its boxes in 3-D. Faces are drawn in the
colour of their score: as lines where they cross the slice, whole where they lie in it, and as
planes in 3-D. Both are pyramids, as thick at each level as a voxel is there, so that they are seen
however far off one is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt

from stitchsafe.coordinates import Roi, ceil_to
from stitchsafe.napari_plugin._lazy import LazyArray

__all__ = ["FaceScores", "grid_levels", "heat_levels"]

Array = npt.NDArray[Any]
_COARSEST = 192
FAINT, STRONG = 1, 2
"""Values of the lines of a finer and of the coarsest grid."""
NO_SCORE = 0.02
"""Colour of a face without anything to see; 0 is no face."""


def _pyramid(shape: Sequence[int], level: Callable[[int], LazyArray]) -> list[LazyArray]:
    steps = [1]
    while max(shape) / steps[-1] > _COARSEST:
        steps.append(2 * steps[-1])
    return [level(step) for step in steps]


def grid_levels(
    shape: Sequence[int],
    region: Roi,
    grids: Iterable[Sequence[int]],
    origin: Sequence[int] = (),
) -> list[LazyArray]:
    """The seams of some grids, coarser first.

    Parameters
    ----------
    shape
        Of the volume, in voxels.
    region
        Seams are drawn within it.
    grids
        Shapes of the cells.
    origin
        Where a cell begins; that of the volume by default.
    """
    families = list(grids)
    begin = tuple(origin) or (0,) * len(region.shape)

    def level(step: int) -> LazyArray:
        def read(roi: Roi) -> Array:
            drawn = np.zeros(roi.shape, np.uint8)
            inside = [_spans(roi, region, step, axis) for axis in range(roi.ndim)]
            for number, cell in reversed(list(enumerate(families))):
                lines = _lines(roi, step, cell, begin, region, inside)
                drawn[lines] = FAINT if number else STRONG
            return drawn

        return LazyArray([ceil(size / step) for size in shape], np.uint8, read)

    return _pyramid(shape, level)


def _spans(roi: Roi, region: Roi, step: int, axis: int) -> Array:
    """Which elements along an axis lie in the region."""
    first = np.arange(roi.offset[axis], roi.end[axis]) * step
    within: Array = (first + step > region.offset[axis]) & (first < region.end[axis])
    return within


def _lines(
    roi: Roi,
    step: int,
    cell: Sequence[int],
    origin: Sequence[int],
    region: Roi,
    inside: Sequence[Array],
) -> Array:
    """Elements on a seam; of a volume on two, as in 3-D only the edges of boxes let one see in."""
    crossed = []
    for axis, size in enumerate(cell):
        first = np.arange(roi.offset[axis], roi.end[axis]) * step
        at = np.array([ceil_to(int(e) - origin[axis], size) for e in first]) + origin[axis]
        seam = (at < first + step) & (at > region.offset[axis]) & (at < region.end[axis])
        crossed.append(seam)
    seen = [axis for axis in range(roi.ndim) if roi.shape[axis] != 1]
    count = np.zeros(roi.shape, np.uint8)
    for axis in seen:
        count += _along(crossed[axis], axis, roi.ndim)
    within = reduce(np.logical_and, (_along(each, n, roi.ndim) for n, each in enumerate(inside)))
    lines: Array = (count >= (2 if len(seen) > 2 else 1)) & within
    return lines


def _along(values: Array, axis: int, ndim: int) -> Array:
    return values.reshape([-1 if n == axis else 1 for n in range(ndim)])


def _colour(score: Any) -> Any:
    return NO_SCORE + (1 - NO_SCORE) * score


@dataclass(frozen=True)
class _Axis:
    """The faces across one axis, as an array of scores over planes and the cells beside."""

    planes: Array
    begins: tuple[Array, ...]
    ends: tuple[Array, ...]
    scores: Array

    @classmethod
    def of(cls, number: int, corner: Array, shape: Array, score: Array) -> _Axis:
        begins, ends, places = [], [], []
        for other in range(corner.shape[1]):
            unique, first, inverse = np.unique(
                corner[:, other], return_index=True, return_inverse=True
            )
            begins.append(unique)
            ends.append(unique + shape[first, other])
            places.append(inverse.reshape(-1))
        scores = np.zeros([len(each) for each in begins], np.float32)
        np.maximum.at(scores, tuple(places), _colour(score))
        return cls(begins[number], tuple(begins), tuple(ends), scores)


class FaceScores:
    """Scores of faces, found by where a voxel lies.

    Parameters
    ----------
    axis, corner, shape, score
        As the columns of a table of faces; score from 0 to 1.

    Attributes
    ----------
    least
        Faces with a lower score are not drawn.
    """

    def __init__(self, axis: Array, corner: Array, shape: Array, score: Array) -> None:
        self.ndim = corner.shape[1]
        self.least = 0.0
        self._axes: Mapping[int, _Axis] = {
            number: _Axis.of(number, corner[chosen], shape[chosen], score[chosen])
            for number in range(self.ndim)
            if (chosen := axis == number).any()
        }

    def read(self, roi: Roi, step: int) -> Array:
        """The region at a level whose elements are `step` voxels wide: 0 where no face is."""
        drawn = np.zeros(roi.shape, np.float32)
        for number, axis in self._axes.items():
            first = np.arange(roi.offset[number], roi.end[number]) * step
            plane = np.searchsorted(axis.planes, first)
            met = plane < len(axis.planes)
            met[met] = axis.planes[plane[met]] < first[met] + step
            if not met.any():
                continue
            places: list[Array] = []
            outside = np.zeros([1] * roi.ndim, bool)
            for other in range(roi.ndim):
                if other == number:
                    places.append(plane[met])
                    continue
                middle = np.arange(roi.offset[other], roi.end[other]) * step + step // 2
                cell = np.searchsorted(axis.begins[other], middle, side="right") - 1
                beyond = (cell < 0) | (middle >= axis.ends[other][cell.clip(0)])
                places.append(cell.clip(0))
                outside = outside | _along(beyond, other, roi.ndim)
            values = axis.scores[np.ix_(*places)]
            values = np.where(outside | (values < _colour(self.least)), 0, values)
            chosen = tuple(met if n == number else slice(None) for n in range(roi.ndim))
            drawn[chosen] = np.maximum(drawn[chosen], values)
        return drawn


def heat_levels(shape: Sequence[int], faces: FaceScores) -> list[LazyArray]:
    """Faces in the colour of their score, over a volume of this shape."""

    def level(step: int) -> LazyArray:
        return LazyArray(
            [ceil(size / step) for size in shape], np.float32, lambda roi: faces.read(roi, step)
        )

    return _pyramid(shape, level)
