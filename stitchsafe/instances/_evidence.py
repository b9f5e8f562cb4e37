"""Where segments of neighbouring windows touch: counted on the two planes that face each other.

Two windows are neighbours along an axis where the end of one is the beginning of the other and
their cross-sections agree. Voxels touch over faces, so each voxel of one plane touches just the
voxel at the same place of the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from stitchsafe.instances._records import SegmentTable, WindowRecord

__all__ = ["Contacts", "stream_contacts", "touching"]

Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Contacts:
    """Pairs of segments that touch, as columns.

    Parameters
    ----------
    windows
        int64 ``(pairs, 2)``: keys of the two windows, the lower one first.
    labels
        int64 ``(pairs, 2)``: local labels of the two segments.
    voxels
        int64 ``(pairs,)``: faces that they share.
    """

    windows: Int64
    labels: Int64
    voxels: Int64

    @classmethod
    def concatenate(cls, parts: Iterable[Contacts]) -> Contacts:
        """All pairs of several, in the order given."""
        empty = np.zeros((0, 2), np.int64)
        listed = [cls(empty, empty, empty[:, 0]), *parts]
        return cls(
            np.concatenate([part.windows for part in listed]),
            np.concatenate([part.labels for part in listed]),
            np.concatenate([part.voxels for part in listed]),
        )

    @property
    def count(self) -> int:
        return len(self.voxels)

    def rows(self, table: SegmentTable) -> Int64:
        """Row of each segment in `table`, int64 ``(pairs, 2)``."""
        return table.starts[np.searchsorted(table.window_keys, self.windows)] + self.labels - 1


def touching(high: NDArray[np.uint32], low: NDArray[np.uint32]) -> tuple[Int64, Int64]:
    """Pairs of labels that face each other on two planes, ascending, and how often.

    Parameters
    ----------
    high, low
        Labels on the last slice of one window and on the first slice of the next; equal shapes.

    Returns
    -------
    labels
        int64 ``(pairs, 2)``, neither is 0.
    voxels
        int64 ``(pairs,)``.
    """
    if high.shape != low.shape:
        raise ValueError(f"planes {high.shape} and {low.shape} do not face each other")
    both = (high != 0) & (low != 0)
    base = np.int64(low.max(initial=0)) + 1
    pairs, voxels = np.unique(
        high[both].astype(np.int64) * base + low[both].astype(np.int64), return_counts=True
    )
    return np.stack([pairs // base, pairs % base], axis=1), voxels.astype(np.int64)


def stream_contacts(records: Iterable[WindowRecord]) -> Iterator[tuple[WindowRecord, Contacts]]:
    """Each window with its contacts to the windows before it, stripped to what merging needs.

    Planes are held only until the window on their other side has come: memory grows with the
    cross-section of the volume, not with the volume.

    Parameters
    ----------
    records
        In raster order of their windows.

    Raises
    ------
    ValueError
        If cross-sections of two windows at one face differ: they are not on one grid.
    """
    waiting: dict[tuple[int, tuple[int, ...]], tuple[int, NDArray[np.uint32]]] = {}
    for record in records:
        offset, end = record.region.offset, record.region.end
        found = []
        for axis in range(record.region.ndim):
            before = waiting.pop((axis, offset), None)
            if before is not None:
                key, plane = before
                labels, voxels = touching(plane, record.low[axis])
                keys = np.asarray([[key, record.key]], np.int64)
                found.append(Contacts(np.repeat(keys, len(labels), axis=0), labels, voxels))
            if end[axis] < record.volume_shape[axis]:
                beyond = (*offset[:axis], end[axis], *offset[axis + 1 :])
                waiting[axis, beyond] = record.key, record.high[axis]
        none = np.zeros((0, record.region.ndim), np.int64)
        slim = replace(record, low=(), high=(), sums=none, box_begin=none, box_end=none)
        yield slim, Contacts.concatenate(found)
