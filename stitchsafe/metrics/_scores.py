"""Scores of an instance segmentation against the truth, all from one contingency table.

With n_ij the voxels of true instance i and predicted instance j, a_i and b_j their sums, and n the
total:

* *Adapted Rand error* [1]_: precision P = sum n_ij^2 / sum b_j^2, recall R = sum n_ij^2 / sum a_i^2
  (both over unordered pairs of distinct voxels), error = 1 - 2 P R / (P + R). Voxels of true label
  0 do not count.
* *Variation of information* [2]_ in bits: split = H(prediction | truth), merge = H(truth |
  prediction). Its sum is a metric.
* *Average precision* at an IoU threshold t, as [3]_ has it: matched pairs with IoU >= t, one to
  one, TP / (TP + FP + FN). 0 is background on both sides. Above t = 0.5 no instance can have two
  partners; at or below it, the largest matching is found.

.. [1] Arganda-Carreras et al., Frontiers in Neuroanatomy 2015.
.. [2] Meila, COLT 2003.
.. [3] Caicedo et al., Nature Methods 2019.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from stitchsafe.metrics._contingency import Contingency

__all__ = [
    "RandError",
    "VariationOfInformation",
    "adapted_rand_error",
    "average_precision",
    "variation_of_information",
]

_AT_ONCE, _SMALL = 1 << 16, 1 << 23  # so many squares below 2^46 fit into 63 bits together


class RandError(NamedTuple):
    """Adapted Rand error with its precision and recall, each 0 to 1."""

    error: float
    precision: float
    recall: float


class VariationOfInformation(NamedTuple):
    """Conditional entropies in bits: of the prediction given the truth, and the reverse."""

    split: float
    merge: float


def adapted_rand_error(table: Contingency, *, ignore_background: bool = True) -> RandError:
    """Adapted Rand error.

    Parameters
    ----------
    table
        Of the voxels that count.
    ignore_background
        Leave out voxels whose true label is 0.
    """
    if ignore_background:
        table = table.without_truth(0)
    total = table.total
    together = _sum_of_squares(table.voxels) - total
    predicted = _sum_of_squares(table.predicted_sizes()[1]) - total
    truth = _sum_of_squares(table.truth_sizes()[1]) - total
    # A side without any pair can be neither split nor joined wrongly.
    precision = together / predicted if predicted else 1.0
    recall = together / truth if truth else 1.0
    error = 1 - 2 * together / (predicted + truth) if predicted + truth else 0.0
    return RandError(error, precision, recall)


def _sum_of_squares(counts: npt.NDArray[np.int64]) -> int:
    """Exactly: a single square may be beyond 64 bits, so many are not summed in them."""
    total = 0
    for begin in range(0, len(counts), _AT_ONCE):
        part = counts[begin : begin + _AT_ONCE]
        if part.max() < _SMALL:
            total += int(part @ part)
        else:
            total += sum(count * count for count in part.tolist())
    return total


def variation_of_information(
    table: Contingency, *, ignore_background: bool = False
) -> VariationOfInformation:
    """Split and merge errors in bits.

    Parameters
    ----------
    table
        Of the voxels that count.
    ignore_background
        Leave out voxels whose true label is 0; otherwise 0 is a label like any other.
    """
    if ignore_background:
        table = table.without_truth(0)
    total = table.total
    if total == 0:
        return VariationOfInformation(0.0, 0.0)
    _, predicted, of_predicted = table.predicted_sizes()
    _, truth, of_truth = table.truth_sizes()
    share = table.voxels / total
    split = -np.sum(share * np.log2(table.voxels / truth[of_truth]))
    merge = -np.sum(share * np.log2(table.voxels / predicted[of_predicted]))
    return VariationOfInformation(float(split) + 0.0, float(merge) + 0.0)


@dataclass(frozen=True, eq=False)
class _Overlaps:
    """Pairs of instances that share a voxel. Background is none, but counts in their sizes."""

    truth: npt.NDArray[np.intp]
    predicted: npt.NDArray[np.intp]
    iou: npt.NDArray[np.float64]
    n_truth: int
    n_predicted: int


def _overlaps(table: Contingency) -> _Overlaps:
    names_p, sizes_p, index_p = table.predicted_sizes()
    names_t, sizes_t, index_t = table.truth_sizes()
    pair = (table.predicted != 0) & (table.truth != 0)
    i, j, shared = index_t[pair], index_p[pair], table.voxels[pair]
    return _Overlaps(
        truth=i,
        predicted=j,
        iou=shared / (sizes_t[i] + sizes_p[j] - shared),
        n_truth=int(np.count_nonzero(names_t)),
        n_predicted=int(np.count_nonzero(names_p)),
    )


def average_precision(table: Contingency, thresholds: Iterable[float]) -> dict[float, float]:
    """TP / (TP + FP + FN) for each IoU threshold in (0, 1]; 1 where there is no instance at all.

    Raises
    ------
    ValueError
        A threshold is outside (0, 1].
    """
    overlaps = _overlaps(table)
    scores = {}
    for threshold in thresholds:
        if not 0 < threshold <= 1:
            raise ValueError(f"the IoU threshold {threshold} is not in (0, 1]; use 0.5 to 0.9")
        matched = _matches(overlaps, threshold)
        either = overlaps.n_truth + overlaps.n_predicted - matched
        scores[float(threshold)] = matched / either if either else 1.0
    return scores


def _matches(overlaps: _Overlaps, threshold: float) -> int:
    """Size of the largest one-to-one matching of pairs that reach the threshold."""
    good = overlaps.iou >= threshold
    if threshold > 0.5:
        return int(np.count_nonzero(good))
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_bipartite_matching

    rows, columns = overlaps.truth[good], overlaps.predicted[good]
    if rows.size == 0:
        return 0
    shape = (int(rows.max()) + 1, int(columns.max()) + 1)
    graph = csr_array((np.ones(rows.size, np.int8), (rows, columns)), shape=shape)
    return int(np.count_nonzero(maximum_bipartite_matching(graph, perm_type="column") >= 0))
