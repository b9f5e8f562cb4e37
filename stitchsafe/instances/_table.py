"""The instance table, from the columns of segments; no label is read again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stitchsafe.coordinates import Roi
from stitchsafe.instances._merge import Merge
from stitchsafe.instances._records import SegmentTable

__all__ = ["InstanceTable", "instance_table"]

Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class InstanceTable:
    """One row per instance, by id.

    Parameters
    ----------
    ids
        int64, 1 to the number of instances.
    voxels
        int64.
    centroids
        float64 ``(instances, ndim)``: mean position of the voxels' indices in the volume.
    box_begin, box_end
        int64 ``(instances, ndim)``: half-open.
    touches_border
        bool: whether the box reaches the border of the region that was segmented.
    """

    ids: Int64
    voxels: Int64
    centroids: NDArray[np.float64]
    box_begin: Int64
    box_end: Int64
    touches_border: NDArray[np.bool_]

    def columns(self, axes: str) -> dict[str, NDArray[Any]]:
        """Flat columns for CSV and Parquet; `axes` such as ``zyx`` names the spatial ones."""
        flat: dict[str, NDArray[Any]] = {"id": self.ids, "voxels": self.voxels}
        for name, values in (
            ("centroid", self.centroids),
            ("begin", self.box_begin),
            ("end", self.box_end),
        ):
            flat |= {f"{name}_{axis}": values[:, index] for index, axis in enumerate(axes)}
        return flat | {"touches_border": self.touches_border}


def instance_table(table: SegmentTable, merge: Merge, region: Roi | None = None) -> InstanceTable:
    """Add up segments to instances.

    Parameters
    ----------
    table, merge
        Segments and their final ids.
    region
        What was segmented; the whole volume where None.
    """
    region = Roi.whole(table.volume_shape) if region is None else region
    rows = np.flatnonzero(merge.ids)
    at = merge.ids[rows].astype(np.int64) - 1
    ndim = table.sums.shape[1]
    voxels = np.zeros(merge.count, np.int64)
    np.add.at(voxels, at, table.voxels[rows])
    sums = np.zeros((merge.count, ndim), np.int64)
    begin = np.full((merge.count, ndim), np.iinfo(np.int64).max)
    end = np.zeros((merge.count, ndim), np.int64)
    for axis in range(ndim):
        np.add.at(sums[:, axis], at, table.sums[rows, axis])
        np.minimum.at(begin[:, axis], at, table.box_begin[rows, axis])
        np.maximum.at(end[:, axis], at, table.box_end[rows, axis])
    reaches = (begin <= region.offset) | (end >= region.end)
    return InstanceTable(
        ids=np.arange(1, merge.count + 1, dtype=np.int64),
        voxels=voxels,
        centroids=sums / voxels[:, None],
        box_begin=begin,
        box_end=end,
        touches_border=np.asarray(reaches.any(axis=1)),
    )
