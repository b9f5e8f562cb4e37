"""The instance table, from the columns of segments; no label is read again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stitchsafe.coordinates import Roi
from stitchsafe.instances._merge import Merge
from stitchsafe.instances._records import WindowRecord

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


def instance_table(
    records: Iterable[WindowRecord], merge: Merge, region: Roi | None = None
) -> InstanceTable:
    """Add up segments to instances, window by window.

    Parameters
    ----------
    records
        The windows that were merged, in any order.
    merge
        What became of their segments.
    region
        What was segmented; the whole volume where None.
    """
    voxels = np.zeros(merge.count, np.int64)
    sums = begin = end = np.zeros((merge.count, 0), np.int64)
    for record in records:
        if not sums.shape[1]:
            region = Roi.whole(record.volume_shape) if region is None else region
            sums = np.zeros((merge.count, region.ndim), np.int64)
            begin = np.full_like(sums, np.iinfo(np.int64).max)
            end = np.zeros_like(sums)
        ids = merge.final.lookup(record.key)[1:]
        kept = np.flatnonzero(ids)
        at = ids[kept].astype(np.int64) - 1
        np.add.at(voxels, at, record.voxels[kept])
        np.add.at(sums, at, record.sums[kept])
        np.minimum.at(begin, at, record.box_begin[kept])
        np.maximum.at(end, at, record.box_end[kept])
    assert region is not None, "a merge has at least one window"
    reaches = (begin <= region.offset) | (end >= region.end)
    return InstanceTable(
        ids=np.arange(1, merge.count + 1, dtype=np.int64),
        voxels=voxels,
        centroids=sums / voxels[:, None],
        box_begin=begin,
        box_end=end,
        touches_border=np.asarray(reaches.any(axis=1)),
    )
