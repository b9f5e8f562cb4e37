"""How well superpixels follow a segmentation: achievable accuracy, and boundary recall.

References
----------
Stutz, D., Hermans, A., Leibe, B. (2018). Superpixels: An Evaluation of the State-of-the-Art.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from stitchsafe.metrics._contingency import Contingency

__all__ = ["achievable_segmentation_accuracy", "boundary_recall"]

Labels = npt.NDArray[Any]


def _checked(found: Labels, truth: Labels) -> tuple[Labels, Labels]:
    found, truth = np.asarray(found), np.asarray(truth)
    if found.shape != truth.shape or not found.size:
        raise ValueError(
            f"superpixels of shape {found.shape} and truth of shape {truth.shape} cannot be "
            "compared; give two arrays of one shape that hold at least one pixel"
        )
    return found, truth


def achievable_segmentation_accuracy(superpixels: Labels, truth: Labels) -> float:
    """Share of pixels that are right if every superpixel takes the label that it holds most of.

    Parameters
    ----------
    superpixels, truth
        Labels of one shape, with any number of axes; background is a label like any other.

    Returns
    -------
    float
        From 0 to 1, which is 1 exactly where no superpixel crosses a boundary.

    Raises
    ------
    ValueError
        If the shapes differ or are empty.
    """
    found, truth = _checked(superpixels, truth)
    table = Contingency.of(found, truth)
    _, place = np.unique(table.predicted, return_inverse=True)
    most = np.zeros(place.max() + 1, np.int64)
    np.maximum.at(most, place, table.voxels)
    return float(most.sum() / truth.size)


def _boundaries(labels: Labels) -> npt.NDArray[np.bool_]:
    """Pixels one of whose direct neighbours has another label."""
    found = np.zeros(labels.shape, bool)
    for axis in range(labels.ndim):
        rows, marks = np.moveaxis(labels, axis, 0), np.moveaxis(found, axis, 0)
        differs = rows[1:] != rows[:-1]
        marks[1:] |= differs
        marks[:-1] |= differs
    return found


def boundary_recall(superpixels: Labels, truth: Labels, *, tolerance: int | None = None) -> float:
    """Share of the true boundary pixels that have a superpixels' boundary nearby.

    Parameters
    ----------
    superpixels, truth
        Labels of one shape, with any number of axes.
    tolerance
        How far away along every axis it may be; by default 0.0025 of the diagonal, rounded.

    Returns
    -------
    float
        From 0 to 1; NaN where the truth has no boundary.

    Raises
    ------
    ValueError
        If the shapes differ or are empty, or the tolerance is below 0.
    """
    from scipy import ndimage

    found, truth = _checked(superpixels, truth)
    if tolerance is None:
        tolerance = round(0.0025 * math.hypot(*truth.shape))
    if tolerance < 0:
        raise ValueError(f"tolerance {tolerance} is below 0; give a number of pixels")
    wanted = _boundaries(truth)
    if not wanted.any():
        return math.nan
    near = ndimage.maximum_filter(_boundaries(found), size=2 * tolerance + 1, mode="constant")
    return float(near[wanted].mean())
