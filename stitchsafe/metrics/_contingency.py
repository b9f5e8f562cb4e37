"""How often each pair of labels occurs together, counted block by block in a sparse table.

Every score of this room is a function of this table, and tables of parts add up, in any order, to
the table of the whole. Memory is that of the pairs that occur, not of the volumes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Contingency"]

Counts = npt.NDArray[np.int64]
Labels = npt.NDArray[Any]


def _empty() -> Counts:
    return np.zeros(0, np.int64)


@dataclass(frozen=True, eq=False)
class Contingency:
    """Sparse table of label pairs; grows by :meth:`add` and :meth:`merge`, which return new tables.

    Parameters
    ----------
    predicted, truth
        The labels of each pair that occurs, sorted by (truth, predicted).
    voxels
        How many voxels carry the pair.
    """

    predicted: npt.NDArray[np.uint64]
    truth: npt.NDArray[np.uint64]
    voxels: Counts

    @classmethod
    def empty(cls) -> Contingency:
        none = np.zeros(0, np.uint64)
        return cls(none, none, _empty())

    @classmethod
    def of(cls, predicted: Labels, truth: Labels) -> Contingency:
        """The table of two label arrays.

        Parameters
        ----------
        predicted, truth
            Whole numbers, not negative, of one shape.

        Raises
        ------
        ValueError
            The shapes differ, or a label is negative or not a whole number.
        """
        if predicted.shape != truth.shape:
            raise ValueError(
                f"labels of shape {predicted.shape} cannot be compared with truth of shape "
                f"{truth.shape}; give both for the same region"
            )
        first, second = _whole(predicted), _whole(truth)
        if first.size == 0:
            return cls.empty()
        names_p, index_p = np.unique(first, return_inverse=True)
        names_t, index_t = np.unique(second, return_inverse=True)
        pairs = index_t.astype(np.int64) * len(names_p) + index_p
        found, voxels = np.unique(pairs, return_counts=True)
        return cls(
            names_p[found % len(names_p)], names_t[found // len(names_p)], voxels.astype(np.int64)
        )

    def add(self, predicted: Labels, truth: Labels) -> Contingency:
        """The table with the voxels of one more block."""
        return self.merge(Contingency.of(predicted, truth))

    def merge(self, other: Contingency) -> Contingency:
        """The table of both parts together."""
        predicted = np.concatenate([self.predicted, other.predicted])
        truth = np.concatenate([self.truth, other.truth])
        voxels = np.concatenate([self.voxels, other.voxels])
        if voxels.size == 0:
            return self
        order = np.lexsort((predicted, truth))
        predicted, truth, voxels = predicted[order], truth[order], voxels[order]
        new = np.ones(len(voxels), bool)
        new[1:] = (predicted[1:] != predicted[:-1]) | (truth[1:] != truth[:-1])
        starts = np.flatnonzero(new)
        return Contingency(predicted[starts], truth[starts], np.add.reduceat(voxels, starts))

    def without_truth(self, label: int = 0) -> Contingency:
        """The table without the voxels whose true label is `label` (0: what is not annotated)."""
        kept = self.truth != np.uint64(label)
        return Contingency(self.predicted[kept], self.truth[kept], self.voxels[kept])

    @property
    def total(self) -> int:
        """Number of voxels."""
        return int(self.voxels.sum())

    def predicted_sizes(self) -> tuple[npt.NDArray[np.uint64], Counts, npt.NDArray[np.intp]]:
        """Labels of the prediction, their voxels, and which of them each pair has."""
        return _sizes(self.predicted, self.voxels)

    def truth_sizes(self) -> tuple[npt.NDArray[np.uint64], Counts, npt.NDArray[np.intp]]:
        """Labels of the truth, their voxels, and which of them each pair has."""
        return _sizes(self.truth, self.voxels)


def _whole(labels: Labels) -> npt.NDArray[np.uint64]:
    flat = labels.reshape(-1)
    if flat.dtype.kind not in "bui":
        raise ValueError(f"labels of type {flat.dtype} are not whole numbers; round them first")
    if flat.dtype.kind == "i" and flat.size and flat.min() < 0:
        raise ValueError(f"the label {flat.min()} is negative; number instances from 1")
    return flat.astype(np.uint64)


def _sizes(
    labels: npt.NDArray[np.uint64], voxels: Counts
) -> tuple[npt.NDArray[np.uint64], Counts, npt.NDArray[np.intp]]:
    names, index = np.unique(labels, return_inverse=True)
    sizes = np.zeros(len(names), np.int64)
    np.add.at(sizes, index, voxels)
    return names, sizes, index
