"""A class map: every voxel labelled by its class, without instances.

Each voxel's class is decided by its own scores alone, so cells need nothing of each other: no
windows, no merging, and what is written is final.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stitchsafe.coordinates import Roi
from stitchsafe.engine import CellRecord, Fields, checksum
from stitchsafe.instances._settings import LabelSettings
from stitchsafe.instances._windows import Inside, read_fields
from stitchsafe.volumes import ArrayStore

__all__ = ["ClassSink", "class_map", "class_type"]


def class_type(classes: int) -> np.dtype[Any]:
    """The smallest type of labels for so many classes, background included."""
    return np.min_scalar_type(classes - 1)


def class_map(
    fields: Fields,
    *,
    settings: LabelSettings,
    nan_is_background: bool = False,
    inside: NDArray[np.bool_] | None = None,
) -> NDArray[Any]:
    """The class with the largest score, of equal ones the lowest.

    Parameters
    ----------
    fields
        By name, ``(classes, *cell)`` the one that is read.
    settings
        Its name.
    nan_is_background
        Give voxels with a score that is NaN or infinite the class 0, rather than refuse.
    inside
        Which voxels a mask holds, of the cell's shape; the others get the class 0. None: all.

    Returns
    -------
    ndarray
        Of `class_type` and the cell's shape.

    Raises
    ------
    InputError
        If the field is missing, or holds NaN.
    """
    arrays, _ = read_fields(fields, settings, nan_is_background=nan_is_background)
    scores = arrays[settings.class_field]
    classes = np.zeros(scores.shape[1:], class_type(len(scores)))
    best = scores[0].copy()  # where a score is NaN, all are 0
    for name in range(1, len(scores)):
        classes[scores[name] > best] = name
        np.maximum(best, scores[name], out=best)
    if inside is not None:
        classes[~inside] = 0
    return classes


class ClassSink:
    """Writes the final labels of a cell.

    Parameters
    ----------
    labels
        Of the volume's shape.
    settings, nan_is_background
        See `class_map`.
    inside
        Which voxels of a cell a mask holds; None without one.
    """

    NAME = "class map"
    """What the ledger calls it; no field has that name."""

    def __init__(
        self,
        labels: ArrayStore,
        settings: LabelSettings,
        *,
        nan_is_background: bool = False,
        inside: Inside | None = None,
    ) -> None:
        self.labels, self.settings, self.inside = labels, settings, inside
        self.nan_is_background = nan_is_background

    def take(self, cell: Roi, fields: Fields) -> CellRecord:
        classes = class_map(
            fields,
            settings=self.settings,
            nan_is_background=self.nan_is_background,
            inside=None if self.inside is None else self.inside(cell),
        )
        return self._write(cell, classes)

    def skip(self, cell: Roi) -> CellRecord:
        return self._write(cell, np.zeros(cell.shape, self.labels.dtype))

    def _write(self, cell: Roi, classes: NDArray[Any]) -> CellRecord:
        self.labels.write(cell, classes)
        return {"checksums": {self.NAME: checksum(classes)}}
