"""Where segments of neighbouring windows touch: counted on the two planes that face each other.

Two windows are neighbours along an axis where the end of one is the beginning of the other and
their cross-sections agree. Voxels touch over faces, so each voxel of one plane touches just the
voxel at the same place of the other.

A segment is named by its first voxel: the index of it in raster order over the volume.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stitchsafe.instances._components import Renaming
from stitchsafe.instances._records import WindowRecord

__all__ = ["Contacts", "touching"]

Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Contacts:
    """Pairs of segments that touch, as columns.

    Parameters
    ----------
    low, high
        int64 ``(pairs,)``: the segments' names, of the window that comes first along the axis and
        of the one after it.
    voxels
        int64 ``(pairs,)``: faces that they share.
    distances
        float64 ``(pairs,)``: between their modes, in units of the embedding. 0 where one adopts the
        other.
    """

    low: Int64
    high: Int64
    voxels: Int64
    distances: NDArray[np.float64]

    @classmethod
    def between(cls, low: WindowRecord, high: WindowRecord, axis: int) -> Contacts:
        """Pairs over the face of two windows, of which `high` begins along `axis` where `low` ends.

        Raises
        ------
        ValueError
            If their cross-sections differ: they are not on one grid.
        """
        labels, voxels = touching(low.high[axis], high.low[axis])
        one, other = labels[:, 0] - 1, labels[:, 1] - 1
        squared = np.zeros(len(labels))
        # Column by column: a fixed order of sums.
        for a, b in zip(low.modes.T, high.modes.T, strict=True):
            squared += (a[one].astype(np.float64) - b[other].astype(np.float64)) ** 2
        return cls(low.first[one], high.first[other], voxels, np.sqrt(squared))

    @classmethod
    def adopting(
        cls, low: WindowRecord, high: WindowRecord, axis: int, adopters: tuple[Renaming, Renaming]
    ) -> Contacts:
        """Pairs over this face of which one is a stray and the other adopts it.

        Parameters
        ----------
        low, high, axis
            As for `between`.
        adopters
            From strays, near the one window and near the other, to the segments that adopt them.
        """
        labels, voxels = touching(low.grown_high[axis], high.grown_low[axis])
        one, other = low.first[labels[:, 0] - 1], high.first[labels[:, 1] - 1]
        chosen = (adopters[0](one) == other) | (adopters[1](other) == one)
        return cls(one, other, voxels, np.zeros(len(voxels))).among(chosen)

    @classmethod
    def concatenate(cls, parts: Iterable[Contacts]) -> Contacts:
        """All pairs of several, in the order given."""
        none = np.zeros(0, np.int64)
        listed = [cls(none, none, none, np.zeros(0)), *parts]
        return cls(
            np.concatenate([part.low for part in listed]),
            np.concatenate([part.high for part in listed]),
            np.concatenate([part.voxels for part in listed]),
            np.concatenate([part.distances for part in listed]),
        )

    def among(self, chosen: NDArray[np.bool_]) -> Contacts:
        """Some of the pairs."""
        return Contacts(
            self.low[chosen], self.high[chosen], self.voxels[chosen], self.distances[chosen]
        )

    @property
    def count(self) -> int:
        return len(self.voxels)


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
