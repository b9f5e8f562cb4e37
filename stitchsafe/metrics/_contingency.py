"""How often each pair of labels occurs together, counted block by block in a sparse table.

Every score of this room is a function of this table, and tables of parts add up, in any order, to
the table of the whole. Memory is that of the pairs that occur, not of the volumes.

Labels come in runs, so a block is counted run by run. A :class:`PairCounter` keeps the tables of
many blocks apart as long as they are small beside those before them, as in a sort by merging: a
pair is moved about as often as the number of blocks has binary digits, not once for every block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Contingency", "PairCounter"]

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
        new = first[1:] != first[:-1]
        new |= second[1:] != second[:-1]
        starts = np.concatenate([[0], np.flatnonzero(new) + 1])
        return cls._summed(
            first[starts].astype(np.uint64),
            second[starts].astype(np.uint64),
            np.diff(starts, append=first.size),
        )

    @classmethod
    def _summed(
        cls, predicted: npt.NDArray[np.uint64], truth: npt.NDArray[np.uint64], voxels: Counts
    ) -> Contingency:
        """The table of pairs in any order, of which there is at least one, each once or more."""
        order = _order(predicted, truth)
        predicted, truth = predicted[order], truth[order]
        new = np.ones(len(order), bool)
        new[1:] = predicted[1:] != predicted[:-1]
        new[1:] |= truth[1:] != truth[:-1]
        starts = np.flatnonzero(new)
        return cls(predicted[starts], truth[starts], np.add.reduceat(voxels[order], starts))

    def add(self, predicted: Labels, truth: Labels) -> Contingency:
        """The table with the voxels of one more block."""
        return self.merge(Contingency.of(predicted, truth))

    def merge(self, other: Contingency) -> Contingency:
        """The table of both parts together."""
        if not len(other.voxels):
            return self
        if not len(self.voxels):
            return other
        return Contingency._summed(
            np.concatenate([self.predicted, other.predicted]),
            np.concatenate([self.truth, other.truth]),
            np.concatenate([self.voxels, other.voxels]),
        )

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


class PairCounter:
    """Counts pairs of labels over many blocks, whose order does not matter."""

    def __init__(self) -> None:
        self._parts: list[Contingency] = []

    def add(self, predicted: Labels, truth: Labels) -> None:
        """Count the voxels of one more block; see :meth:`Contingency.of`."""
        self._parts.append(Contingency.of(predicted, truth))
        while len(self._parts) > 1 and 2 * len(self._parts[-1].voxels) >= len(
            self._parts[-2].voxels
        ):
            self._unite()

    def table(self) -> Contingency:
        """The table of all blocks."""
        while len(self._parts) > 1:
            self._unite()
        return self._parts[0] if self._parts else Contingency.empty()

    def _unite(self) -> None:
        last = self._parts.pop()
        self._parts[-1] = self._parts[-1].merge(last)


def _order(
    predicted: npt.NDArray[np.uint64], truth: npt.NDArray[np.uint64]
) -> npt.NDArray[np.intp]:
    """What sorts pairs by (truth, predicted); in one go where both fit into one number."""
    if max(int(predicted.max()), int(truth.max())) >> 32:
        return np.lexsort((predicted, truth))
    return np.argsort((truth << np.uint64(32)) | predicted, kind="stable")


def _whole(labels: Labels) -> Labels:
    flat = labels.reshape(-1)
    if flat.dtype.kind not in "bui":
        raise ValueError(f"labels of type {flat.dtype} are not whole numbers; round them first")
    if flat.dtype.kind == "i" and flat.size and flat.min() < 0:
        raise ValueError(f"the label {flat.min()} is negative; number instances from 1")
    return flat


def _sizes(
    labels: npt.NDArray[np.uint64], voxels: Counts
) -> tuple[npt.NDArray[np.uint64], Counts, npt.NDArray[np.intp]]:
    names, index = np.unique(labels, return_inverse=True)
    sizes = np.zeros(len(names), np.int64)
    np.add.at(sizes, index, voxels)
    return names, sizes, index
