"""The instance table, from what objects are made of; no label is read again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stitchsafe.coordinates import Roi
from stitchsafe.instances._objects import Objects

__all__ = ["InstanceTable"]

Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class InstanceTable:
    """One row per instance, by id; some of them, or all.

    Parameters
    ----------
    ids
        int64, consecutive.
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

    @classmethod
    def empty(cls, ndim: int) -> InstanceTable:
        """No rows."""
        none = np.zeros((0, ndim), np.int64)
        return cls(none[:, 0], none[:, 0], none.astype(np.float64), none, none, none[:, 0] > 0)

    @classmethod
    def of_objects(cls, objects: Objects, first: int, region: Roi) -> InstanceTable:
        """Of objects in order of their ids.

        Parameters
        ----------
        objects
            Those that stay.
        first
            The id of the first of them.
        region
            What was segmented.
        """
        begin, end = objects.box_begin, objects.box_end
        reaches = (begin <= region.offset) | (end >= region.end)
        return cls(
            ids=np.arange(first, first + objects.count, dtype=np.int64),
            voxels=objects.voxels,
            centroids=objects.sums / objects.voxels[:, None],
            box_begin=begin,
            box_end=end,
            touches_border=np.asarray(reaches.any(axis=1)),
        )

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
