"""What merged objects are made of: columns that add up over windows, whatever their order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stitchsafe.instances._records import STRAY, Segments
from stitchsafe.instances._settings import LabelSettings

__all__ = ["Objects"]

Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Objects:
    """Objects, or the parts of them that lie in some windows; rows by name.

    Parameters
    ----------
    names
        int64 ``(objects,)``, ascending: the first voxel of each in raster order over the volume.
    voxels
        int64 ``(objects,)``.
    sums
        int64 ``(objects, ndim)``: sum of the voxels' positions in the volume.
    box_begin, box_end
        int64 ``(objects, ndim)``: half-open bounding box in the volume.
    largest, largest_name
        int64 ``(objects,)``: voxels and name of the largest segment; of equal ones the first. A
        stray counts for 0 here: objects with no other segment have `largest` 0.
    modes
        float32 ``(objects, E)``: the mode of that segment.
    """

    names: Int64
    voxels: Int64
    sums: Int64
    box_begin: Int64
    box_end: Int64
    largest: Int64
    largest_name: Int64
    modes: NDArray[np.float32]

    @classmethod
    def of_segments(cls, names: Int64, segments: Segments) -> Objects:
        """The parts of objects that segments are; `names` says of which object each is one."""
        return cls.union(
            [
                cls(
                    names,
                    segments.voxels,
                    segments.sums,
                    segments.box_begin,
                    segments.box_end,
                    np.where(segments.clusters == STRAY, 0, segments.voxels),
                    segments.names,
                    segments.modes,
                )
            ]
        )

    @classmethod
    def union(cls, parts: Iterable[Objects]) -> Objects:
        """Parts of objects put together; rows of the parts may come in any order."""
        known = list(parts)
        listed = [part for part in known if part.count] or known[:1]  # modes of none have no width
        rows = {
            field.name: np.concatenate([getattr(part, field.name) for part in listed])
            for field in fields(cls)
        }
        order = np.lexsort((rows["largest_name"], -rows["largest"], rows["names"]))
        rows = {name: column[order] for name, column in rows.items()}
        starts = np.flatnonzero(np.diff(rows["names"], prepend=-1))
        if not len(starts):
            return cls(**rows)
        summed = {name: np.add.reduceat(rows[name], starts) for name in ("voxels", "sums")}
        summed["box_begin"] = np.minimum.reduceat(rows["box_begin"], starts)
        summed["box_end"] = np.maximum.reduceat(rows["box_end"], starts)
        return cls(**{name: column[starts] for name, column in rows.items()} | summed)

    def among(self, chosen: NDArray[Any]) -> Objects:
        """Some of the rows, by a mask or their places."""
        return Objects(**{field.name: getattr(self, field.name)[chosen] for field in fields(self)})

    @property
    def count(self) -> int:
        return len(self.names)

    def like(self, mode: NDArray[np.float32], settings: LabelSettings) -> NDArray[np.bool_]:
        """Which objects have a mode that unites with another one."""
        squared = np.zeros(self.count)
        if not self.count:  # modes of none have no width
            return squared > 0
        for column, value in zip(
            self.modes.T.astype(np.float64), mode.astype(np.float64), strict=True
        ):
            squared += (column - value) ** 2
        result: NDArray[np.bool_] = np.sqrt(squared) <= settings.merge_distance
        return result

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """All content as plain arrays, for an ``.npz``; `from_arrays` restores it."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Objects:
        """What `to_arrays` gave, among other arrays or alone."""
        return cls(**{field.name: arrays[field.name] for field in fields(cls)})
