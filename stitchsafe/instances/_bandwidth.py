"""A bandwidth from the points themselves, which order and partition cannot change.

The definition is scikit-learn's ``estimate_bandwidth``: the distance of each point to the n-th
nearest, n being a share of all points (itself among them), averaged. It is taken over a sample:
the 1024 distinct points with the smallest hashes of their values, with how often each occurs. A
point belongs to the sample of a union only if it belongs to that of its part, so samples merge,
bit for bit; with up to 1024 distinct points the sample is all of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stitchsafe.errors import ClusteringError

__all__ = ["PointSample", "estimate_bandwidth"]

SAMPLE_SIZE = 1024
_BATCH = 1 << 18
_LEAST_SHARE = 1 / 1024  # of the largest value: half of what the lattice needs to reach it


@dataclass(frozen=True)
class PointSample:
    """Points chosen by the hash of their values, in order of it.

    Parameters
    ----------
    hashes
        uint64 ``(points,)``.
    points
        float64 ``(points, dimensions)``: distinct.
    counts
        int64 ``(points,)``: how often each occurred.
    largest
        Largest absolute value of any point, whether in the sample or not.
    """

    hashes: NDArray[np.uint64]
    points: NDArray[np.float64]
    counts: NDArray[np.int64]
    largest: float

    @classmethod
    def of_points(cls, points: NDArray[Any]) -> PointSample:
        """The sample of points ``(points, dimensions)``, all finite."""
        parts = []
        for begin in range(0, max(1, len(points)), _BATCH):
            part = np.asarray(points[begin : begin + _BATCH], np.float64) + 0.0  # no negative zero
            ones = np.ones(len(part), np.int64)
            largest = float(np.abs(part).max(initial=0.0))
            parts.append(_smallest(_hashes(part), part, ones, largest))
        return cls.union(parts)

    @classmethod
    def union(cls, samples: Sequence[PointSample]) -> PointSample:
        """The sample of all their points, in whatever order and grouping they come."""
        return _smallest(
            np.concatenate([each.hashes for each in samples]),
            np.concatenate([each.points for each in samples]),
            np.concatenate([each.counts for each in samples]),
            max(each.largest for each in samples),
        )

    def bandwidth(self, quantile: float = 0.3) -> float:
        """The estimate; see :func:`estimate_bandwidth`."""
        if not 0 <= quantile <= 1:
            raise ClusteringError(
                f"the quantile {quantile} is no share of the points; give a number from 0 to 1"
            )
        least = self.largest * _LEAST_SHARE or 1.0
        total = int(self.counts.sum())
        if total == 0:
            return least
        rank = max(1, int(total * quantile))
        reached = []
        for point, count in zip(self.points, self.counts.tolist(), strict=True):
            squares = ((self.points - point) ** 2).sum(axis=1)
            order = np.argsort(squares, kind="stable")
            nth = np.searchsorted(np.cumsum(self.counts[order]), rank)
            reached.append(count * math.sqrt(squares[order[nth]]))
        return max(least, math.fsum(reached) / total)


def estimate_bandwidth(points: NDArray[Any], *, quantile: float = 0.3) -> float:
    """Estimate the bandwidth of mean shift: scikit-learn's rule, whatever the order of points.

    For up to 1024 distinct points this is scikit-learn's value; for more it is that of a sample
    that depends on the values of all points only. Estimates over parts of a volume are made by
    :class:`PointSample`, whose samples merge.

    Parameters
    ----------
    points
        ``(points, dimensions)``, finite.
    quantile
        Share of all points that lie as near as the estimated bandwidth, on average.

    Returns
    -------
    float
        Never below 1/1024 of the largest absolute value, which the lattice could not reach; 1 if
        all values are 0.
    """
    return PointSample.of_points(np.asarray(points)).bandwidth(quantile)


def _smallest(
    hashes: NDArray[np.uint64],
    points: NDArray[np.float64],
    counts: NDArray[np.int64],
    largest: float,
) -> PointSample:
    """Unite equal points and keep those with the smallest hashes."""
    distinct, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    summed = np.zeros(len(distinct), np.int64)
    np.add.at(summed, inverse, counts)
    kept = slice(SAMPLE_SIZE)
    return PointSample(distinct[kept], points[first[kept]], summed[kept], largest)


def _hashes(points: NDArray[np.float64]) -> NDArray[np.uint64]:
    """64 mixed bits of each point's values (the finaliser of splitmix64, once per value)."""
    bits = np.ascontiguousarray(points).view(np.uint64)
    mixed = np.full(len(points), 0x9E3779B97F4A7C15, np.uint64)
    for column in bits.T:
        mixed ^= column
        mixed += np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(30)
        mixed *= np.uint64(0xBF58476D1CE4E5B9)
        mixed ^= mixed >> np.uint64(27)
        mixed *= np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return mixed
