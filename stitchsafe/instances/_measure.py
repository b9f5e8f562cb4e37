"""The instance table of final labels, block by block.

Labels come in runs along the last axis; each run adds its length, the sum of its positions and its
ends to its instance's row. Sums are whole numbers, so neither blocks nor their order show.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stitchsafe.coordinates import Roi
from stitchsafe.instances._table import InstanceTable

__all__ = ["LabelMeasures"]

_ROWS = 1 << 16


class LabelMeasures:
    """Collects what the table says of each instance.

    Parameters
    ----------
    count
        The largest id.
    region
        What is labelled; an instance at its border touches the border.
    """

    def __init__(self, count: int, region: Roi) -> None:
        self.region = region
        self._voxels = np.zeros(count, np.int64)
        self._sums = np.zeros((region.ndim, count), np.int64)
        self._begin = np.full((region.ndim, count), np.iinfo(np.int64).max)
        self._end = np.zeros((region.ndim, count), np.int64)

    @staticmethod
    def bytes_per_instance(ndim: int) -> int:
        """Memory of one row."""
        return 8 * (1 + 3 * ndim)

    def add(self, labels: NDArray[Any], offset: tuple[int, ...]) -> None:
        """Measure a block.

        Parameters
        ----------
        labels
            Ids up to `count`, 0 for background.
        offset
            Of the block in the volume.
        """
        flat = labels.reshape(-1)
        new = np.ones(flat.size, bool)
        new[1:] = flat[1:] != flat[:-1]
        new[:: labels.shape[-1]] = True
        starts = np.flatnonzero(new)
        lengths = np.diff(starts, append=flat.size)
        ids = flat[starts]
        shown = np.flatnonzero(ids)
        at, lengths = ids[shown].astype(np.int64) - 1, lengths[shown]
        np.add.at(self._voxels, at, lengths)
        places = np.unravel_index(starts[shown], labels.shape)
        for axis, (place, o) in enumerate(zip(places, offset, strict=True)):
            first = place + o
            along = axis == labels.ndim - 1
            last = first + lengths - 1 if along else first
            np.add.at(self._sums[axis], at, (first + last) * lengths // 2)
            np.minimum.at(self._begin[axis], at, first)
            np.maximum.at(self._end[axis], at, last + 1)

    def tables(self) -> Iterator[InstanceTable]:
        """The instances that have voxels, by id, in portions; one at least, which may be empty."""
        region = self.region
        for row in range(0, max(1, len(self._voxels)), _ROWS):
            rows = row + np.flatnonzero(self._voxels[row : row + _ROWS])
            voxels, begin, end = self._voxels[rows], self._begin[:, rows].T, self._end[:, rows].T
            reaches = (begin <= region.offset) | (end >= region.end)
            yield InstanceTable(
                ids=rows + 1,
                voxels=voxels,
                centroids=self._sums[:, rows].T / voxels[:, None],
                box_begin=begin,
                box_end=end,
                touches_border=np.asarray(reaches.any(axis=1)),
            )
